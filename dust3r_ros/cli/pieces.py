"""dust3r-map --workers: one long recording in pieces, mapped by several processes and joined."""

from __future__ import annotations

import argparse
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from dust3r_ros.cli import inputs
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from dust3r_ros.session.pieces import Piece
    from dust3r_ros.sparse.landmarks import Intrinsics


class Mapped(NamedTuple):
    """A map whose files are written. ``metres`` is false for a ``length`` in the map's own unit, ``signal`` is the one
    that ended the run early."""

    summary: dict[str, Any]
    length: float
    metres: bool
    signal: int | None


class MappedPiece(NamedTuple):
    """What a piece found of the cameras, and what part of it is not in its map."""

    intrinsics: Mapping[str, Intrinsics]
    warnings: Sequence[str]


# Maps a piece of a recording and saves the map; picklable.
MapPiece = Callable[[argparse.Namespace, "Piece", Path, "Mapping[str, Intrinsics]"], MappedPiece]
_WHOLE = ("manifest", "record", "load", "localize_only", "view", "viewer_address", "profile")


def map_in_pieces(
    arguments: argparse.Namespace, config: MapperConfig, map_piece: MapPiece, warn: Callable[[str], object]
) -> Mapped | None:
    """Cut a recording into pieces, map them in ``arguments.workers`` processes, join the maps and write the files.

    The first piece that tells the focal length calibrates the cameras; the others begin with what it found. None, and
    nothing done, for a recording that is too short to be cut. Raises ``Dust3rRosError``.
    """
    _check(arguments, config)
    from dust3r_ros.io.files import make_folder
    from dust3r_ros.io.frames import read_ahead
    from dust3r_ros.io.trajectory import path_length
    from dust3r_ros.products.results import write_results
    from dust3r_ros.session.joined import join_pieces
    from dust3r_ros.session.pieces import cut, motion_of
    from dust3r_ros.types import Frame

    start = perf_counter()
    source = inputs.open_inputs(arguments, None)
    frames = (frame for frame in inputs.frames(source, None, arguments) if isinstance(frame, Frame))
    pieces = cut(motion_of(read_ahead(frames), config))
    if len(pieces) == 1:
        inputs.say(arguments.quiet, "the recording is too short to be cut")
        return None
    inputs.say(arguments.quiet, f"{sum(len(piece.frames) for piece in pieces)} images in {len(pieces)} pieces")
    directory = make_folder(arguments.out)
    with tempfile.TemporaryDirectory(prefix=".pieces-", dir=directory) as folder:
        paths = [Path(folder) / f"{number}.db" for number in range(len(pieces))]
        for words in _map_all(arguments, pieces, paths, map_piece):
            warn(words)
        inputs.say(arguments.quiet, "joining the pieces …")
        joined = join_pieces(pieces, paths, config)
    for words in joined.warnings:
        warn(words)
    summary = write_results(
        directory,
        joined.mapper,
        config=config,
        stopwatch=joined.stopwatch,
        source=Path(arguments.input).name or str(arguments.input),
        wall_seconds=perf_counter() - start,
        raw=joined.raw,
        settings=joined.settings,
    )
    return Mapped(summary, path_length(joined.mapper.trajectory()), joined.metric, None)


def _check(arguments: argparse.Namespace, config: MapperConfig) -> None:
    """Refuse what concerns one run of one mapper. Raises ``ConfigError``."""
    for name in _WHOLE:
        if getattr(arguments, name):
            raise ConfigError(f"--workers and --{name.replace('_', '-')} are both given; only one is allowed")
    if config.backend == "dust3r":
        raise ConfigError("--workers is given, but maps of backend 'dust3r' cannot be joined; use another backend")


def _is_sure(mapped: MappedPiece) -> bool:
    """Whether a piece tells the focal lengths of its cameras; one along a straight line may not."""
    from dust3r_ros.mapping.reconstruction import TRUSTED

    found = mapped.intrinsics.values()
    return bool(found) and all(one.given or one.total_std < TRUSTED for one in found)


def _leave_interrupts() -> None:
    """In a process of the pool: a Ctrl-C is for the command, which ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _map_all(
    arguments: argparse.Namespace, pieces: Sequence[Piece], paths: Sequence[Path], map_piece: MapPiece
) -> list[str]:
    """Map all pieces, from the first on until one calibrates the cameras, then the others at once.

    Returns what is missing in them, a sentence each, in order.
    """
    from tqdm import tqdm

    alone = argparse.Namespace(**{**vars(arguments), "quiet": True, "workers": None})
    total = sum(len(piece.frames) for piece in pieces)
    found: dict[int, MappedPiece] = {}
    with (
        tqdm(total=total, unit="frame", desc="mapping", disable=arguments.quiet) as bar,
        ProcessPoolExecutor(arguments.workers, get_context("spawn"), _leave_interrupts) as pool,
    ):
        try:
            calibrated: int | None = None
            for number, (piece, path) in enumerate(zip(pieces, paths, strict=True)):
                found[number] = pool.submit(map_piece, alone, piece, path, {}).result()
                if _is_sure(found[number]):
                    calibrated = number
                    break
            tasks = {}
            if calibrated is not None:  # those before are mapped again: with a wrong focal, they would not fit
                known = {name: one for name, one in found[calibrated].intrinsics.items() if not one.given}
                bar.update(len(pieces[calibrated].frames))
                tasks = {
                    pool.submit(map_piece, alone, piece, path, known): number
                    for number, (piece, path) in enumerate(zip(pieces, paths, strict=True))
                    if number != calibrated
                }
            for task in as_completed(tasks):
                found[tasks[task]] = task.result()
                bar.update(len(pieces[tasks[task]].frames))
        except BrokenProcessPool as error:
            raise BackendError("a process that mapped a piece was killed, perhaps out of memory; use fewer") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()
            raise
    return [f"piece {number + 1}: {words}" for number in sorted(found) for words in found[number].warnings]
