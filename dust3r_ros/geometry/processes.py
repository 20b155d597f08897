"""Threads and processes for heavy work: BLAS, a pool for pixels, a forked copy of this process."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pickle
import re
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

# The names of OpenBLAS's functions, which depend on the build.
_NAMES = ("openblas_{}", "openblas_{}64_", "scipy_openblas_{}", "scipy_openblas_{}64_")


def use_one_blas_thread() -> None:
    """Compute sums with one BLAS thread in this process from now on (OpenBLAS on Linux; others stay as they are).

    The matrices of a map are small: more threads mostly wait for each other, which doubles the processor time,
    multiplies it on a busy machine, and lets the last digits depend on their number.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for a library loaded later
    for function in _functions("set_num_threads"):
        function(ctypes.c_int(1))


def use_one_thread() -> None:
    """Use one thread of OpenCV, OpenMP and the pool in this process from now on; for a process per core."""
    import cv2

    global THREADS
    THREADS = 1
    thread_pool.cache_clear()
    cv2.setNumThreads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for torch and ONNX Runtime, once they are loaded
    use_one_blas_thread()


def end_with_parent(parent: int | None = None) -> None:
    """Let this process be killed when the one that began it ends, in whatever way (Linux).

    ``parent``: its process id; if that one has ended already, this one does too.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def memory_held(line: str = "VmRSS") -> float:
    """Bytes that this process holds: now (VmRSS), at most (VmHWM), or another line of /proc/self/status; the most
    where that is missing.
    """
    # getrusage includes the peak of the parent program before exec
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024.0 * next(int(text.split()[1]) for text in lines if text.startswith(f"{line}:"))
    except (OSError, StopIteration):
        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB


def settle_worker(parent: int | None) -> None:
    """One thread of OpenCV, if there is one, since workers share the processors; end with the ``parent``, and leave
    Ctrl-C to it.
    """
    with suppress(ImportError):
        import cv2

        cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)


def _functions(name: str) -> Iterator[ctypes._NamedFuncPointer]:
    """The function in every loaded OpenBLAS."""
    maps = ""
    with suppress(OSError):
        maps = Path("/proc/self/maps").read_text()
    for path in sorted(set(re.findall(r"(/.*blas[^/]*\.so[^/]*)$", maps, re.MULTILINE))):
        with suppress(OSError):
            library = ctypes.CDLL(path)
            for form in _NAMES:
                with suppress(AttributeError):
                    yield getattr(library, form.format(name))


def usable_cores(root: Path = Path("/")) -> int:
    """How many cores this process may use: of those it is bound to, as many as its container is granted (cgroup v2).

    ``root``: where /proc and /sys are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no cgroup v2, or no limit ("max")
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        own = next((line for line in groups if line.startswith("0::")), "")
        quota, period = (root / "sys/fs/cgroup" / own[3:].strip("/") / "cpu.max").read_text().split()
        return min(cores, max(1, round(int(quota) / int(period))))
    return cores


_log = logging.getLogger(__name__)
THREADS = min(4, usable_cores())
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@lru_cache(maxsize=1)
def thread_pool() -> ThreadPoolExecutor:
    """The pool of this process; its threads keep their workspaces between alignments."""
    return ThreadPoolExecutor(THREADS, "pool")


def each(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """``function`` of all items, in order, on the pool's threads; many small items are grouped into few tasks.

    The first exception, in the order of the items, is raised here.
    """
    if len(items) < 2:
        return [function(item) for item in items]
    size = -(-len(items) // (2 * THREADS)) if len(items) > 8 * THREADS else 1
    parts = [items[low : low + size] for low in range(0, len(items), size)]
    return [
        result for part in thread_pool().map(lambda part: [function(item) for item in part], parts) for result in part
    ]


Result = TypeVar("Result")

MOST_NICE = 20
_POLL_S = 0.005
_LONGEST_S = 600.0  # a child that takes longer hangs on a lock that another thread held at the fork


@dataclass(frozen=True)
class _Failure:
    """In place of a result."""

    why: str


class Aside(Generic[Result]):
    """The result of ``work()``, computed in a forked child. OpenCV must use one thread, and no device may be in use."""

    def __init__(self, work: Callable[[], Result], nice: int = 0) -> None:
        """``nice``: how much to yield to everything else on the machine; ``MOST_NICE`` yields always."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._until = time.monotonic() + _LONGEST_S
        self._pid: int | None = None
        self._parent = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            _run(work, self._file.fileno(), nice)

    @property
    def done(self) -> bool:
        """Whether the result has arrived or never will."""
        if self._pid is not None and os.waitpid(self._pid, os.WNOHANG)[0]:
            self._pid = None
        if time.monotonic() > self._until:
            self.cancel()
        return self._pid is None

    def wait(self) -> None:
        """Wait until ``done``."""
        while not self.done:
            time.sleep(_POLL_S)

    def result(self) -> Result | None:
        """Wait for the result; None, and a warning, if the child ended without one."""
        self.wait()
        self._file.seek(0)
        found: Result | _Failure = _Failure("its process was ended")
        with contextlib.suppress(EOFError, pickle.UnpicklingError):
            found = pickle.load(self._file)
        if isinstance(found, _Failure):
            _log.warning("what was computed aside has no result: %s", found.why)
            return None
        return found

    def __del__(self) -> None:
        """Nobody waits for the result."""
        self.cancel()

    def cancel(self) -> None:
        """End the child; does nothing in another child, whose copy of this is garbage."""
        if self._pid is not None and os.getpid() == self._parent:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = None


def _run(work: Callable[[], object], descriptor: int, nice: int) -> None:
    """In the child: compute, write, exit, without closing or flushing anything of the parent's."""
    try:
        end_with_parent()
        os.nice(nice)
        if nice >= MOST_NICE and hasattr(os, "SCHED_IDLE"):  # Linux
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        thread_pool.cache_clear()  # its threads do not survive the fork
        try:
            result: object = work()
        except Exception:  # whatever it is, the parent goes on
            result = _Failure(traceback.format_exc().strip())
        data = memoryview(pickle.dumps(result))
        while data:
            data = data[os.write(descriptor, data) :]
        os._exit(0)
    except BaseException:
        os._exit(1)
