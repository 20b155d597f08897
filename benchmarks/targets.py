"""What benchmarks share: targets, the machine and its load, where and when a table was made, options, how they end."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dust3r_ros import __version__
from dust3r_ros.errors import Dust3rRosError, InputError
from dust3r_ros.evaluation.report import run_file
from dust3r_ros.evaluation.report.metrics import table_lines
from dust3r_ros.io.files import make_folder, replace_between, write_bytes, write_text
from dust3r_ros.types import Array

T = TypeVar("T")


def shown(measured: float | str | None) -> str:
    """A value as the tables show it."""
    return "not measured" if measured is None else f"{measured:.3g}" if isinstance(measured, float) else str(measured)


def target(
    name: str, measured: float | str | None, limit: str, met: bool | None, note: str = "", unit: str = ""
) -> dict[str, Any]:
    """A row of the table: name, value (None: not measured), target, and whether it is met.

    ``met`` None: could not be judged; ``note`` says why, or what the figure does not cover.
    """
    return {"name": name, "measured": f"{shown(measured)} {unit}".strip(), "target": limit, "met": met, "note": note}


def measured_shown(row: Mapping[str, Any]) -> str:
    """The value of a ``target`` row, bold if it was missed."""
    return f"**{row['measured']}**" if row["met"] is False else str(row["measured"])


def target_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a table of ``target`` rows, with what was missed in bold."""
    cells = ((row["name"], measured_shown(row), row["target"] or "–") for row in rows)
    return table_lines(("figure", "measured", "target"), cells)


Z_HEAD = ("of deviations below 1 (68 %)", "below 2 (95 %)", "largest")


def z_cells(z: Array) -> tuple[str, str, str]:
    """How errors (N,), in their deviations and without signs, are distributed: the cells below ``Z_HEAD``."""
    return f"{np.mean(z < 1):.0%}", f"{np.mean(z < 2):.0%}", f"{np.max(z):.1f}"


class Machine(run_file.Machine):
    """The machine, and how much of it other programs used since this object was made."""

    def about(self) -> dict[str, Any]:
        """The evaluation's description of it, and our version."""
        return {"version": __version__, **super().about()}


def where_and_when(about: Mapping[str, Any]) -> str:
    """The line below a table: the machine (``Machine.about``) and today."""
    return f"{about['cores']} cores of {about['processor']}, {datetime.date.today().isoformat()}"


def processor_s(root: int) -> dict[int, tuple[float, float]]:
    """Processor seconds so far, its own and its ended children's, of a process and of all below it (Linux)."""
    parents, used, ticks = {}, {}, os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words, pid = path.read_text().rpartition(")")[2].split(), int(path.parent.name)
            user, system, *ended = map(int, words[11:15])
            parents[pid], used[pid] = int(words[1]), ((user + system) / ticks, sum(ended) / ticks)
    found, more = set[int](), {root} & parents.keys()
    while more:
        found |= more
        more = {pid for pid, parent in parents.items() if parent in more} - found
    return {pid: used[pid] for pid in found}


def case_options(description: str | None, name: str) -> argparse.ArgumentParser:
    """Options of a benchmark ``name`` that measures cases, some of them recorded scenes, for a page."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="some of them; 'list' names them")
    parser.add_argument("--data", type=Path, default=root / "../shared/data", help="folder of recorded scenes")
    parser.add_argument("--out", type=Path, default=root / "results" / name)
    parser.add_argument("--page", type=Path, help="page whose table is replaced, with a picture beside it")
    parser.set_defaults(benchmark=name)
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
    page: Path | None = None,
    markers: tuple[str, str] = ("", ""),
    picture: Path | None = None,
) -> None:
    """Write ``report`` as JSON to ``path``, print the table, and show it on the ``page``, if there is one."""
    make_folder(path.parent)
    write_text(path, json.dumps(report, indent=1) + "\n")
    print(table)
    if page is not None:
        show_on_page(page, markers, table, picture)


def run_cases(
    arguments: argparse.Namespace,
    known: Collection[str],
    measured: Callable[[list[str]], Iterable[T]],
    said: Callable[[T], str],
    table: Callable[[list[T], dict[str, Any]], str],
    *,
    markers: tuple[str, str] | None = None,
    plot: Callable[[list[T], Path], None] | None = None,
    picture: str = ".png",
    as_row: Callable[[T], dict[str, Any]] = asdict,
) -> list[T]:
    """Measure the ``known`` cases that ``case_options`` ask for, and leave report, table and picture; or list them.

    ``measured`` yields what came of the cases with these names, ``said`` tells each as it comes. Raises ``InputError``
    for a case that is not known.
    """
    if arguments.cases == ["list"]:
        print("\n".join(known))
        return []
    names, machine, results = chosen_cases(arguments.cases, known), Machine(), list[T]()
    stem = make_folder(arguments.out) / arguments.benchmark
    for result in measured(names):
        results.append(result)
        print(said(result), flush=True)
    about, drawn = machine.about(), stem.with_suffix(picture) if plot else None
    if plot and drawn:
        plot(results, drawn)
    report = {"rows": list(map(as_row, results)), "machine": about}
    page = arguments.page if markers else None
    leave(stem.with_suffix(".json"), report, table(results, about), page, markers or ("", ""), drawn)
    return results


def errors_said(name: str, *more: type[Exception], code: int = 1) -> Callable[[Callable[[], int]], Callable[[], int]]:
    """Decorates ``main`` of the benchmark ``name``: of our errors, and ``more``, users see one line; exit ``code``."""

    def decorate(main: Callable[[], int]) -> Callable[[], int]:
        @wraps(main)
        def guarded() -> int:
            try:
                return main()
            except (Dust3rRosError, *more) as error:
                print(f"{name}: error: {error}", file=sys.stderr)
                return code

        return guarded

    return decorate
