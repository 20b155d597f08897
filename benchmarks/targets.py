"""What benchmarks share: targets, the machine and its load, where and when a table was made, options, how they end."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from dust3r_ros import __version__
from dust3r_ros.errors import Dust3rRosError, InputError
from dust3r_ros.evaluation.report import run_file
from dust3r_ros.io.files import make_folder, replace_between, write_bytes, write_text


def target(
    name: str, measured: float | str | None, limit: str, met: bool | None, note: str = "", unit: str = ""
) -> dict[str, Any]:
    """A row of the table: name, value (None: not measured), target, and whether it is met.

    ``met`` None: could not be judged; ``note`` says why, or what the figure does not cover.
    """
    shown = "not measured" if measured is None else f"{measured:.3g}" if isinstance(measured, float) else str(measured)
    return {"name": name, "measured": f"{shown} {unit}".strip(), "target": limit, "met": met, "note": note}


def target_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a table of ``target`` rows, with what was missed in bold."""
    lines = ["| figure | measured | target |", "| --- | ---: | ---: |"]
    for row in rows:
        shown = f"**{row['measured']}**" if row["met"] is False else row["measured"]
        lines.append(f"| {row['name']} | {shown} | {row['target'] or '–'} |")
    return lines


class Machine(run_file.Machine):
    """The machine, and how much of it other programs used since this object was made."""

    def about(self) -> dict[str, Any]:
        """The evaluation's description of it, and our version."""
        return {"version": __version__, **super().about()}


def where_and_when(about: Mapping[str, Any]) -> str:
    """The line below a table: the machine (``Machine.about``) and today."""
    return f"{about['cores']} cores of {about['processor']}, {datetime.date.today().isoformat()}"


def case_options(description: str | None, name: str) -> argparse.ArgumentParser:
    """Options of a benchmark ``name`` that measures cases, some of them recorded scenes, for a page."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="some of them; 'list' names them")
    parser.add_argument("--data", type=Path, default=root / "../shared/data", help="folder of recorded scenes")
    parser.add_argument("--out", type=Path, default=root / "results" / name)
    parser.add_argument("--page", type=Path, help="page whose table is replaced, with a picture beside it")
    return parser


def chosen_cases(wanted: Sequence[str] | None, known: Collection[str]) -> list[str]:
    """The names asked for, or all. Raises ``InputError`` for one that is not known."""
    for name in wanted or ():
        if name not in known:
            raise InputError(f"there is no case '{name}'; there are {', '.join(known)}")
    return list(wanted or known)


def show_on_page(page: Path, markers: tuple[str, str], table: str, picture: Path | None = None) -> None:
    """Replace a page's table between its markers, and the ``picture`` of that name in the folder beside it."""
    replace_between(page, *markers, table)
    if picture is not None:
        write_bytes(page.parent / "pictures" / picture.name, picture.read_bytes())


def leave(
    path: Path,
    report: Mapping[str, Any],
    table: str,
    page: Path | None,
    markers: tuple[str, str],
    picture: Path | None = None,
) -> None:
    """Write ``report`` as JSON to ``path``, print the table, and show it on the ``page``, if there is one."""
    make_folder(path.parent)
    write_text(path, json.dumps(report, indent=1) + "\n")
    print(table)
    if page is not None:
        show_on_page(page, markers, table, picture)


def errors_said(name: str, *more: type[Exception]) -> Callable[[Callable[[], int]], Callable[[], int]]:
    """Decorates ``main`` of the benchmark ``name``: of our errors, and ``more``, users see one line; exit code 1."""

    def decorate(main: Callable[[], int]) -> Callable[[], int]:
        @wraps(main)
        def guarded() -> int:
            try:
                return main()
            except (Dust3rRosError, *more) as error:
                print(f"{name}: error: {error}", file=sys.stderr)
                return 1

        return guarded

    return decorate
