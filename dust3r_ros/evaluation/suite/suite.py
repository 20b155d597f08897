"""Scenes and systems, one process after the other, into rows."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from dust3r_ros.errors import Dust3rRosError
from dust3r_ros.evaluation.report.published import BACKENDS, COLMAP, COLMAP_METHODS, OURS, POSES, PROTOCOL, WEIGHTS
from dust3r_ros.evaluation.report.run_file import Row
from dust3r_ros.evaluation.scene import find_scenes, image_files
from dust3r_ros.evaluation.suite.job import names_of
from dust3r_ros.evaluation.suite.peers import finish, measure_pycolmap
from dust3r_ros.evaluation.suite.protocol_job import protocols_of
from dust3r_ros.evaluation.suite.worlds import WORLDS, write_world

_PACKAGE = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Plan:
    """``scenes`` (folders) and ``systems``, each scene through one system before the next. ``timeout`` (s) limits a
    process, or one of pycolmap's methods, ``budget`` (s) all of them. ``protocols``: also run the literature's on every
    scene whose truth allows it. ``options`` are passed to the mapper; ``pycolmap``: the interpreter that has it.
    """

    scenes: Sequence[Path]
    systems: Sequence[str]
    timeout: float = 300.0
    budget: float = 1770.0
    max_frames: int | None = None
    protocols: bool = False
    options: Sequence[str] = ()
    pictures: Path | None = None
    pycolmap: Path | None = None


def systems_of(*, checkpoint: bool, poses: bool, opencv: bool, pycolmap: bool) -> list[str]:
    """The systems to run, the default backend first, so that it is measured even if time runs out."""
    found = [OURS, *([WEIGHTS] if checkpoint else []), *([POSES] if poses else []), *(["opencv"] if opencv else [])]
    return [*found, *([COLMAP] if pycolmap else [])]


def scenes_at(data: Path | None, worlds: Path | None, only: Sequence[str], say: Callable[[str], object]) -> list[Path]:
    """Folders of the recorded scenes in ``data`` and of the rendered worlds, which are made in ``worlds``; None: none.

    Only those whose name contains one of ``only``. What is missing or cannot be made is reported and left out.
    """

    def wanted(name: str) -> bool:
        return not only or any(part in name for part in only)

    found = [] if data is None else [path for path in _recorded(data, say) if wanted(path.name)]
    return found if worlds is None else [*found, *_rendered(filter(wanted, WORLDS), worlds, say)]


def _recorded(data: Path, say: Callable[[str], object]) -> list[Path]:
    try:
        return find_scenes([data])
    except Dust3rRosError as error:
        say(f"no recorded scene is measured: {error}")
    return []


def _rendered(names: Iterable[str], folder: Path, say: Callable[[str], object]) -> list[Path]:
    """The worlds of these names, made in ``folder``."""
    found: list[Path] = []
    for name in names:
        try:
            found.append(write_world(name, folder))
        except Dust3rRosError as error:
            say(f"{name} is not measured: {error}")
    return found


@dataclass(frozen=True)
class Task:
    """A scene through a system; ``protocols``: measured by these of the literature instead of as a map.

    The system "pycolmap" gives a row for each of its methods.
    """

    path: Path
    system: str
    protocols: tuple[str, ...] = ()

    def lost(self, why: str, rows: Sequence[Row] = ()) -> list[Row]:
        """``rows``, plus a row with the reason for each one that is missing."""
        systems = COLMAP_METHODS if self.system == COLMAP else (self.system,)
        asked = [(system, name) for system in systems for name in self.protocols or (PROTOCOL,)]
        missing = [names for names in asked if names not in {(row["system"], row["protocol"]) for row in rows}]
        return [*rows, *(names_of(self.path, name[0]) | {"protocol": name[1], "note": why} for name in missing)]


def tasks_of(plan: Plan) -> list[Task]:
    """The tasks in running order: ours before peers, and each peer's quick scenes before its long ones, so that least
    is lost when time runs out.
    """
    found: list[Task] = []
    by_length = sorted(plan.scenes, key=_frames)
    for system in plan.systems:
        found += [Task(path, system) for path in (by_length if system in (COLMAP, "opencv") else plan.scenes)]
        if plan.protocols and system in (OURS, WEIGHTS):
            asked = ((path, tuple(protocols_of(path))) for path in plan.scenes)
            found += [Task(path, system, names) for path, names in asked if names]
    return found


def _frames(path: Path) -> int:
    try:
        return len(image_files(path))
    except Dust3rRosError:
        return 0


def measured(plan: Plan, say: Callable[[str], object] = print, start: float | None = None) -> Iterator[Row]:
    """The rows of every task as soon as they exist; a task that fails gives a row with a note.

    The budget counts from ``start`` (``perf_counter``), now by default.
    """
    start = perf_counter() if start is None else start
    for task in tasks_of(plan):
        left = plan.budget - (perf_counter() - start)
        begun = perf_counter()
        if left <= 0:
            rows = task.lost(f"not run: the budget of {plan.budget:.0f} s was used up")
        else:
            rows = _rows(plan, task, left)
        what = f"{task.path.name}, {task.system}" + f", {len(task.protocols)} protocols" * bool(task.protocols)
        notes = "; ".join(dict.fromkeys(str(row["note"]) for row in rows if row.get("note")))
        say(f"{what}: {perf_counter() - begun:.1f} s{': ' if notes else ''}{notes}")
        yield from rows


def _rows(plan: Plan, task: Task, left: float) -> list[Row]:
    """The rows of a task that has ``left`` seconds; each of pycolmap's methods may take as long as another process."""
    if task.system == COLMAP:
        if plan.pycolmap is None:
            return task.lost("not run: pycolmap is not installed")
        try:
            rows = measure_pycolmap(
                task.path, plan.pycolmap, timeout=left, limit=plan.timeout, max_frames=plan.max_frames
            )
        except Dust3rRosError as error:
            return task.lost(f"failed: {error}")
        return task.lost(f"failed: stopped with what was left of the budget, {left:.0f} s", rows)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "dust3r_ros.cli.eval", "job", str(task.path.resolve()), task.system, str(out)]
        if task.protocols:
            command += ["--protocols", *task.protocols]
        if plan.max_frames:
            command += ["--max-frames", str(plan.max_frames)]
        if plan.pictures is not None:
            command += ["--pictures", str(plan.pictures.resolve())]
        backend = task.system if task.system in BACKENDS else OURS
        failure = finish([*command, *plan.options, "--backend", backend], min(plan.timeout, left), _environment())
        rows = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else []
    return task.lost(f"failed: {failure or 'it left no row'}", rows)


def _environment() -> dict[str, str]:
    """The environment in which Python finds this package from any working directory."""
    paths = [str(_PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def pictures_of(folder: Path, rows: Sequence[Row]) -> dict[str, Path]:
    """{title: file} of the runs' pictures, in the order of their rows."""
    found: dict[str, Path] = {}
    for row in rows:
        for suffix, what in (("", "trajectory, focal, depth"), ("_map", "map")):
            path = folder / row["system"] / f"{row['scene']}{suffix}.png"
            if path.is_file():
                found[f"{row['scene']}, {row['system']}: {what}"] = path
    return found
