"""dust3r-map: a folder of images, a video or a bag to a map."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dust3r_ros.cli import command
from dust3r_ros.errors import InputError

if TYPE_CHECKING:
    from dust3r_ros.mapper import Mapper
    from dust3r_ros.replay import Replay

_NAME = "dust3r-map"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 mapped, 1 the run failed, 2 usage or input, 130 interrupted (what there is, is written)."""
    arguments = _parser().parse_args(argv)
    return command.guarded(_NAME, lambda: _run(arguments), arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(
        prog=_NAME,
        description="Map with an uncalibrated camera: images in; trajectory, point cloud and intrinsics out.",
        epilog="Exit codes: 0 mapped, 1 the run failed, 2 usage or input, 130 interrupted (the map so far is written).",
    )
    parser.add_argument(
        "input", metavar="INPUT", help="folder of images, video file, ROS 1 bag or rosbag2 (sqlite3, MCAP)"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the results, made when missing")
    parser.add_argument("--topic", help="image topic of a bag (needed when it has several)")
    parser.add_argument(
        "--camera", metavar="NAME", help="name of the camera (default: the topic's namespace, else camera)"
    )
    parser.add_argument("--every", type=command.positive, default=1, metavar="N", help="take every n-th frame")
    parser.add_argument("--max-frames", type=command.positive, metavar="N", help="stop after this many frames")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    command.add_mapper(parser)
    command.add_common(parser)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    config = command.mapper_config(arguments)
    directory = Path(arguments.out)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"--out '{directory}' is a file; it must be a folder or not exist yet")
    # Heavy imports only now, so that a slip in the arguments is answered at once.
    from dust3r_ros.io.files import make_folder
    from dust3r_ros.io.frames import open_source
    from dust3r_ros.io.results import NOTHING_MAPPED, write_results
    from dust3r_ros.mapper import Mapper
    from dust3r_ros.replay import Replay
    from dust3r_ros.timing import Stopwatch

    source = open_source(arguments.input, topic=arguments.topic, camera=arguments.camera)
    stopwatch = Stopwatch()
    mapper = Mapper(config, stage=stopwatch)
    taken = islice(source, 0, arguments.max_frames and arguments.max_frames * arguments.every, arguments.every)
    replay = Replay(mapper, taken)
    make_folder(directory)  # only now, so that a failed start leaves no empty folder
    start = perf_counter()
    with command.stop_on_signal() as stop:
        _feed(replay, mapper, _expected(len(source), arguments), stop, arguments.quiet)
        if mapper.counts.frames == 0:
            if stop:
                raise KeyboardInterrupt
            raise InputError(_unusable(arguments.input, replay, source.skipped))
        _say(arguments, "refining the map …")
        mapper.finish()
        summary = write_results(
            directory,
            mapper,
            config=config,
            stopwatch=stopwatch,
            source=Path(arguments.input).name or str(arguments.input),
            wall_seconds=perf_counter() - start,
        )
    _report(arguments, summary, replay, source.skipped)
    if stop.signal is not None:
        print(f"{_NAME}: interrupted; the map of the frames so far is in {directory}", file=sys.stderr)
        return 128 + stop.signal
    if summary["points"] == 0:
        print(f"{_NAME}: error: {NOTHING_MAPPED} (files are in {directory})", file=sys.stderr)
        return 1
    return 0


def _expected(available: int, arguments: argparse.Namespace) -> int:
    frames = -(-available // arguments.every)
    return min(frames, arguments.max_frames) if arguments.max_frames else frames


def _feed(replay: Replay, mapper: Mapper, expected: int, stop: command.Stop, quiet: bool) -> None:
    """All frames, until the end or a signal."""
    from tqdm import tqdm

    updates = iter(replay)
    first = next(updates, None)
    if first is None:  # no bar for nothing
        return
    terminal = sys.stderr.isatty()
    with tqdm(
        total=expected,
        unit="frame",
        desc="mapping",
        disable=quiet,
        mininterval=0.2 if terminal else 10.0,  # in a log file a line now and then is enough
        dynamic_ncols=terminal,
        leave=terminal,
    ) as bar:
        for done, update in enumerate(chain([first], updates), start=1):
            bar.set_postfix_str(f"{mapper.counts.keyframes} keyframes, {update.state.value}", refresh=False)
            bar.update(done + replay.refused - bar.n)
            if stop:
                return


def _unusable(name: str, replay: Replay, skipped: int) -> str:
    if replay.reason:
        return f"no frame of '{name}' can be used: {replay.reason}"
    return f"no frame of '{name}' can be read ({skipped} unreadable); --debug names them"


def _say(arguments: argparse.Namespace, words: str) -> None:
    if not arguments.quiet:
        print(words, flush=True)


def _report(arguments: argparse.Namespace, summary: dict[str, Any], replay: Replay, skipped: int) -> None:
    """A short account of the run on stdout; frames that were left out on stderr."""
    for count, why in (
        (skipped, "could not be read (--debug names them)"),
        (replay.refused, f"could not be used ({replay.reason})"),
    ):
        if count:
            print(f"{_NAME}: warning: {count} frame{'s' * (count > 1)} {why}", file=sys.stderr)
    rate = summary["frames_per_second"]
    _say(
        arguments,
        f"{summary['frames']} frames, {summary['tracked']} tracked; {summary['keyframes']} keyframes, "
        f"{summary['pairs']} pairs, {summary['points']:,} points in {summary['seconds']:.1f} s ({rate:.1f} frames/s)",
    )
    for name, camera in summary["cameras"].items():
        how = "given" if camera["fixed"] else f"estimated from {camera['support']} pairs"
        _say(
            arguments, f"{name}: focal length {camera['focal']:.1f} px at {camera['width']} x {camera['height']}, {how}"
        )
    directory = Path(arguments.out)
    _say(arguments, f"picture: {directory / 'preview.png'}   report: {directory / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
