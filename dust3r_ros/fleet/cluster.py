"""Jobs as tasks of Ray: on this machine or a cluster, again when a process dies, cancelled when asked to stop."""

from __future__ import annotations

import gc
import os
import secrets
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dust3r_ros import __version__
from dust3r_ros.errors import BackendError, ConfigError, InputError, OutputError
from dust3r_ros.fleet import places
from dust3r_ros.fleet.recordings import DIED, DONE, FAILED, RECORD, RUNNING, Job, Record, read_record
from dust3r_ros.geometry.processes import usable_cores
from dust3r_ros.io.files import make_folder

# Maps a job in a process of the cluster, so it is picklable; it calls the function with frames so far and expected.
Work = Callable[[Job, Callable[[int, int], None]], Record]

_POLL_S = 0.5
_REPORT_S = 2.0  # between two reports of a running job
_CANCEL_S = 10.0  # for a job to end by itself
_OBJECTS = 100_000_000  # bytes of Ray's store: results are files, so it holds next to nothing
_POINTMAPS = 900_000_000  # more, for pointmaps on their way from a network to a mapper
_PLACE = "/tmp"  # the paths of Ray's sockets must be short, so no folder deep in TMPDIR
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cluster:
    """Where jobs run: at an ``address`` of Ray, or in ``workers`` processes here (None: one per core).

    ``memory`` (bytes) and ``gpus`` are reserved for each job; ``retries``: how often a job is tried again after its
    process died. With ``networks``, processes that the jobs share, ``gpus`` are for each of these instead.
    """

    address: str | None = None
    workers: int | None = None
    memory: int = 0
    gpus: float = 0.0
    retries: int = 2
    networks: int = 0


@dataclass
class Progress:
    """Of all jobs: how many ended, frames mapped, and bytes of recordings that these amount to."""

    ended: int = 0
    frames: int = 0
    size: float = 0.0


def need_ray(cluster: Cluster) -> None:
    """Import Ray for a cluster; raises ``ConfigError`` if it is not installed.

    Nothing reaches the network unasked, and a cluster on this machine cannot be reached from it. Where Ray knows
    tokens, it has one of its own, so that no other user can reach it either, and Ray keeps none in the home folder.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if cluster.address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # on any system, "0" means: loopback only
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        import ray  # noqa: F401 (it reads these variables now)
    except ImportError as error:
        raise ConfigError(
            "Ray is not installed; install the extra 'fleet' (pip install 'dust3r_ros[fleet]')"
        ) from error


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """A connection to the cluster; a local one begins and ends with the block. Raises ``BackendError``."""
    import ray

    with ExitStack() as stack:
        options: dict[str, Any] = {"address": cluster.address}
        if cluster.address is None:
            place = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="dust3r-", dir=_PLACE, ignore_cleanup_errors=True)
            )
            stack.enter_context(_environment(_for_local()))
            options = _local(cluster, place)
        stack.callback(ray.shutdown)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the error says the same
                ray.init(**options, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray raises many kinds
            where = f"at '{cluster.address}'" if cluster.address else "on this machine"
            line = " ".join(str(error).split())[:300]
            raise BackendError(f"no Ray cluster can be used {where} ({type(error).__name__}: {line})") from error
        yield


def _local(cluster: Cluster, place: str) -> dict[str, Any]:
    """What Ray is asked for on this machine: processes, and nothing that others could reach."""
    return {
        "address": "local",
        "num_cpus": (cluster.workers or usable_cores()) + (0 if cluster.gpus else cluster.networks),
        "include_dashboard": False,
        "object_store_memory": _OBJECTS + (_POINTMAPS if cluster.networks else 0),
        "_temp_dir": place,
        "_node_ip_address": "127.0.0.1",
    }


def _for_local() -> dict[str, str]:
    """Variables of the processes that Ray starts here."""
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that are set within the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run(
    jobs: Sequence[Job],
    work: Work,
    cluster: Cluster,
    stopped: Callable[[], bool],
    ended: Callable[[Job, Record], None],
    heard: Callable[[Progress], None],
) -> None:
    """Run all jobs, large ones first, until they end or ``stopped``; inside ``connected``.

    ``ended`` is called with each job that ended by itself, or died as often as it may; ``heard`` from time to time. An
    error of a job is its result, not an exception here.
    """
    fleet = _Fleet(work, cluster)
    for job in sorted(jobs, key=lambda one: -one.size):
        record = fleet.begin(job)
        if record is not None:
            ended(job, record)
    while fleet.running and not stopped():
        for job, record in fleet.wait():
            ended(job, record)
        heard(fleet.progress())
    fleet.cancel()


class _Fleet:
    """Jobs that were begun; ``running`` holds each with its number of tries, by the reference to its result."""

    def __init__(self, work: Work, cluster: Cluster) -> None:
        import ray

        self._ray, self._cluster = ray, cluster
        self._work = ray.put(work)
        gpus = 0.0 if cluster.networks else cluster.gpus
        resources = {"num_cpus": 1, "num_gpus": gpus, "memory": cluster.memory or None}
        self._task = ray.remote(max_retries=0, **resources)(_task)
        self.running: dict[Any, tuple[Job, int]] = {}
        self._past = Progress()
        self._reports: dict[str, tuple[int, int]] = {}
        self._looked = 0.0

    def begin(self, job: Job, tries: int = 1, elsewhere: Any = None) -> Record | None:
        """Queue a job; on the node ``elsewhere`` if it is given. Returns why not, where its folder cannot be used."""
        try:
            if not places.is_address(job.folder):
                make_folder(job.folder)
            places.remove(places.joined(job.folder, RECORD))  # from now on the files are not of a finished job
        except OutputError as error:
            self._past.ended += 1
            self._past.size += job.size
            return Record(job.recording, job.request, FAILED, str(error), tries=tries)
        task = self._task if elsewhere is None else self._task.options(scheduling_strategy=elsewhere)
        self.running[task.remote(self._work, job, tries, __version__)] = (job, tries)
        return None

    def wait(self) -> list[tuple[Job, Record]]:
        """Jobs that ended within a moment; those that died are begun again while they may."""
        ready, _ = self._ray.wait(list(self.running), num_returns=1, timeout=_POLL_S)
        over = []
        for reference in ready:
            job, tries = self.running.pop(reference)
            record = self._result(reference, job, tries)
            if record is None:
                record = self.begin(job, tries + 1, self._elsewhere(_last(job)))
            else:
                self._past.ended += 1
                self._past.frames += record.done
                self._past.size += job.size
            if record is not None:
                over.append((job, record))
        return over

    def _result(self, reference: Any, job: Job, tries: int) -> Record | None:
        """The record of an ended job; None if it is to be begun again."""
        errors = self._ray.exceptions
        try:
            record: Record = self._ray.get(reference)
            return record
        except errors.RayTaskError as error:  # before our code ran: a node without this package
            message, state = f"the task cannot run: {error.cause or error}", FAILED
        except (errors.RaySystemError, errors.RuntimeEnvSetupError) as error:
            message, state = f"the task cannot run: {error}", FAILED
        except errors.RayError as error:
            last = _last(job)
            if tries <= self._cluster.retries:
                return None
            where = f"on {last.host}, after {last.done} of {last.expected} frames" if last else "before its first frame"
            why = "it ran out of memory" if isinstance(error, errors.OutOfMemoryError) else "its process was killed"
            message, state = f"died {tries} times, at last {where}: {why} ({type(error).__name__})", DIED
        record = Record(job.recording, job.request, state, " ".join(message.split())[-600:], tries=tries)
        with suppress(OutputError):  # the index says the same
            record.write(job.folder)
        return record

    def _elsewhere(self, last: Record | None) -> Any:
        """Another node than the last one, if there is any."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        alive = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        others = [node["NodeID"] for node in alive if last is None or node["NodeID"] != last.node]
        if last is None or not others:
            return None
        return NodeAffinitySchedulingStrategy(others[last.tries % len(others)], soft=True)

    def progress(self) -> Progress:
        """Of all jobs, with what running ones reported."""
        now = time.monotonic()
        if now - self._looked > _REPORT_S:
            self._looked = now
            self._reports = {}
            for job, _ in self.running.values():
                record = _last(job)
                if record is not None and record.state == RUNNING:
                    self._reports[job.name] = (record.done, record.expected)
        total = replace(self._past)
        for job, _ in self.running.values():
            done, expected = self._reports.get(job.name, (0, 0))
            total.frames += done
            total.size += job.size * min(1.0, done / expected) if expected else 0.0
        return total

    def cancel(self) -> None:
        """End what still runs or waits, and remove its records: it counts as never begun."""
        for force in (False, True):
            if self.running:
                for reference in self.running:
                    with suppress(Exception):  # it may have ended just now
                        self._ray.cancel(reference, force=force)
                ready, _ = self._ray.wait(list(self.running), num_returns=len(self.running), timeout=_CANCEL_S)
                for reference in ready:
                    job, _ = self.running.pop(reference)
                    _withdraw(job)
        for job, _ in self.running.values():
            _withdraw(job)


def _last(job: Job) -> Record | None:
    """The newest record of a job that runs or ran; None where it cannot be read now."""
    with suppress(InputError):
        return read_record(job.folder)
    return None


def _withdraw(job: Job) -> None:
    record = _last(job)
    if record is None or record.state not in DONE:
        with suppress(OSError, OutputError):
            places.remove(places.joined(job.folder, RECORD))
            Path(job.folder).rmdir()  # if nothing was written


def _task(work: Work, job: Job, tries: int, version: str) -> Record:
    """In a process of the cluster: map with one thread, report, and write the record last."""
    import ray

    from dust3r_ros.geometry.processes import use_one_thread

    node, host, pid = ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid()
    begun = Record(job.recording, job.request, RUNNING, tries=tries, host=host, node=node, pid=pid)
    if version != __version__:
        message = f"node {host} has dust3r_ros {__version__}, and the request is by {version}; install the same"
        return replace(begun, state=FAILED, message=message)
    use_one_thread()
    _forget_peak_memory()
    next_s = 0.0

    def tick(done: int, expected: int) -> None:
        nonlocal next_s
        if time.monotonic() > next_s:
            with suppress(OutputError):  # a report is not worth a map
                replace(begun, done=done, expected=expected).write(job.folder)
            next_s = time.monotonic() + _REPORT_S if done else 0.0  # the first frame is reported at once

    if not places.is_address(job.recording) and not os.path.exists(job.recording):
        message = f"recording '{job.recording}' is not on node {host}; all nodes must see the same files"
        return replace(begun, state=FAILED, message=message)
    if not places.is_address(job.folder):
        make_folder(job.folder)
    tick(0, 0)
    record = replace(work(job, tick), tries=tries, host=host, node=node, pid=pid)
    try:
        record.write(job.folder)
    except OutputError as error:  # then the next request does not know of it
        return replace(record, state=FAILED, message=f"{record.state}, but its record is missing: {error}")
    return record


def _forget_peak_memory() -> None:
    """Let the peak of this process's memory count from here on (Linux), so that it is of one recording."""
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
