"""dust3r-map: build a map from a folder of images, a video or a bag."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dust3r_ros.cli import command, inputs
from dust3r_ros.cli.pieces import Mapped, MappedPiece, map_in_pieces
from dust3r_ros.config import MapperConfig, NodeConfig, as_mapping
from dust3r_ros.errors import ConfigError, GeometryError, InputError

if TYPE_CHECKING:
    from dust3r_ros.backends.base import Network
    from dust3r_ros.io.chrome_trace import ChromeTrace
    from dust3r_ros.io.frames import FrameSource
    from dust3r_ros.io.manifest import Manifest
    from dust3r_ros.products.viewer import Viewer
    from dust3r_ros.session.pieces import Piece
    from dust3r_ros.session.replay import Replay
    from dust3r_ros.session.session import Session
    from dust3r_ros.sparse.landmarks import Intrinsics
    from dust3r_ros.types import Frame, MapUpdate

_NAME = "dust3r-map"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 mapped, 1 the run failed, 2 usage or input, 130 interrupted (the map so far is saved)."""
    return command.run(_NAME, _parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(
        prog=_NAME,
        description="Build a map with uncalibrated cameras: images in; trajectory, point cloud and intrinsics out.",
        epilog="Exit codes: 0 mapped, 1 the run failed, 2 usage or input, 130 interrupted (the map so far is saved).",
    )
    inputs.add_inputs(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="output folder, created if missing")
    parser.add_argument("--record", metavar="FILE", help="record which frames were used, for --manifest")
    add_map(parser)
    parser.add_argument(
        "--workers", type=command.positive, metavar="N",
        help="map a long recording in pieces, by N processes, and join them; the map does not depend on N",
    )  # fmt: skip
    parser.add_argument("--view", action="store_true", help="watch the map grow in a browser (extra: viewer)")
    parser.add_argument(
        "--viewer-address",
        metavar="HOST:PORT",
        help="--view at this address (default: reachable from this machine only)",
    )
    parser.add_argument(
        "--profile", metavar="FILE", help="write a Chrome trace of the run (open it in ui.perfetto.dev)"
    )
    parser.add_argument("--quiet", action="store_true", help="print neither progress bar nor summary")
    command.add_mapper(parser)
    command.add_common(parser)
    return parser


def add_map(parser: argparse.ArgumentParser) -> None:
    """The options about the map that is continued."""
    parser.add_argument("--load", metavar="MAP.db", help="extend a saved map (the file is not modified)")
    parser.add_argument(
        "--localize-only", action="store_true", help="with --load: only localize cameras, leave the map unchanged"
    )


def arguments_for(recording: str, out: str, chosen: argparse.Namespace) -> argparse.Namespace:
    """Arguments that map a recording quietly, with those ``chosen`` by options that another command shares."""
    arguments = _parser().parse_args([f"--out={out}", "--quiet", "--", recording])
    own = {"input", "out", "quiet", "workers"}
    for name, value in vars(chosen).items():
        if name in vars(arguments).keys() - own:
            setattr(arguments, name, value)
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    def warn(words: str) -> None:
        inputs.warn(_NAME, words)

    done = None
    if arguments.workers:
        _check(arguments, Path(arguments.out))
        done = map_in_pieces(arguments, config_of(arguments, None), map_piece, warn)
    if done is None:
        done = map_recording(arguments, command.stop_on_signal(), warn)
    inputs.report(arguments.quiet, Path(arguments.out), done.summary)
    return _outcome(arguments, Path(arguments.out), done.signal, done.summary["points"])


def map_recording(
    arguments: argparse.Namespace,
    stopping: AbstractContextManager[command.Stop],
    warn: Callable[[str], object],
    tick: Callable[[int, int], object] = lambda done, expected: None,
    network: Network | None = None,
) -> Mapped:
    """Map one recording, and write its files.

    ``stopping`` says when to end early, ``warn`` takes what is left out of the map, ``tick`` the frames so far and how
    many there will be; ``network`` is used in place of one of its own. Raises ``Dust3rRosError`` when the recording or
    the options cannot be used.
    """
    directory = Path(arguments.out)
    _check(arguments, directory)
    # Heavy imports only now, so that bad arguments are reported at once.
    from dust3r_ros.io.files import FileLock, make_folder
    from dust3r_ros.io.frames import read_ahead
    from dust3r_ros.io.trajectory import path_length
    from dust3r_ros.session.replay import Replay, apply

    plan = inputs.read_plan(arguments)
    config = config_of(arguments, plan)
    source = inputs.open_inputs(arguments, plan)
    items = inputs.frames(source, plan, arguments)
    start = perf_counter()
    with ExitStack() as stack:
        trace = stack.enter_context(_traced(arguments.profile))
        session = _session(arguments, config, source, plan, trace, warn, network)
        replay = Replay(_spanned(session.process, trace), read_ahead(items), lambda event: apply(session, event))
        stack.callback(session.close)
        loaded = session.mapper.counts.tracked
        view = _view(arguments, config, session, stack)
        make_folder(directory)  # only now, so that a failed start leaves no empty folder
        stack.enter_context(FileLock(directory / "summary.json"))  # two runs would leave some files of each
        stop = stack.enter_context(stopping)
        _feed(replay, session, view, _expected(items, source, arguments), arguments, stop, tick)
        if not replay.mapped:
            if stop:
                raise KeyboardInterrupt
            raise InputError(inputs.unusable(arguments.input, replay, items, source.skipped))
        update = _finish(session, arguments.quiet)
        lost = _check_found(arguments, session, replay.mapped, session.mapper.counts.tracked - loaded, stop)
        if view is not None:
            view.show(update, session.mapper, metric=session.metric)
        summary = _write(arguments, config, session, perf_counter() - start)
    for words in [*lost, *inputs.shortfalls(replay, items, source, session)]:
        warn(words)
    own = session.mapper.trajectory(sessions=session.mapper.run)
    return Mapped(summary, path_length(own), session.metric, stop.signal)


def map_piece(arguments: argparse.Namespace, piece: Piece, path: Path, known: Mapping[str, Intrinsics]) -> MappedPiece:
    """Map a piece of a recording with one thread, and save its map to ``path``; in a process of its own.

    ``known``: what an earlier piece found of the cameras. Raises ``Dust3rRosError``.
    """
    from dust3r_ros.geometry.processes import use_one_thread
    from dust3r_ros.io.frames import read_ahead
    from dust3r_ros.io.image_sources import plain_name, sizes_of
    from dust3r_ros.session.replay import Replay
    from dust3r_ros.storage.saved_map import save_map

    use_one_thread()
    source, warnings = inputs.open_inputs(arguments, None), list[str]()
    source.between = piece.between
    source.sizes.update(sizes_of(camera for camera, _ in piece.frames))
    session = _session(arguments, config_of(arguments, None), source, None, None, warnings.append)
    session.mapper.remember(known)
    # The size and lens of an image that was not looked at are unknown: it is listed as the first camera's.
    wanted = {(plain_name(camera), stamp_ns) for camera, stamp_ns in piece.frames}
    frames = (frame for frame in source if (plain_name(frame.camera), frame.stamp_ns) in wanted)
    replay = Replay(session.process, read_ahead(frames))
    used = tuple((update.camera, update.stamp_ns) for update in replay)
    # A lens that is not given changes once more in the whole map, and then no depth would fit.
    session.finish(depth=all(session.mapper.focal(name).lens_known for name in session.mapper.cameras))
    save_map(path, session.mapper, session.settings())
    found = {name: session.mapper.focal(name) for name in session.mapper.cameras}
    return MappedPiece(found, used, (*warnings, *inputs.shortfalls(replay, frames, source, session)))


def _check(arguments: argparse.Namespace, directory: Path) -> None:
    """Check the options before the input is opened. Raises ``InputError`` or ``ConfigError``."""
    config_of(arguments, None)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"--out '{directory}' is a file; it must be a folder or not exist yet")
    if directory.resolve() == Path(arguments.input).resolve():
        raise InputError(f"--out '{directory}' is the input, whose files it would join; give another folder")
    record, manifest = arguments.record, arguments.manifest
    if record and manifest and Path(record).resolve() == Path(manifest).resolve():
        raise ConfigError(f"--record '{record}' is the same file as --manifest; give another name")


def _check_found(
    arguments: argparse.Namespace, session: Session, used: int, found: int, stop: command.Stop
) -> list[str]:
    """What to say of the ``used`` images, of which ``found`` have a pose, where a map was loaded.

    Raises ``GeometryError``, before any file is written, where files would show nothing or replace an earlier map by
    nothing.
    """
    from dust3r_ros.products.results import NOTHING_MAPPED

    if not session.mapper.counts.keyframes and (Path(arguments.out) / "map.db").exists():
        if stop:
            raise KeyboardInterrupt
        raise GeometryError(f"{NOTHING_MAPPED} (the files of an earlier run in {arguments.out} stay)")
    if not arguments.load or found >= used:
        return []
    if arguments.localize_only and found == 0 and not stop:
        raise GeometryError(f"no image shows enough of the map '{arguments.load}' to be localised; no file is written")
    return [f"{used - max(found, 0)} of {used} images have no pose in the map"]


def _outcome(arguments: argparse.Namespace, directory: Path, signal: int | None, points: int) -> int:
    """The exit code of a run that wrote its files, explained on stderr if it is not 0."""
    from dust3r_ros.products.results import NOTHING_MAPPED

    if signal is not None:
        print(f"{_NAME}: interrupted; the map of the frames so far is in {directory}", file=sys.stderr)
        return 128 + signal
    if points == 0 and not arguments.localize_only:
        print(f"{_NAME}: error: {NOTHING_MAPPED} (files are in {directory})", file=sys.stderr)
        return 1
    return 0


def config_of(arguments: argparse.Namespace, plan: Manifest | None) -> MapperConfig:
    """The configuration: options override the manifest. Raises ``ConfigError``."""
    config = command.mapper_config(arguments, {} if plan is None else as_mapping(plan.config))
    if arguments.checkpoint and config.backend == "two_view":
        raise ConfigError(
            "--checkpoint is given, but backend 'two_view' uses no weights; use --backend both, dust3r or mono"
        )
    if not arguments.localize_only:
        return config
    if arguments.load is None:
        raise ConfigError("--localize-only needs a saved map; give it with --load")
    return replace(config, mode="localization")


def _session(
    arguments: argparse.Namespace,
    config: MapperConfig,
    source: FrameSource,
    plan: Manifest | None,
    trace: ChromeTrace | None,
    warn: Callable[[str], object],
    network: Network | None = None,
) -> Session:
    """A session with the recording's calibrations and extrinsics; a manifest contains its own."""
    from dust3r_ros.backends import make_backend
    from dust3r_ros.session.session import Session, begin

    log = logging.getLogger(_NAME)
    jump, heard = "reset" if plan is None else plan.on_time_jump, trace.stage if trace else None
    backend = make_backend(config, network) if network else None
    session = Session(config, log, on_time_jump=jump, backend=backend, heard=heard)
    done = begin(
        session, config, load_map=arguments.load or "", manifest=arguments.record or "", topics=source.recorded
    )
    if done:
        inputs.say(arguments.quiet, done)
    if plan is not None:
        return session
    source.levels = not session.mapper.cameras
    source.sizes.update({name: (known.height, known.width) for name, known in session.mapper.cameras.items()})
    source.focals.update({name: c.focal for name, c in session.mapper.cameras.items() if isfinite(c.focal_std)})
    for camera, calibration in inputs.calibrations(arguments, source).items():
        try:
            session.know(camera, calibration)
        except ConfigError as error:
            warn(f"the calibration of camera '{camera}' is not used: {error}")
    for camera, r_T_c in source.extrinsics().items():
        session.place(camera, r_T_c)
    return session


@contextmanager
def _traced(path: str | None) -> Iterator[ChromeTrace | None]:
    """The trace for --profile; the file is written however the run ends."""
    if path is None:
        yield None
        return
    from dust3r_ros.io.chrome_trace import ChromeTrace, check_place

    check_place(path)
    trace = ChromeTrace(_NAME)
    try:
        yield trace
    finally:
        trace.write(path)
        trace.close()


def _spanned(process: Callable[[Frame], MapUpdate], trace: ChromeTrace | None) -> Callable[[Frame], MapUpdate]:
    if trace is None:
        return process

    def image(frame: Frame) -> MapUpdate:
        with trace("image"):
            return process(frame)

    return image


def _view(arguments: argparse.Namespace, config: MapperConfig, session: Session, stack: ExitStack) -> Viewer | None:
    """The viewer for --view, showing the loaded map, if any."""
    if not arguments.view and arguments.viewer_address is None:
        return None
    from dust3r_ros.products.viewer import Viewer

    view = Viewer(arguments.viewer_address or NodeConfig.viewer_address, min_confidence=config.min_confidence)
    stack.enter_context(view)
    view.begin(session.mapper.keyframes)
    inputs.say(arguments.quiet, f"watch the map at {view.url}")
    return view


def _expected(items: Any, source: FrameSource, arguments: argparse.Namespace) -> int:
    available = len(items) if arguments.manifest else -(-len(source) // arguments.every)
    return min(available, arguments.max_frames) if arguments.max_frames else available


def _feed(
    replay: Replay,
    session: Session,
    view: Viewer | None,
    expected: int,
    arguments: argparse.Namespace,
    stop: command.Stop,
    tick: Callable[[int, int], object],
) -> None:
    """Map frames until the end, --max-frames or a signal."""
    updates = iter(replay)
    first = next(updates, None)
    if first is None:  # no bar without frames
        return
    with command.bar("mapping", "frame", expected, arguments.quiet) as bar:
        for done, update in enumerate(chain([first], updates), start=1):
            counts = session.mapper.counts
            if view is not None:
                view.show(update, session.mapper, replay.image, metric=session.metric)
            bar.set_postfix_str(f"{counts.keyframes} keyframes, {update.state.value}", refresh=False)
            bar.update(done + replay.refused - bar.n)
            tick(done + replay.refused, expected)
            if stop or replay.mapped + replay.refused == arguments.max_frames:
                return


def _finish(session: Session, quiet: bool) -> MapUpdate:
    """Refine the map, with a bar for the keyframes that get depth."""
    inputs.say(quiet, "refining the map …")
    with ExitStack() as shown:
        bars: list[Any] = []

        def tick(done: int, count: int) -> None:
            if not bars:
                bars.append(shown.enter_context(command.bar("depth", "keyframe", count, quiet)))
            bars[0].update(done - bars[0].n)

        return session.finish(tick)


def _write(arguments: argparse.Namespace, config: MapperConfig, session: Session, seconds: float) -> dict[str, Any]:
    from dust3r_ros.products.results import write_results

    session.close()
    return write_results(
        Path(arguments.out),
        session.mapper,
        config=config,
        source=Path(arguments.input).name or str(arguments.input),
        wall_seconds=seconds,
        loaded=session.mapper.loaded,
        **session.for_files(),
    )


if __name__ == "__main__":
    sys.exit(main())
