"""Shared by all commands: one-line errors, exit codes, configuration from options, signals."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from dust3r_ros import __version__
from dust3r_ros.config import MapperConfig, from_mapping, load_yaml, parse_yaml, rows, split
from dust3r_ros.errors import ConfigError, Dust3rRosError

if TYPE_CHECKING:
    from dust3r_ros.fleet.cluster import Cluster

INTERRUPTED = 128 + signal.SIGINT


class Parser(argparse.ArgumentParser):
    """Reports bad arguments in one line and exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def subcommand(tables: Any, name: str, body: Callable[[argparse.Namespace], int], **texts: str) -> Parser:
    """The parser of a subcommand, added to the subparsers ``tables``; its arguments have ``body``, which is run."""
    parser: Parser = tables.add_parser(name, **texts)
    parser.set_defaults(body=body)
    return parser


def add_common(parser: argparse.ArgumentParser) -> None:
    """--debug and --version."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=f"dust3r_ros {__version__}")


def add_mapper(parser: argparse.ArgumentParser) -> None:
    """The options that choose the mapper's configuration."""
    group = parser.add_argument_group("mapper")
    backend = next(row for row in rows(MapperConfig) if row.name == "backend")
    group.add_argument("--backend", choices=backend.choices, help=f"pointmap predictor (default: {backend.default})")
    group.add_argument(
        "--checkpoint", metavar="PATH", help="network weights: name of shipped weights, .pth or .onnx file, or folder"
    )
    group.add_argument("--config", metavar="YAML", help="parameter file, as for the node")
    group.add_argument(
        "--focal",
        type=float,
        metavar="F",
        help="known focal length in pixels at native resolution (default: estimate it)",
    )
    group.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="set one parameter; overrides file and options"
    )


def mapper_config(arguments: argparse.Namespace, base: Mapping[str, object] | None = None) -> MapperConfig:
    """The configuration from the options of ``add_mapper``: ``base``, then file, then options, then --set; later wins.

    Raises ``ConfigError`` for an unknown name, a wrong type or a value out of range.
    """
    values: dict[str, object] = dict(base or {})
    if arguments.config is not None:
        values.update(split(load_yaml(arguments.config))[0])
    for name in ("backend", "checkpoint", "focal"):
        if getattr(arguments, name) is not None:
            values[name] = getattr(arguments, name)
    return from_mapping(MapperConfig, {**values, **settings(arguments.set)})


def add_cluster(parser: argparse.ArgumentParser, what: str, default: str = "one per core") -> None:
    """The options that choose where tasks run; ``what``: a task; ``default``: without --address and --workers."""
    group = parser.add_argument_group("where it runs")
    group.add_argument(
        "--address", metavar="ADDRESS", help="a Ray cluster, ray://HOST:10001 or HOST:6379 (default: here)"
    )
    group.add_argument("--workers", type=positive, metavar="N", help=f"processes here (default: {default})")
    group.add_argument("--memory", type=positive, metavar="MB", help=f"memory to reserve for each {what}")
    group.add_argument("--gpus", type=float, default=0.0, metavar="F", help=f"share of a GPU for each {what}")
    group.add_argument(
        "--retries", type=int, default=2, metavar="N", help="try again so often when a process dies (default: 2)"
    )


def cluster_of(arguments: argparse.Namespace) -> Cluster:
    """The cluster that the options of ``add_cluster`` choose. Raises ``ConfigError``."""
    from dust3r_ros.fleet.cluster import Cluster

    if arguments.retries < 0:
        raise ConfigError(f"--retries is {arguments.retries}; it must be at least 0")
    if not 0 <= arguments.gpus < 1e6:
        raise ConfigError(f"--gpus is {arguments.gpus}; it must be at least 0")
    if arguments.address and arguments.workers:
        raise ConfigError("--workers is for this machine; with --address, Ray's nodes say how many cores they have")
    memory = (arguments.memory or 0) * 10**6
    networks = getattr(arguments, "networks", None) or 0
    return Cluster(arguments.address, arguments.workers, memory, arguments.gpus, arguments.retries, networks)


def with_full_paths(arguments: argparse.Namespace, *names: str) -> argparse.Namespace:
    """The arguments, with full paths for those ``names`` that are files: other nodes have other working folders."""
    given = {name: getattr(arguments, name) for name in names}
    found = {name: str(Path(path).resolve()) for name, path in given.items() if path and Path(path).exists()}
    return argparse.Namespace(**{**vars(arguments), **found})


def settings(texts: Iterable[str]) -> dict[str, object]:
    """Values by name, from texts NAME=VALUE; raises ``ConfigError`` for any other form."""
    values: dict[str, object] = {}
    for setting in texts:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {setting!r} is not NAME=VALUE")
        values[name.strip()] = _parsed(text)
    return values


def _parsed(text: str) -> object:
    """A value parsed as YAML, so that the command line and the file agree."""
    try:
        documents = parse_yaml(text)
    except ValueError:
        return text
    return documents[0] if documents else None


def positive(text: str) -> int:
    """argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def run(
    name: str,
    parser: argparse.ArgumentParser,
    body: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Exit code of ``body``, ``guarded``, with the arguments of a parser that has ``add_common``."""
    arguments = parser.parse_args(argv)
    return guarded(name, lambda: body(arguments), arguments.debug)


def guarded(name: str, body: Callable[[], int], debug: bool) -> int:
    """Exit code of ``body``; any error, foreseen or not, becomes one line on stderr."""
    if not debug:  # OpenCV and FFmpeg write to stderr on their own; they read this when first imported
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # What is skipped is counted and reported once, at the end; single warnings would break up the progress bar.
    logging.basicConfig(
        level=logging.WARNING if debug else logging.CRITICAL, format=f"{name}: %(levelname)s: %(message)s"
    )
    try:
        return body()
    except BrokenPipeError:  # the reader of our output has gone
        sys.stdout = None
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        code, line = explained(error)
        print(f"{name}: error: {' '.join(line.split())}", file=sys.stderr)
        return code


def explained(error: BaseException) -> tuple[int, str]:
    """Exit code and message."""
    if isinstance(error, Dust3rRosError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; nothing more is written"
    if isinstance(error, MemoryError):
        return 1, "out of memory; lower working_size or --max-frames, or raise --every"
    return 1, f"unexpected {type(error).__name__}: {error} (--debug shows where; please report it)"


class Stop:
    """Whether the user asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


def bar(words: str, unit: str, count: int, quiet: bool, **more: Any) -> Any:
    """A progress bar on stderr."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    return tqdm(
        total=count,
        unit=unit,
        desc=words,
        disable=quiet,
        mininterval=0.2 if terminal else 10.0,  # in a log file, an occasional line is enough
        dynamic_ncols=terminal,
        leave=terminal,
        **more,
    )


@contextmanager
def stop_on_signal(at_once: bool = False) -> Iterator[Stop]:
    """The first SIGINT, SIGTERM or SIGHUP in the block only sets the ``Stop``; a second one, or already the first if
    ``at_once``, interrupts.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop or at_once:
            raise KeyboardInterrupt
        stop.signal = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
