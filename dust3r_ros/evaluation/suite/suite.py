"""Scenes and systems, one process after the other, into rows."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from dust3r_ros.errors import Dust3rRosError
from dust3r_ros.evaluation.report.run_file import Row
from dust3r_ros.evaluation.report.scenes import OURS, POSES
from dust3r_ros.evaluation.scene import find_scenes
from dust3r_ros.evaluation.suite.job import names_of
from dust3r_ros.evaluation.suite.processes import finish
from dust3r_ros.evaluation.suite.pycolmap_peer import measure_pycolmap
from dust3r_ros.evaluation.suite.worlds import WORLDS, write_world

_PACKAGE = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Plan:
    """``scenes`` (folders) and ``systems``, each scene through one system before the next. ``timeout`` (s) ends a
    process, ``budget`` (s) all of them. ``options`` go on to the mapper, ``pycolmap`` is the interpreter that has it.
    """

    scenes: Sequence[Path]
    systems: Sequence[str]
    timeout: float = 300.0
    budget: float = 1200.0
    max_frames: int | None = None
    options: Sequence[str] = ()
    pictures: Path | None = None
    pycolmap: Path | None = None


def systems_of(*, checkpoint: bool, poses: bool, opencv: bool, pycolmap: bool) -> list[str]:
    """What runs, the default backend first, so that it is measured whatever the time."""
    found = [OURS, *(["dust3r"] if checkpoint else []), *([POSES] if poses else []), *(["opencv"] if opencv else [])]
    return [*found, *(["pycolmap"] if pycolmap else [])]


def scenes_at(data: Path | None, worlds: Path | None, only: Sequence[str], say: Callable[[str], object]) -> list[Path]:
    """Folders of the recorded scenes in ``data`` and of the rendered worlds, which are made in ``worlds``; None: none.

    Of these, those whose name contains one of ``only``. What is not there, or cannot be made, is said and left out.
    """
    found: list[Path] = []
    wanted = lambda name: not only or any(part in name for part in only)  # noqa: E731
    if data is not None:
        try:
            found += [path for path in find_scenes([data]) if wanted(path.name)]
        except Dust3rRosError as error:
            say(f"no recorded scenes are measured: {error}")
    for name in WORLDS if worlds is not None else ():
        if not wanted(name):
            continue
        try:
            found.append(write_world(name, worlds))  # type: ignore[arg-type]
        except Dust3rRosError as error:
            say(f"{name} is not measured: {error}")
    return found


def measured(plan: Plan, say: Callable[[str], object] = print) -> Iterator[Row]:
    """The row of every scene and system, as soon as it is there; one that fails is a row with a note."""
    start = perf_counter()
    for system in plan.systems:
        for path in plan.scenes:
            left = plan.budget - (perf_counter() - start)
            begun = perf_counter()
            if left <= 0:
                row = names_of(path, system) | {"note": f"not run: the {plan.budget:.0f} s for all were used up"}
            else:
                row = _row(plan, path, system, min(plan.timeout, left))
            note = f": {row['note']}" if row.get("note") else ""
            say(f"{row['scene']}, {system}: {perf_counter() - begun:.1f} s{note}")
            yield row


def _row(plan: Plan, path: Path, system: str, timeout: float) -> Row:
    if system == "pycolmap":
        if plan.pycolmap is None:
            return names_of(path, system) | {"note": "not run: pycolmap is not installed"}
        try:
            return measure_pycolmap(path, plan.pycolmap, timeout=timeout, max_frames=plan.max_frames)
        except Dust3rRosError as error:
            return names_of(path, system) | {"note": f"failed: {error}"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, "-m", "dust3r_ros.cli.eval", "job", str(path.resolve()), system, str(out)]
        if plan.max_frames:
            command += ["--max-frames", str(plan.max_frames)]
        if plan.pictures is not None:
            command += ["--pictures", str(plan.pictures.resolve())]
        backend = "dust3r" if system == "dust3r" else OURS
        failure = finish([*command, *plan.options, "--backend", backend], timeout, _environment())
        if not failure and out.is_file():
            row: Row = json.loads(out.read_text(encoding="utf-8"))
            return row
    return names_of(path, system) | {"note": f"failed: {failure or 'it left no row'}"}


def _environment() -> dict[str, str]:
    """Python finds this package there, wherever it was started."""
    paths = [str(_PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def pictures_of(folder: Path, rows: Sequence[Row]) -> dict[str, Path]:
    """{title: file} of what the runs drew, in the order of their rows."""
    found: dict[str, Path] = {}
    for row in rows:
        for suffix, what in (("", "trajectory, focal, depth"), ("_map", "map")):
            path = folder / row["system"] / f"{row['scene']}{suffix}.png"
            if path.is_file():
                found[f"{row['scene']}, {row['system']}: {what}"] = path
    return found
