"""The arrows between the parts of the package point one way, and heavy imports stay where they belong."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dust3r_ros"
MAX_LINES = 450

# From the leaves up: folders, and what lies beside them. Each imports what is in its own layer and below.
LAYERS = (
    ("errors", "types", "timing"),
    ("config", "geometry", "network"),
    ("features", "cloud", "occupancy", "sensors", "world"),
    ("tracking", "backends", "io"),
    ("sparse", "layouts", "scenes"),
    ("alignment",),
    ("depth",),
    ("mapping",),
    ("storage",),
    ("session", "products"),
    ("evaluation", "fleet", "node"),
    ("training",),
    ("cli",),
)
LAYER = {part: height for height, parts in enumerate(LAYERS) for part in parts}
# Neighbours that must not know each other all the same.
STRANGERS = (
    ("cli", "node"),
    ("node", "cli"),
    ("node", "evaluation"),
    ("node", "training"),
    ("network", "alignment"),
    ("network", "backends"),
    ("backends", "alignment"),
)
ROS = (
    "ament_index_python",
    "builtin_interfaces",
    "cv_bridge",
    "dust3r_ros.msg",
    "dust3r_ros.srv",
    "launch",
    "launch_ros",
    "message_filters",
    "rcl_interfaces",
    "rclpy",
    "sensor_msgs_py",
    "std_srvs",
    "tf2_ros",
    "tf_transformations",
)
TORCH_HOMES = ("network/", "training/", "backends/dust3r.py", "alignment/batch/gradient")


class Import(NamedTuple):
    """``module`` is imported by the file at ``path`` (relative to the package) in line ``line``.

    ``at_start`` is false for an import inside a function or for the type checker only.
    """

    path: str
    line: int
    module: str
    at_start: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def _module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = {_module_of(path): path for path in SOURCES}


def _names(node: ast.Import | ast.ImportFrom, path: Path) -> Iterator[str]:
    """Modules a statement imports; ``from package import module`` names the module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        package = _module_of(path).split(".")
        package = package if path.name == "__init__.py" else package[:-1]
        base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        yield inner if inner in MODULES or inner in ("dust3r_ros.msg", "dust3r_ros.srv") else base


def _is_for_type_checker(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _walk(node: ast.AST, path: Path, at_start: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue  # no import is part of one
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            for name in _names(child, path):
                yield Import(path.relative_to(PACKAGE).as_posix(), child.lineno, name, at_start)
        later = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or _is_for_type_checker(child)
        yield from _walk(child, path, at_start and not later)


@lru_cache(maxsize=1)
def _imports() -> list[Import]:
    return [found for path in SOURCES for found in _walk(ast.parse(path.read_text(encoding="utf-8")), path, True)]


def _part(module: str) -> str:
    """The folder, or what lies beside folders: ``dust3r_ros.io.files`` and ``io/files.py`` are of the part ``io``."""
    return module.removeprefix("dust3r_ros").strip("./").replace("/", ".").removesuffix(".py").split(".")[0]


def _own() -> Iterator[tuple[Import, str, str]]:
    """Imports of the package's own parts by each other: the import, who, whom."""
    for found in _imports():
        if found.module.startswith("dust3r_ros.") and found.path != "__init__.py":
            who, whom = _part(found.path), _part(found.module)
            if whom not in ("msg", "srv", who):
                yield found, who, whom


def test_the_walk_sees_imports_of_every_kind() -> None:
    """Guards the tests below against an empty walk."""
    assert any(found.module == "numpy" and found.at_start for found in _imports())
    assert any(found.module == "torch" and not found.at_start for found in _imports())
    assert {"mapping", "node", "cli", "io"} <= {who for _, who, _ in _own()}


def test_every_part_has_a_layer() -> None:
    parts = {_part(path.relative_to(PACKAGE).as_posix()) for path in SOURCES} - {"__init__"}
    assert parts - LAYER.keys() == set(), "say in LAYERS where the part stands"


def test_arrows_point_down() -> None:
    wrong = [str(found) for found, who, whom in _own() if LAYER[whom] > LAYER[who] or (who, whom) in STRANGERS]
    assert wrong == []


def test_no_import_cycle() -> None:
    """Late imports count, too: modules that need each other are one idea. The package's exports are for its users."""
    graph = {module: set[str]() for module in MODULES}
    for found in _imports():
        if found.module in MODULES and found.path != "__init__.py":
            graph[_module_of(PACKAGE / found.path)].add(found.module)
    while leaves := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert sorted(graph) == []


def test_only_the_node_knows_ros() -> None:
    def is_ros(module: str) -> bool:
        return module.split(".")[0].endswith("_msgs") or any(f"{module}.".startswith(f"{name}.") for name in ROS)

    seen = [found for found in _imports() if is_ros(found.module)]
    assert any(found.module == "rclpy" for found in seen)
    assert [str(found) for found in seen if not found.path.startswith("node/")] == []


def test_only_the_mapper_knows_the_kinds_of_map() -> None:
    """All others see a ``Submap``."""
    kinds = ("dust3r_ros.mapping.landmark_map", "dust3r_ros.mapping.pointmap_map")
    assert {found.path for found in _imports() if found.module in kinds} == {"mapping/mapper.py"}


def test_torch_stays_in_its_homes() -> None:
    seen = [
        found for found in _imports() if found.module.split(".")[0] in ("torch", "torchvision", "timm", "safetensors")
    ]
    assert any(found.path.startswith("network/") for found in seen)
    assert [str(found) for found in seen if not found.path.startswith(TORCH_HOMES)] == []


# Calls that tell the time of day, which can be set while a program runs.
SETTABLE = re.compile(r"\b(time\.time|time_ns|datetime\.(now|today|utcnow)|date\.today|localtime|gmtime|ctime)\(")


def test_no_clock_that_can_be_set_is_read_outside_the_node() -> None:
    """Periods come from the steady clock; the node's own stamps from ROS's clock, in two modules."""
    assert SETTABLE.search("now = time.time()") and not SETTABLE.search("time.monotonic() and self.now()")
    found = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in SOURCES}
    assert [path for path, text in found.items() if SETTABLE.search(text) or "from time import time\n" in text] == []
    assert {path for path, text in found.items() if "get_clock()" in text} == {
        "node/node.py",
        "node/tf_output.py",
    }


def test_nothing_else_lies_flat() -> None:
    flat = {path.stem for path in PACKAGE.glob("*.py")}
    assert flat == {"__init__", *LAYERS[0]}


def test_modules_stay_small() -> None:
    lines = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


@pytest.mark.parametrize("module", ["dust3r_ros.mapping.mapper", "dust3r_ros.backends.two_view", "dust3r_ros.cli.map"])
def test_the_light_parts_start_light(module: str) -> None:
    """In a fresh interpreter, neither torch nor ROS is loaded."""
    code = f"import sys, {module}; print(sorted({{'torch', 'rclpy', 'std_msgs', 'matplotlib'}} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
