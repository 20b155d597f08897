"""dust3r-map --workers: one long recording in pieces, mapped by several processes and joined."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import inf
from multiprocessing import active_children, get_context
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from dust3r_ros.cli import command, inputs
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from dust3r_ros.session.joined import JoinedMap
    from dust3r_ros.session.pieces import Motion, Piece
    from dust3r_ros.sparse.landmarks import Intrinsics


class Mapped(NamedTuple):
    """A map whose files are written. ``metres`` is false for a ``length`` in the map's own unit, ``signal`` is the one
    that ended the run early."""

    summary: dict[str, Any]
    length: float
    metres: bool
    signal: int | None


class MappedPiece(NamedTuple):
    """What a piece found of the cameras, the frames (camera, stamp) that could be used, and what is not in its map."""

    intrinsics: Mapping[str, Intrinsics]
    frames: tuple[tuple[str, int], ...]
    warnings: Sequence[str]


# Maps a piece of a recording and saves the map; picklable.
MapPiece = Callable[[argparse.Namespace, "Piece", Path, "Mapping[str, Intrinsics]"], MappedPiece]
_TRIED = 2  # pieces that are mapped without knowing the focal
_TAKEN = 0.02  # relative deviation of a focal below which a map begins with it and tries no other
_POLL_S = 0.1  # between looks whether a signal has come
_WHOLE = ("manifest", "record", "load", "localize_only", "view", "viewer_address", "profile")


def map_in_pieces(
    arguments: argparse.Namespace, config: MapperConfig, map_piece: MapPiece, warn: Callable[[str], object]
) -> Mapped | None:
    """Cut a recording into pieces, map them in ``arguments.workers`` processes, join the maps and write the files.

    A piece that determines the focal length calibrates the cameras; the others begin with what it found. None, and
    nothing done, for a recording that is too short to be cut. Raises ``Dust3rRosError``.
    """
    _check(arguments, config)
    from dust3r_ros.io.trajectory import path_length
    from dust3r_ros.products.results import write_results
    from dust3r_ros.session.pieces import cut

    start = perf_counter()
    pieces = cut(_motion(arguments, config))
    if len(pieces) == 1:
        inputs.say(arguments.quiet, "the recording is too short to be cut")
        return None
    inputs.say(arguments.quiet, f"{sum(len(piece.frames) for piece in pieces)} images in {len(pieces)} pieces")
    with _folder(arguments.out) as directory:
        joined = _joined(arguments, config, pieces, map_piece, directory, warn)
        for words in joined.warnings:
            warn(words)
        summary = write_results(
            directory,
            joined.mapper,
            config=config,
            source=Path(arguments.input).name or str(arguments.input),
            wall_seconds=perf_counter() - start,
            **joined.for_files(),
        )
    return Mapped(summary, path_length(joined.mapper.trajectory()), joined.metric, None)


def _joined(
    arguments: argparse.Namespace,
    config: MapperConfig,
    pieces: Sequence[Piece],
    map_piece: MapPiece,
    directory: Path,
    warn: Callable[[str], object],
) -> JoinedMap:
    """The map of all pieces, whose own maps are in a folder that goes in the end. A signal counts as a Ctrl-C."""
    from dust3r_ros.session.joined import join_pieces

    with (
        command.stop_on_signal(at_once=True),
        tempfile.TemporaryDirectory(prefix=".pieces-", dir=directory) as folder,
    ):
        paths = [Path(folder) / f"{number}.db" for number in range(len(pieces))]
        mapped = _map_all(arguments, pieces, paths, map_piece)
        for number, one in enumerate(mapped, start=1):
            for words in one.warnings:
                warn(f"piece {number}: {words}")
        pieces = [replace(piece, frames=one.frames) for piece, one in zip(pieces, mapped, strict=True)]
        inputs.say(arguments.quiet, "joining the pieces …")
        return join_pieces(pieces, paths, config)


def _motion(arguments: argparse.Namespace, config: MapperConfig) -> Motion:
    """How the cameras move; images are decoded as far as that needs them, other data of a bag are not read."""
    from dust3r_ros.session.pieces import Motion
    from dust3r_ros.types import Frame

    inputs.open_inputs(arguments, None)  # whether there is everything
    nothing_else: dict[str, Any] = dict.fromkeys(("odometry", "odom_topic", "imu_topic"))
    nothing_else |= {"mask_topic": [], "depth_topic": []}
    arguments = argparse.Namespace(**{**vars(arguments), **nothing_else})
    source, motion = inputs.open_inputs(arguments, None), Motion(config)
    source.needs = motion.needs
    for frame in inputs.frames(source, None, arguments):
        if isinstance(frame, Frame):
            motion.see(frame)
    return motion


def _check(arguments: argparse.Namespace, config: MapperConfig) -> None:
    """Refuse what concerns one run of one mapper. Raises ``ConfigError``."""
    for name in _WHOLE:
        if getattr(arguments, name):
            raise ConfigError(f"--workers and --{name.replace('_', '-')} are both given; only one is allowed")
    if config.backend == "dust3r":
        raise ConfigError("--workers is given, but maps of backend 'dust3r' cannot be joined; use another backend")


def _std(mapped: MappedPiece) -> float:
    """Relative deviation of the least certain focal that a piece found; infinite if it found none."""
    found = mapped.intrinsics.values()
    return max((0.0 if one.given else one.total_std for one in found), default=inf)


def _calibration(mapped: MappedPiece) -> dict[str, Intrinsics]:
    """What other pieces begin with. Maps with different focals would not fit each other: so they all take this one."""
    found = {name: one for name, one in mapped.intrinsics.items() if not one.given}
    return {name: replace(one, std=min(one.std, _TAKEN)) for name, one in found.items()}


@contextmanager
def _folder(path: str) -> Iterator[Path]:
    """The output folder, for one run at a time; a new one that stays empty, as after a Ctrl-C, goes in the end."""
    from dust3r_ros.io.files import FileLock, make_folder

    new, directory = not Path(path).exists(), make_folder(path)
    try:
        with FileLock(directory / "summary.json"):
            yield directory
    except BaseException:
        with suppress(OSError):
            if new:
                directory.rmdir()
        raise


def _map_all(
    arguments: argparse.Namespace, pieces: Sequence[Piece], paths: Sequence[Path], map_piece: MapPiece
) -> list[MappedPiece]:
    """Map the piece that is most likely to calibrate the cameras, then the others at once.

    If it does not, the next one is tried, if there is any; after some, the most certain one counts.
    """
    from tqdm import tqdm

    from dust3r_ros.geometry.processes import settle_worker
    from dust3r_ros.mapping.reconstruction import TRUSTED
    from dust3r_ros.session.pieces import most_informative_first

    alone = argparse.Namespace(**{**vars(arguments), "quiet": True, "workers": None})
    total = sum(len(piece.frames) for piece in pieces)
    found: dict[int, MappedPiece] = {}
    with (
        command.stop_on_signal() as stop,
        tqdm(total=total, unit="frame", desc="mapping", disable=arguments.quiet) as bar,
        ProcessPoolExecutor(arguments.workers, get_context("spawn"), settle_worker, (os.getpid(),)) as pool,
    ):
        try:
            for number in most_informative_first(pieces)[:_TRIED]:
                (task,) = _completed([pool.submit(map_piece, alone, pieces[number], paths[number], {})], stop)
                found[number] = task.result()
                if _std(found[number]) < TRUSTED:
                    break
            best = min(found, key=lambda number: _std(found[number]))
            bar.update(len(pieces[best].frames))
            known = _calibration(found[best])
            # Those tried before are mapped again: with another focal, they would not fit.
            tasks = {
                pool.submit(map_piece, alone, piece, path, known): number
                for number, (piece, path) in enumerate(zip(pieces, paths, strict=True))
                if number != best
            }
            for task in _completed(tasks, stop):
                found[tasks[task]] = task.result()
                bar.update(len(pieces[tasks[task]].frames))
        except BrokenProcessPool as error:
            raise BackendError("a process that mapped a piece was killed, perhaps out of memory; use fewer") from error
        except BaseException:
            for process in active_children():
                process.terminate()
            pool.shutdown(cancel_futures=True)  # waits: Python's own wait at exit may meet pipes that are closed
            raise
    if stop:
        raise KeyboardInterrupt
    return [found[number] for number in range(len(pieces))]


def _completed(tasks: Iterable[Future[MappedPiece]], stop: command.Stop) -> Iterator[Future[MappedPiece]]:
    """The tasks as they end. Raises ``KeyboardInterrupt`` after a signal: here, as in the middle of Python's own
    beginning of a process it would leave that behind.
    """
    left = set(tasks)
    while left:
        done, left = wait(left, _POLL_S, FIRST_COMPLETED)
        if stop:
            raise KeyboardInterrupt
        yield from done
