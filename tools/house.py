"""Counts what keeps the house easy to find one's way in: modules, long functions, branching ones, large classes.

python tools/house.py [--list]
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SMALL, LONG, BRANCHING, LARGE = 50, 40, 10, 20  # lines of a module and of a function, ways through one, methods
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.comprehension)


class Figure(NamedTuple):
    """What is counted, how many there should be at most, and what was found: size and place."""

    name: str
    most: int | None
    found: list[tuple[int, str]]


def figures(package: Path) -> list[Figure]:
    """Figures of all modules below ``package``."""
    modules, functions, ways, methods, twice = [], [], [], [], []
    for path in sorted(package.rglob("*.py")):
        text, place = path.read_text(encoding="utf-8"), path.relative_to(package).as_posix()
        modules.append((len(text.splitlines()), place))
        tree = ast.parse(text)
        twice += [(count, f"{place} {name}") for name, count in bound(tree).items() if count > 1]
        for node in ast.walk(tree):
            if isinstance(node, _FUNCTIONS):
                functions.append(((node.end_lineno or 0) - node.lineno + 1, f"{place} {node.name}"))
                ways.append((complexity(node), f"{place} {node.name}"))
            elif isinstance(node, ast.ClassDef):
                methods.append((sum(isinstance(part, _FUNCTIONS) for part in node.body), f"{place} {node.name}"))
    small = [(lines, place) for lines, place in modules if lines < SMALL and not place.endswith("__init__.py")]
    return [
        Figure("modules", 340, modules),
        Figure(f"modules below {SMALL} lines, __init__ aside", 5, small),
        Figure(f"functions above {LONG} lines", 16, _above(LONG, functions)),
        Figure(f"functions with a complexity above {BRANCHING}", 40, _above(BRANCHING, ways)),
        Figure(f"classes with more than {LARGE} methods", None, _above(LARGE, methods)),
        Figure("constants of a module that are bound twice", 0, twice),
    ]


def bound(module: ast.Module) -> Counter[str]:
    """How many times a module binds each of its constants: the second value also holds for functions before it."""
    found = [target for node in module.body if isinstance(node, ast.Assign) for target in node.targets]
    names = [
        part.id
        for target in found
        for part in ast.walk(target)
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    ]
    return Counter(name for name in names if name.isupper())


def complexity(function: ast.AST) -> int:
    """Ways through a function (McCabe 1976): 1, and 1 for each branch, loop, condition of a comprehension and further
    operand of ``and`` and ``or``. A function inside counts on its own.
    """
    return 1 + sum(map(_ways, _own(function)))


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, but not those of functions inside."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, _FUNCTIONS):
            yield from _own(child)


def _ways(node: ast.AST) -> int:
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    return isinstance(node, _BRANCHES) + len(getattr(node, "ifs", ()))


def _above(limit: int, sizes: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    return sorted((size for size in sizes if size[0] > limit), reverse=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 1 when there are more of something than there should be, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name what was counted, too")
    arguments, over = parser.parse_args(argv), False
    for figure in figures(ROOT / "dust3r_ros"):
        count, limit = len(figure.found), "" if figure.most is None else f", at most {figure.most}"
        over = over or (figure.most is not None and count > figure.most)
        print(f"{figure.name}: {count}{limit}")
        if arguments.list and figure.name != "modules":
            print("".join(f"  {size:4} {place}\n" for size, place in figure.found), end="")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
