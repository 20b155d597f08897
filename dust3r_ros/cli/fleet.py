"""dust3r-fleet: map many recordings, on all cores of this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from dust3r_ros import __version__
from dust3r_ros.cli import command, inputs
from dust3r_ros.cli import map as one
from dust3r_ros.config import MapperConfig, as_mapping
from dust3r_ros.errors import ConfigError, InputError

if TYPE_CHECKING:
    from dust3r_ros.fleet.cluster import Cluster, Progress
    from dust3r_ros.fleet.networks import Pool
    from dust3r_ros.fleet.recordings import Job, Place, Record

_NAME = "dust3r-fleet"
_INDEX_S = 30.0  # between two writes of the index


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 all mapped, 1 some failed, 2 usage or input, 130 interrupted (what is finished stays)."""
    return command.run(_NAME, _parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(
        prog=_NAME,
        description="Map many recordings, several at once; what is finished and unchanged is not done again.",
        epilog="Exit codes: 0 all mapped, 1 some failed (the index says why), 2 usage or input, 130 interrupted.",
    )
    parser.add_argument(
        "recordings", nargs="*", metavar="RECORDING",
        help="folder of images, video file, ROS 1 bag or rosbag2 (sqlite3, MCAP), by path or address (s3://…), or a "
        "quoted pattern of such",
    )  # fmt: skip
    parser.add_argument(
        "--list", action="append", default=[], metavar="FILE", help="text file with a recording or pattern per line"
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True,
        help="output folder or address: a folder per recording, index.html, index.csv",
    )  # fmt: skip
    parser.add_argument("--again", action="store_true", help="map everything, finished or not")
    parser.add_argument(
        "--join", action="store_true", help="make one map of those that show the same place, with its own folder"
    )
    parser.add_argument("--quiet", action="store_true", help="print neither progress bar nor summary")
    command.add_cluster(parser, "recording")
    parser.add_argument(
        "--networks", type=command.positive, metavar="N",
        help="backends dust3r and both: N networks that all recordings share; --gpus is for each of these then",
    )  # fmt: skip
    inputs.add_selection(parser)
    one.add_map(parser)
    command.add_mapper(parser)
    command.add_common(parser)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from dust3r_ros.fleet.cluster import need_ray
    from dust3r_ros.fleet.index import TABLE, write_index
    from dust3r_ros.fleet.places import is_address
    from dust3r_ros.fleet.recordings import find_recordings, is_done, records_in
    from dust3r_ros.io.files import FileLock, make_folder

    cluster = command.cluster_of(arguments)
    _check(arguments)
    arguments = command.with_full_paths(arguments, "config", "checkpoint", "load", "camera_info")
    out = arguments.out if is_address(arguments.out) else str(Path(arguments.out).absolute())
    if not is_address(out) and Path(out).exists() and not Path(out).is_dir():
        raise InputError(f"--out '{arguments.out}' is a file; it must be a folder or not exist yet")
    recordings = find_recordings(arguments.recordings, arguments.list, out)
    records = records_in(out)
    jobs = _jobs(recordings, out, records, arguments)
    todo = [job for job in jobs if arguments.again or not is_done(job, records.get(job.name))]
    inputs.say(arguments.quiet, f"{len(jobs) - len(todo)} of {len(jobs)} recordings are finished already")
    if todo:
        need_ray(cluster)
    lock = None if is_address(out) else FileLock(make_folder(out) / TABLE)  # object stores have no locks
    try:
        signal = _map_all(todo, out, records, cluster, arguments) if todo else None
        write_index(out, records)
        if arguments.join and signal is None:
            _join(jobs, Path(out), records, arguments)
            write_index(out, records)
    finally:
        if lock is not None:
            lock.release()
    return _outcome(jobs, len(todo), records, signal, arguments)


def _config(arguments: argparse.Namespace) -> MapperConfig:
    """The mapper's configuration. Raises ``ConfigError``."""
    return one.config_of(one.arguments_for("recording", "out", arguments), None)


def _check(arguments: argparse.Namespace) -> None:
    """Check the options before anything is read. Raises ``ConfigError``."""
    from dust3r_ros.backends import NETWORKS
    from dust3r_ros.fleet.places import is_address

    config = _config(arguments)
    if arguments.networks and config.backend not in NETWORKS:
        raise ConfigError(
            f"--networks is given, but backend '{config.backend}' has none to share; use {' or '.join(NETWORKS)}"
        )
    if arguments.join and arguments.load:
        raise ConfigError("--join and --load are both given; maps that continue one map have its keyframes in common")
    if arguments.join and config.backend == "dust3r":
        raise ConfigError("--join is given, but maps of backend 'dust3r' cannot be joined; use another backend")
    if arguments.join and is_address(arguments.out):
        raise ConfigError(f"--join is given, but --out '{arguments.out}' is an address; joined maps need a folder")
    for name, what in (("load", "the map.db of an earlier run"), ("camera_info", "a calibration file")):
        given = getattr(arguments, name)
        if given is not None and not Path(given).exists():
            raise InputError(f"--{name.replace('_', '-')} '{given}' does not exist; give {what}")


def _jobs(
    recordings: Sequence[Place], out: str, records: dict[str, Record], arguments: argparse.Namespace
) -> list[Job]:
    from dust3r_ros.fleet.places import joined
    from dust3r_ros.fleet.recordings import Job, fingerprint, name_all, request_of

    options = _options(arguments)
    jobs = []
    for path, name in zip(recordings, name_all(recordings, records), strict=True):
        content, size = fingerprint(path, out)
        request = request_of(content, options, __version__)
        jobs.append(Job(name, str(path), joined(out, name), request, size))
    return jobs


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a map depends on beside its recording: options, configuration, and the files that they name."""
    from dust3r_ros.fleet.recordings import fingerprint

    parser = command.Parser()
    inputs.add_selection(parser)
    one.add_map(parser)
    chosen = {name: getattr(arguments, name) for name in vars(parser.parse_args([]))}
    config = as_mapping(_config(arguments))
    named = [Path(str(path)) for path in (arguments.load, arguments.camera_info, config["checkpoint"]) if path]
    return {**chosen, **config, "files": [fingerprint(path)[0] for path in named if path.exists()]}


def _map_all(
    todo: Sequence[Job], out: str, records: dict[str, Record], cluster: Cluster, arguments: argparse.Namespace
) -> int | None:
    """Map ``todo``, enter what becomes of it into ``records``; returns the signal that ended it early."""
    from dust3r_ros.fleet.cluster import connected, run
    from dust3r_ros.fleet.index import write_index
    from dust3r_ros.fleet.recordings import WAITING, Record

    for job in todo:
        records[job.name] = Record(job.recording, job.request, WAITING, tries=0)
    written = monotonic()

    def ended(job: Job, record: Record) -> None:
        nonlocal written
        records[job.name] = record
        if monotonic() - written > _INDEX_S:
            write_index(out, records)
            written = monotonic()

    with connected(cluster), command.stop_on_signal() as stop, _Bar(todo, arguments.quiet) as bar:
        work, pool = partial(map_job, arguments), None
        if cluster.networks:
            from dust3r_ros.fleet.networks import begin_pool

            pool = begin_pool(cluster, _config(arguments))
            work = partial(work, pool=pool)
        run(todo, work, cluster, lambda: bool(stop), ended, bar.show)
        counts = pool.counts() if pool and not stop else {}
    if counts:
        inputs.say(
            arguments.quiet,
            f"shared networks: {counts['pairs']} pairs of {counts['requests']} requests in {counts['batches']} "
            f"batches, {counts['memory_mb']} MB",
        )
    return stop.signal


def _join(jobs: Sequence[Job], out: Path, records: dict[str, Record], arguments: argparse.Namespace) -> None:
    """Join the maps of this request that show the same place; those of the recordings stay as they are."""
    from dust3r_ros.fleet.joining import join_all
    from dust3r_ros.geometry.processes import use_one_thread

    use_one_thread()  # as for maps: the number of cores does not change the last digits
    config = _config(arguments)
    inputs.say(arguments.quiet, "joining maps that show the same place …")
    groups = join_all(out, records, [job.name for job in jobs], config, __version__, arguments.again)
    for group in groups:
        inputs.say(arguments.quiet, f"one map of {', '.join(group)}")
    alone = len(jobs) - sum(map(len, groups))
    inputs.say(arguments.quiet, f"{len(groups)} joined maps; {alone} recordings stay alone")


class _Bar:
    """Progress in bytes of recordings: their frames are only known once they are opened."""

    def __init__(self, todo: Sequence[Job], quiet: bool) -> None:
        self._count, self._start = len(todo), monotonic()
        self._bar = command.bar("mapping", "B", sum(job.size for job in todo), quiet, unit_scale=True)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, progress: Progress) -> None:
        """Show how far all jobs are. A job that is tried again takes its share back."""
        rate = progress.frames / max(monotonic() - self._start, 1e-9)
        self._bar.set_postfix_str(f"{progress.ended}/{self._count} recordings, {rate:.1f} frames/s", refresh=False)
        self._bar.update(round(progress.size) - self._bar.n)


def map_job(
    arguments: argparse.Namespace, job: Job, tick: Callable[[int, int], None], pool: Pool | None = None
) -> Record:
    """Map one recording as ``dust3r-map`` does; in a process of the cluster. An error is a record, too.

    The network is one of the ``pool``, if there is one.
    """
    from dust3r_ros.fleet.joining import figures_of
    from dust3r_ros.fleet.places import staged
    from dust3r_ros.fleet.recordings import EMPTY, FAILED, MAPPED, RECORD, Record
    from dust3r_ros.products.results import NOTHING_MAPPED

    warnings: list[str] = []
    frames = [0]

    def count(done: int, expected: int) -> None:
        frames[0] = done
        tick(done, expected)

    try:
        shared = closing(pool.network(job.folder)) if pool else nullcontext()
        with staged(job.recording, job.folder) as (recording, folder), shared as network:
            run_arguments = one.arguments_for(recording, folder, arguments)
            done = one.map_recording(run_arguments, nullcontext(command.Stop()), warnings.append, count, network)
            files = sorted(path.name for path in Path(folder).iterdir() if path.name != RECORD)
    except Exception as error:
        message = command.explained(error)[1]
        return Record(job.recording, job.request, FAILED, " ".join(message.split()), warnings=warnings, done=frames[0])
    summary = done.summary
    empty = summary["points"] == 0 and not arguments.localize_only
    figures = {
        **figures_of(summary),
        "length": round(done.length, 4),
        "unit": "m" if done.metres else "map units",
    }
    return Record(
        job.recording, job.request, EMPTY if empty else MAPPED, NOTHING_MAPPED if empty else "", figures, warnings,
        files, summary["frames"],
    )  # fmt: skip


def _outcome(
    jobs: Sequence[Job], asked: int, records: dict[str, Record], signal: int | None, arguments: argparse.Namespace
) -> int:
    """The exit code, and what the user hears."""
    from dust3r_ros.fleet.places import joined
    from dust3r_ros.fleet.recordings import MAPPED, WAITING

    states = [records[job.name].state for job in jobs]
    mapped, waiting = states.count(MAPPED), states.count(WAITING)
    inputs.say(
        arguments.quiet,
        f"{mapped} of {len(jobs)} recordings are mapped, {len(jobs) - asked} of them before; "
        f"index: {joined(arguments.out, 'index.html')}",
    )
    if signal is not None:
        print(
            f"{_NAME}: interrupted; {len(jobs) - waiting} of {len(jobs)} recordings are finished, "
            "and the same command continues with the others",
            file=sys.stderr,
        )
        return 128 + signal
    bad = [(job.name, records[job.name].message) for job in jobs if records[job.name].state != MAPPED]
    for name, message in bad[:10]:
        print(f"{_NAME}: error: {name}: {message}", file=sys.stderr)
    if len(bad) > 10:
        print(f"{_NAME}: error: {len(bad) - 10} more, see index.csv", file=sys.stderr)
    return int(bool(bad))


if __name__ == "__main__":  # by its name: functions of __main__ mean nothing to other processes
    sys.exit(import_module("dust3r_ros.cli.fleet").main())
