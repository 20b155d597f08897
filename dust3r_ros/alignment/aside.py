"""Work on a copy of this process, while this one goes on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from dust3r_ros.alignment.thread_pool import thread_pool

Result = TypeVar("Result")

MOST_NICE = 20
_POLL_S = 0.005
_LONGEST_S = 600.0  # a child that takes longer hangs: a lock that another thread held when it was forked


class Aside(Generic[Result]):
    """What ``work()`` returns, computed in a forked child. OpenCV must use one thread, and no device may be in use."""

    def __init__(self, work: Callable[[], Result], nice: int = 0) -> None:
        """``nice``: how far everything else on the machine goes first, ``MOST_NICE``: always."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._until = time.monotonic() + _LONGEST_S
        self._pid: int | None = None
        self._pid = os.fork()
        if not self._pid:
            _run(work, self._file.fileno(), nice)

    @property
    def done(self) -> bool:
        """Whether the result is there, or will never be."""
        if self._pid is not None and os.waitpid(self._pid, os.WNOHANG)[0]:
            self._pid = None
        if time.monotonic() > self._until:
            self.cancel()
        return self._pid is None

    def result(self) -> Result | None:
        """Wait for the result; None where the child ended without one."""
        while not self.done:
            time.sleep(_POLL_S)
        self._file.seek(0)
        with contextlib.suppress(EOFError, pickle.UnpicklingError):
            found: Result = pickle.load(self._file)
            return found
        return None

    def __del__(self) -> None:
        """Nobody waits for the result."""
        self.cancel()

    def cancel(self) -> None:
        """End the child."""
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = None


def _run(work: Callable[[], object], descriptor: int, nice: int) -> None:
    """In the child: compute, write, end; nothing of the parent's is closed or flushed on the way."""
    try:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the parent (Linux)
        os.nice(nice)
        if nice >= MOST_NICE and hasattr(os, "SCHED_IDLE"):  # Linux
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        thread_pool.cache_clear()  # its threads are not in the copy
        data = memoryview(pickle.dumps(work()))
        while data:
            data = data[os.write(descriptor, data) :]
        os._exit(0)
    except BaseException:
        os._exit(1)
