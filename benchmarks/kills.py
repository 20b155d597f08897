"""SIGKILL at random instants while a map starts, grows, closes a loop, is culled, saved or exported. What is left?

    python benchmarks/kills.py [--kills 100] [--seed 0] [--phase NAME ...] [--out results/kills]
        [--page docs/reliability.md]

Every process killed is a fork that uses the package as ``dust3r-map`` and the node's back end do, and reports each
frame, keyframe, save and export once it is done. Afterwards another process opens the files: everything reported is
there, and the map continues. ``--kills`` are those of each phase, after delays drawn with ``--seed``. Writes
kills.json, and the table into ``--page``. Exit code 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import pickle
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before NumPy: this process forks
    os.environ[_name] = "1"

import cv2  # noqa: E402
import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from targets import Machine, leave, where_and_when  # noqa: E402

from dust3r_ros.config import MapperConfig  # noqa: E402
from dust3r_ros.errors import Dust3rRosError  # noqa: E402
from dust3r_ros.evaluation.report.metrics import table_lines  # noqa: E402
from dust3r_ros.geometry.processes import thread_pool  # noqa: E402
from dust3r_ros.io.files import make_folder  # noqa: E402
from dust3r_ros.mapping.localization import FrameFinder  # noqa: E402
from dust3r_ros.mapping.loop_closing import LoopClosing  # noqa: E402
from dust3r_ros.mapping.submap import CULL  # noqa: E402
from dust3r_ros.products.exports import FORMATS, Exporter  # noqa: E402
from dust3r_ros.scenes.rooms import room  # noqa: E402
from dust3r_ros.scenes.sequence import render_path, walk  # noqa: E402
from dust3r_ros.session.session import Session, begin, keep  # noqa: E402
from dust3r_ros.storage.journal import BEFORE  # noqa: E402
from dust3r_ros.storage.saved_map import load_map, load_state, save_map  # noqa: E402
from dust3r_ros.types import Array, Frame, TrackingState  # noqa: E402

BEGIN, END = "<!-- kills: begin, made by benchmarks/kills.py -->", "<!-- kills: end -->"
LOG = logging.getLogger("kills")
_SIZE, _FRAMES, _LOOP_FRAMES = (240, 176), 40, 80
_STEP_NS = 10**8
_LATER_NS = 10**15  # the stamps of another session
_WINDOW_S = 0.5  # of the delays, where nothing measured says how long
_WRITE_S = 0.02  # of the delays in a write
_PIPE = 1 << 16  # bytes that a pipe holds
_CHAIN = 10  # kills that meet the same file
_OLD = 30  # keyframes between those that a loop joins, at least
_FILES = {"ply": "map.ply", "tum": "poses.txt", "grid": "grid.yaml", "colmap": "colmap", "nerfstudio": "nerfstudio"}

Say = Callable[[str], object]
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Kill:
    """What one kill left.

    ``told``: number of things reported as written; ``lost``: those of them that are not there; ``midst``: whether the
    process was killed in the work that gives the phase its name. ``readable``: every file can be opened; ``continues``:
    the map was continued with another image.
    """

    told: int
    lost: int
    midst: bool
    readable: bool = True
    continues: bool = True


@dataclass(frozen=True, eq=False)
class Setup:
    """Images (N, H, W, 3) along a walk, the mapper's parameters, and a map that a killed process left."""

    images: Array
    config: MapperConfig
    source: Path
    folder: Path

    def frame(self, at: int) -> Frame:
        """The frame of a step; the walk goes back and forth."""
        last = len(self.images) - 1
        return Frame(at * _STEP_NS + 1, "camera", self.images[last - abs(at % (2 * last) - last)])


# Processes


def in_child(work: Callable[..., _Result], *arguments: Any) -> _Result:
    """``work(*arguments)`` in a forked process, whose memory and threads end with it. Raises ``RuntimeError``."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(ours)
        _end(lambda: os.fdopen(theirs, "wb").write(pickle.dumps(work(*arguments))))
    os.close(theirs)
    with os.fdopen(ours, "rb") as answer:
        data = answer.read()
    os.waitpid(pid, 0)
    if not data:
        raise RuntimeError(f"{getattr(work, '__name__', work)} failed in its process")
    result: _Result = pickle.loads(data)
    return result


def killed(
    work: Callable[[Say], object], delay_s: float, after_write_s: float = -1.0, after: str = "ready"
) -> list[str]:
    """What a forked process that runs ``work(say)`` had said when it was killed, ``delay_s`` after it said ``after``.

    Unless ``after_write_s`` is negative, it was killed that long after it next said: write.
    """
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(ours)
        _end(lambda: work(lambda text: os.write(theirs, f"{text}\n".encode())), pause=True)
    os.close(theirs)
    said = _read_until(ours, after)
    time.sleep(delay_s)
    if after_write_s >= 0:
        said += os.read(ours, _PIPE) if select.select([ours], [], [], 0)[0] else b""  # what it said before
        said += _read_until(ours, "write")
        time.sleep(after_write_s)
    os.kill(pid, signal.SIGKILL)
    with os.fdopen(ours, "rb") as rest:
        said += rest.read()
    os.waitpid(pid, 0)
    return said.decode().splitlines()


def _read_until(pipe: int, words: str) -> bytes:
    """What comes up to a line that begins with some words. Raises ``RuntimeError`` at the end."""
    said = b""
    while not any(f"{line} ".startswith(f"{words} ") for line in said.decode().split("\n")[:-1]):
        more = os.read(pipe, _PIPE)
        if not more:
            raise RuntimeError("the process to be killed ended by itself")
        said += more
    return said


def _end(work: Callable[[], object], pause: bool = False) -> None:
    """Run the work of a forked process, then end it without the parent's clean-up; ``pause``: wait to be killed."""
    try:
        thread_pool.cache_clear()  # its threads were not forked
        work()
        while pause:
            signal.pause()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


# What is killed


def grow(setup: Setup, path: Path, first: int, live: bool, say: Say) -> None:
    """Continue the map in a file from a step on; ``live``: postpone work, adjust in a process beside, as the node."""
    session = Session(setup.config, LOG)
    begin(session, setup.config, map_db=str(path))
    if live:
        session.go_live(beside=True)
    say("ready")
    _feed(setup, session, count(first), say)


def _feed(setup: Setup, session: Session, steps: Iterator[int] | range, say: Say) -> None:
    write = session.keeper.write

    def heard(*arguments: Any) -> None:
        say("write")
        write(*arguments)
        say("written")

    session.keeper.write = heard  # type: ignore[method-assign]
    for at in steps:
        say(f"frame {at}")
        update = session.process(setup.frame(at))
        if session.mapper.submap.initialised:  # before, nothing has a pose: the map may begin again
            say(f"kept {at} {'' if update.keyframe is None else update.keyframe}")
        while session.due:
            session.work(session.due)


def save(setup: Setup, path: Path, first: int, say: Say) -> None:
    """Save the map over and over; each copy has its number."""
    session = Session(setup.config, LOG)
    begin(session, setup.config, load_map=str(setup.source))
    say("ready")
    for number in count(first):
        say(f"write {number}")
        save_map(path, session.mapper, {**session.settings(), "copy": number})
        say(f"written {number}")


def export(setup: Setup, folder: Path, say: Say) -> None:
    """Export the map in every format, over and over, each into a folder of its own."""
    contents = load_map(setup.source, landmarks=True)
    say("ready")
    for number in count():
        kind = FORMATS[number % len(FORMATS)]
        make_folder(folder / str(number))
        say(f"write {number}")
        Exporter(contents.keyframes, landmarks=contents.landmarks).write(folder / str(number) / _FILES[kind], kind)
        say(f"written {number}")


def start(setup: Setup, path: Path, how: str, say: Say) -> None:
    """Start on a file that a killed process left: continue it, replace it, or replace it by a saved map."""
    say("ready")
    session = Session(setup.config, LOG)
    options = {"map_start": "continue"} if how == "continue" else {"map_start": "new"}
    begin(session, setup.config, map_db=str(path), load_map=str(setup.source) if how == "load" else "", **options)
    say("begun")
    session.process(setup.frame(_LATER_NS // _STEP_NS))
    say("kept")


def close_loop(setup: Setup, session: Session, path: Path, steps: range, say: Say) -> None:
    """Write a map that is about to close a loop into a file, then close it, and adjust the whole map for it."""
    LoopClosing.has_drifted = lambda _, index, linked: _is_loop(index, linked)  # type: ignore[method-assign]
    keep(session, setup.config, str(path), fresh=True)
    say("ready")
    _feed(setup, session, steps, say)


def cull(setup: Setup, session: Session, path: Path, steps: range, say: Say) -> None:
    """Write a map with redundant keyframes into a file, then remove them, and continue."""
    keep(session, setup.config, str(path), fresh=True)
    say("ready")
    say(f"culled {' '.join(map(str, session.work(CULL).removed))}")
    _feed(setup, session, steps, say)


def _is_loop(index: int, linked: Sequence[int]) -> bool:
    return any(index - other >= _OLD for other in linked)


# What is left


@dataclass(frozen=True)
class Left:
    """Names of keyframes and stamps of frames in a map file, its settings, and whether it can be continued."""

    names: frozenset[int]
    stamps: frozenset[int]
    settings: dict[str, Any]
    continues: bool


def left(setup: Setup, path: Path, step: int) -> Left | None:
    """What a file holds; continued with the image of ``step``. None if it cannot be read, which is printed."""
    try:
        state = load_state(path)
    except Dust3rRosError as error:
        print(f"kills: {error}", flush=True)
        return None
    begun = [submap for submap in state.submaps if submap.facts.get("initialised", True)]
    names = frozenset(name for submap in begun for name in submap.names)
    stamps = frozenset(frame.stamp_ns for submap in state.submaps for frame in submap.frames)
    return Left(names, stamps, dict(state.settings), _continues(setup, path, step))


def _continues(setup: Setup, path: Path, step: int) -> bool:
    """Whether another session, which only reads the file, finds the image of a step in its map, if there is one."""
    session = Session(setup.config, LOG)
    begin(session, setup.config, load_map=str(path))
    begun = bool(load_map(path).keyframes)
    frame = setup.frame(step)
    update = session.process(replace(frame, stamp_ns=frame.stamp_ns + _LATER_NS))
    return update.state is TrackingState.TRACKING or not begun


# The phases: each yields one row per kill


def mapping(setup: Setup, rng: np.random.Generator) -> Iterator[Kill]:
    """While the map grows, live or not; each continues what the last one left.

    Every other time while it is written, and after something was kept, however slow the machine is.
    """
    for chain in count():
        path, known, at = setup.folder / f"mapping-{chain}.db", frozenset[int](), 0
        for number in range(_CHAIN):
            writing, after = (rng.uniform(0, _WRITE_S), "kept") if number % 2 else (-1.0, "ready")
            said = killed(partial(grow, setup, path, at, chain % 2 > 0), rng.uniform(0, _WINDOW_S), writing, after)
            kept = [line.split()[1:] for line in said if line.startswith("kept")]
            told = known | {int(words[1]) for words in kept if len(words) > 1}
            stamps = {setup.frame(int(words[0])).stamp_ns for words in kept}
            at = max((int(line.split()[1]) + 1 for line in said if line.startswith("frame")), default=at)
            found = in_child(left, setup, path, max(0, at - 2))
            midst = said[-1].split()[0] not in ("ready", "kept")
            if found is None:
                yield Kill(len(told) + len(stamps), len(told) + len(stamps), midst, False, False)
                break
            lost = len(told - found.names) + len(stamps - found.stamps)
            yield Kill(len(told) + len(stamps), lost, midst, continues=found.continues)
            known = found.names


def saving(setup: Setup, rng: np.random.Generator) -> Iterator[Kill]:
    """While the map is saved over its last copy, as ``~/save_map`` does; every other time after one was saved."""
    names = in_child(left, setup, setup.source, 0).names  # type: ignore[union-attr]
    for chain in count():
        path, last = setup.folder / f"saving-{chain}.db", -1
        for number in range(_CHAIN):
            after = "written" if number % 2 else "ready"
            said = killed(partial(save, setup, path, last + 1), rng.uniform(0, _WINDOW_S), after=after)
            numbers = {word: [int(line.split()[1]) for line in said if line.startswith(f"{word} ")] for word in _WORDS}
            last = max(numbers["written"], default=last)
            midst = len(numbers["write"]) > len(numbers["written"])
            found = in_child(left, setup, path, 0) if path.exists() else None
            if found is None:
                yield Kill(int(last >= 0), int(last >= 0), midst, not path.exists(), last < 0)
                continue
            whole = found.names == names and found.settings["copy"] >= last
            yield Kill(int(last >= 0), int(not whole), midst, continues=found.continues)
            last = found.settings["copy"]


_WORDS = ("write", "written")


def exporting(setup: Setup, rng: np.random.Generator) -> Iterator[Kill]:
    """While the map is exported; a file is whole or not there."""
    first = setup.folder / "exports"
    killed(partial(export, setup, first), 0.0, after=f"written {len(FORMATS) - 1}")  # one of each, to compare with
    expected = [digests(first / str(number)) for number in range(len(FORMATS))]
    for number in count():
        folder = setup.folder / f"exports-{number}"
        said = killed(partial(export, setup, folder), rng.uniform(0, 2 * _WINDOW_S))
        begun = sum(line.startswith("write ") for line in said)
        done = sum(line.startswith("written ") for line in said)
        lost, readable = 0, True
        for at in range(begun):
            found, wanted = digests(folder / str(at)), expected[at % len(FORMATS)]
            lost += at < done and found != wanted
            readable &= found.items() <= wanted.items()
        yield Kill(done, lost, begun > done, readable, load_map(setup.source).keyframes != ())
        shutil.rmtree(folder, ignore_errors=True)


def digests(folder: Path) -> dict[str, str]:
    """A digest of each file below a folder, by its path; hidden ones, which are unfinished, are left out."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    seen = {name: path for name, path in found.items() if not any(part.startswith(".") for part in name.parts)}
    return {str(name): hashlib.sha256(path.read_bytes()).hexdigest() for name, path in seen.items()}


def starting(setup: Setup, rng: np.random.Generator) -> Iterator[Kill]:
    """While a process starts on a file that a killed one left."""
    names = in_child(left, setup, setup.source, 0).names  # type: ignore[union-attr]
    window = in_child(_seconds, partial(start, setup), "load")
    for number in count():
        how = ("continue", "new", "load")[number % 3]
        folder = make_folder(setup.folder / f"starting-{number}")
        path = _copy(setup.source, folder / "map.db")
        said = killed(partial(start, setup, path, how), rng.uniform(0, 0.6 * window))
        kept = [file for file in (path, path.with_name(path.name + BEFORE)) if file.exists()]
        every = [in_child(left, setup, file, 0) for file in kept]
        lost = 0 if any(found and found.names >= names for found in every) else len(names)
        readable = all(found is not None for found in every)
        continues = bool(every) and every[0] is not None and every[0].continues
        yield Kill(len(names), lost, "begun" not in said, readable, continues)
        shutil.rmtree(folder)


def _copy(source: Path, to: Path) -> Path:
    """A map with its log."""
    for suffix in ("", "-wal"):
        if Path(f"{source}{suffix}").exists():
            shutil.copy(f"{source}{suffix}", f"{to}{suffix}")
    return to


def loop_closing(setup: Setup, rng: np.random.Generator) -> Iterator[Kill]:
    """While a loop is closed and the whole map is adjusted for it; every process begins from the same memory."""
    images = in_child(_rendered, _LOOP_FRAMES, 1.3)
    setup = replace(setup, images=images, config=replace(setup.config, dense=False))
    closing = in_child(_closing, setup)
    session = Session(setup.config, LOG)
    for at in range(closing - 1):
        session.process(setup.frame(at))
    steps = range(closing - 1, closing + 2)
    before = {keyframe.index for keyframe in session.mapper.keyframes}
    window = in_child(_seconds, partial(close_loop, setup, session), steps)
    for number in count():
        path = setup.folder / f"loop-{number}.db"
        said = killed(partial(close_loop, setup, session, path, steps), rng.uniform(0, 1.1 * window))
        kept = [line.split()[1:] for line in said if line.startswith("kept")]
        told = before | {int(words[1]) for words in kept if len(words) > 1}
        stamps = {setup.frame(int(words[0])).stamp_ns for words in kept}
        midst = f"frame {closing}" in said and not any(words[0] == str(closing) for words in kept)
        found = in_child(left, setup, path, closing - 4)
        lost = len(told - found.names) + len(stamps - found.stamps) if found else len(told) + len(stamps)
        yield Kill(len(told) + len(stamps), lost, midst, found is not None, bool(found and found.continues))
        path.unlink()


def _closing(setup: Setup) -> int:
    """The first step that closes a loop."""
    found: list[bool] = []
    LoopClosing.has_drifted = lambda _, index, linked: found.append(_is_loop(index, linked))  # type: ignore
    session = Session(setup.config, LOG)
    for at in range(len(setup.images)):
        session.process(setup.frame(at))
        if any(found):
            return at
    raise RuntimeError("the walk closes no loop")


def culling(setup: Setup, rng: np.random.Generator) -> Iterator[Kill]:
    """While redundant keyframes are removed; every process begins from the same memory."""
    setup = replace(setup, config=replace(setup.config, dense=False))
    session, first, gone = _redundant(setup)
    before = {keyframe.index for keyframe in session.mapper.keyframes}
    known, steps = {pose.stamp_ns for pose in session.mapper.trajectory()}, range(first, first + 2)
    window = in_child(_seconds, partial(cull, setup, session), range(0))
    for number in count():
        path = setup.folder / f"culling-{number}.db"
        said = killed(partial(cull, setup, session, path, steps), rng.uniform(0, 1.3 * window))
        kept = [line.split()[1:] for line in said if line.startswith("kept")]
        done = any(line.startswith("culled") for line in said)
        told = before - gone | {int(words[1]) for words in kept if len(words) > 1}
        stamps = known | {setup.frame(int(words[0])).stamp_ns for words in kept}
        found = in_child(left, setup, path, first - 2)
        if found is None:
            yield Kill(len(told) + len(stamps), len(told) + len(stamps), not done, False, False)
            continue
        back = found.names & gone  # all of them, or none
        half = len(back) if done else len(back) % len(gone)
        lost = len(told - found.names) + len(stamps - found.stamps) + half
        yield Kill(len(told) + len(stamps), lost, not done, continues=found.continues)
        path.unlink()


def _redundant(setup: Setup) -> tuple[Session, int, set[int]]:
    """A live map at rest with redundant keyframes, since no place is known again; the next step, and their names."""
    FrameFinder.seen_before = lambda *_: None  # type: ignore[method-assign, assignment]
    session = Session(setup.config, LOG)
    session.go_live()
    for at in count():
        session.process(setup.frame(at))
        while session.due:
            gone = set(in_child(session.work, CULL).removed) if session.due == CULL else set[int]()
            if gone:
                return session, at + 1, gone
            session.work(session.due)
    raise AssertionError("images do not end")


def _seconds(work: Callable[..., object], *arguments: Any) -> float:
    """How long ``work(path, *arguments, say)`` takes after it said: ready."""
    begun: list[float] = []
    with TemporaryDirectory() as folder:
        work(Path(folder) / "map.db", *arguments, lambda text: begun.append(time.perf_counter()))
    return time.perf_counter() - begun[0]


PHASES: dict[str, Callable[[Setup, np.random.Generator], Iterator[Kill]]] = {
    "mapping": mapping,
    "saving": saving,
    "exporting": exporting,
    "loop closing": loop_closing,
    "start": starting,
    "culling": culling,
}


# The run


def prepare(folder: Path) -> Setup:
    """A rendered walk, and the map of it that a killed process left."""
    images = in_child(_rendered, _FRAMES, 0.35)
    config = MapperConfig(
        working_size=96, tracking_size=240, keyframe_motion=0.02, keyframe_motion_young=0.02, focal=0.83 * _SIZE[0]
    )
    setup = Setup(images, config, folder / "source.db", folder)
    for wait_s in (2.0, 4.0, 8.0, 16.0):
        killed(partial(grow, setup, setup.source, 0, False), wait_s)
        if len(in_child(load_map, setup.source).keyframes) >= 8:
            return setup
        for path in folder.glob("source.db*"):
            path.unlink()
    raise RuntimeError("no map came about")


def _rendered(frames: int, laps: float) -> Array:
    made = render_path("orbit", room(), walk("orbit", frames, laps=laps), width=_SIZE[0], height=_SIZE[1])
    return np.asarray(made.images)


def run(setup: Setup, phase: str, kills: int, seed: int) -> list[Kill]:
    """The kills of a phase, with progress."""
    rng, rows, begun = np.random.default_rng([seed, list(PHASES).index(phase)]), [], time.perf_counter()
    for number, row in enumerate(islice(PHASES[phase](setup, rng), kills), 1):
        rows.append(row)
        if number % 10 == 0 or number == kills or row.lost or not (row.readable and row.continues):
            lost, each = sum(row.lost for row in rows), (time.perf_counter() - begun) / number
            print(f"{phase}: {number} of {kills} killed, {lost} lost, {each:.2f} s each", flush=True)
    return rows


def table(found: dict[str, list[Kill]], about: str) -> str:
    """Markdown: a row for each phase; what must be zero and is not is bold."""
    head = ("killed during", "kills", "at work on it", "reported before", "of that lost", "unreadable files")
    cells = []
    for phase, rows in found.items():
        bad = [sum(r.lost for r in rows), sum(not r.readable for r in rows), sum(not r.continues for r in rows)]
        counts = len(rows), sum(row.midst for row in rows), sum(row.told for row in rows)
        cells.append((phase, *counts, *(f"**{n}**" if n else "0" for n in bad)))
    return "\n".join([*table_lines((*head, "maps that do not continue"), cells), "", about])


def main() -> int:
    """Exit code: 0 if nothing was lost, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phase", action="append", choices=list(PHASES), help="without it, all of them")
    parser.add_argument("--out", type=Path, default=ROOT / "results/kills")
    parser.add_argument("--page", type=Path, help="page whose table is replaced")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    machine, begun = Machine(), time.perf_counter()
    with TemporaryDirectory() as folder:
        setup = prepare(Path(folder))
        phases = arguments.phase or list(PHASES)
        found = {phase: in_child(run, setup, phase, arguments.kills, arguments.seed) for phase in phases}
    seconds, where = time.perf_counter() - begun, where_and_when(machine.about())
    about = f"`--seed {arguments.seed}`, {seconds / 60:.0f} minutes; {where}."
    report = {"kills": {phase: [asdict(row) for row in rows] for phase, rows in found.items()}, "machine": where}
    leave(arguments.out / "kills.json", report, table(found, about), arguments.page, (BEGIN, END))
    return int(any(row.lost or not (row.readable and row.continues) for rows in found.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
