"""Scenes and systems, each in its own process, into rows: one after the other, or as tasks of a cluster."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from dust3r_ros import __version__
from dust3r_ros.errors import Dust3rRosError
from dust3r_ros.evaluation.report.published import BACKENDS, COLMAP, COLMAP_METHODS, OURS, POSES, PROTOCOL, WEIGHTS
from dust3r_ros.evaluation.report.run_file import Row
from dust3r_ros.evaluation.scene import find_scenes, image_files
from dust3r_ros.evaluation.suite.job import names_of, protocols_of
from dust3r_ros.evaluation.suite.peers import finish, measure_pycolmap
from dust3r_ros.evaluation.suite.worlds import WORLDS, write_world
from dust3r_ros.fleet.cluster import Cluster, connected, need_ray, run
from dust3r_ros.fleet.recordings import FAILED, MAPPED, Job, Record, fingerprint, is_done, read_record, request_of

_PACKAGE = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Plan:
    """``scenes`` (folders) and ``systems``, each scene through one system before the next. ``timeout`` (s) limits a
    process, or one of pycolmap's methods, ``budget`` (s) all of them. ``protocols``: also run the literature's on every
    scene whose truth allows it. ``options`` are passed to the mapper; ``pycolmap``: the interpreter that has it.
    ``one_thread``: for ours.
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
    one_thread: bool = False


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

    def summary(self, seconds: float, rows: Sequence[Row]) -> str:
        """A line about its rows."""
        what = f"{self.path.name}, {self.system}" + f", {len(self.protocols)} protocols" * bool(self.protocols)
        notes = "; ".join(dict.fromkeys(str(row["note"]) for row in rows if row.get("note")))
        return f"{what}: {seconds:.1f} s{': ' if notes else ''}{notes}"


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
        say(task.summary(perf_counter() - begun, rows))
        yield from rows


def measured_on(
    cluster: Cluster,
    plan: Plan,
    folder: Path,
    depends: Mapping[str, Any],
    *,
    again: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    say: Callable[[str], object] = print,
) -> list[Row]:
    """As ``measured``, the rows in the same order, by tasks of a Ray cluster: a process with one thread per scene and
    system, several at a time. All nodes see scenes and ``folder`` under the same paths.

    Each task leaves its rows in ``folder``; those of an earlier request are taken unless ``again``, if they did not
    fail and scene, options, version and what they ``depend`` on are unchanged. What is not begun or not finished when
    the budget is used up, or when ``stopped``, gives rows that say so. Raises ``ConfigError``, ``BackendError``.
    """
    start = perf_counter()
    plan = replace(plan, scenes=[path.absolute() for path in plan.scenes], one_thread=True)
    if plan.pictures is not None:
        plan = replace(plan, pictures=plan.pictures.absolute())
    tasks = tasks_of(plan)
    jobs = [_job(plan, tasks[place], folder.absolute(), depends, len(tasks) - place) for place in range(len(tasks))]
    records = {job.name: read_record(job.folder) for job in jobs}
    todo = [job for job in jobs if again or not is_done(job, records[job.name])]
    named = {job.name: task for job, task in zip(jobs, tasks, strict=True)}
    say(f"{len(jobs) - len(todo)} of {len(jobs)} tasks are finished already")
    records.update({job.name: None for job in todo})

    def late() -> bool:
        return perf_counter() - start > plan.budget

    def ended(job: Job, record: Record) -> None:
        records[job.name] = record
        say(named[job.name].summary(record.figures.get("seconds", 0.0), _rows_in(record, named[job.name])))

    if todo and not (stopped() or late()):
        need_ray(cluster)
        with connected(cluster):
            work = partial(_run_task, plan, named)
            run(todo, work, cluster, lambda: stopped() or late(), ended, lambda progress: None)
    why = "not run: interrupted" if stopped() else f"not run: the budget of {plan.budget:.0f} s was used up"
    found: list[Row] = []
    for job, task in zip(jobs, tasks, strict=True):
        record = records[job.name]
        found += task.lost(why) if record is None else _rows_in(record, task)
    return found


def _job(plan: Plan, task: Task, folder: Path, depends: Mapping[str, Any], rank: int) -> Job:
    """A task as a job of the fleet; those of a higher ``rank`` are begun first."""
    name = re.sub(r"[^\w.-]+", "_", " ".join([task.path.name, task.system, *["protocols"] * bool(task.protocols)]))
    options = {"system": task.system, "protocols": task.protocols, "max_frames": plan.max_frames, **depends}
    request = request_of(fingerprint(task.path)[0], options, __version__)
    return Job(name, str(task.path), str(folder / name), request, rank)


def _run_task(plan: Plan, tasks: Mapping[str, Task], job: Job, tick: Callable[[int, int], None]) -> Record:
    """Measure one task; in a process of the cluster."""
    begun = perf_counter()
    rows = _rows(plan, tasks[job.name], plan.budget)
    figures = {"rows": rows, "seconds": perf_counter() - begun}
    bad = [str(row["note"]) for row in rows if str(row.get("note", "")).startswith(("failed", "not run"))]
    pictures = pictures_of(plan.pictures, rows) if plan.pictures else {}
    files = [os.path.relpath(path, job.folder) for path in pictures.values()]
    return Record(job.recording, job.request, FAILED if bad else MAPPED, "; ".join(bad), figures, files=files)


def _rows_in(record: Record, task: Task) -> list[Row]:
    return task.lost(f"failed: {record.message}", list(record.figures.get("rows", [])))


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
        command += ["--one-thread"] if plan.one_thread else []
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
