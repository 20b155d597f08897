"""``dust3r_node`` and its back end as forks of processes that have imported them: a start without the imports."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from forks import forked

BACK_END = "back end"  # what such a process is called
_SET_NAME, _SET_CHILD_SUBREAPER = 15, 36  # of prctl
# With what a node imports once it is configured.
_PRELOAD = "dust3r_ros.node.main", "dust3r_ros.node.jobs", "dust3r_ros.mapping.process", "dust3r_ros.session.back_end"


class ForkedNode:
    """A node with these arguments and environment variables, in ``folder``; used as ``subprocess.Popen`` is."""

    def __init__(self, arguments: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = forked(_PRELOAD, _run, list(arguments), log, folder, dict(environment))

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Exit code, once it has ended; raises ``TimeoutExpired``."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("dust3r_node", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """If it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """At once."""
        self._process.kill()


class _BackEnd:
    """A child of the node; used as ``subprocess.Popen`` is."""

    def __init__(self, pid: int) -> None:
        self.pid, self._code, self._lock = pid, None, threading.Lock()

    def wait(self) -> int:
        """Exit code, once it has ended."""
        with self._lock:
            if self._code is None:
                self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            return self._code

    def kill(self) -> None:
        """At once."""
        os.kill(self.pid, signal.SIGKILL)


class _BackEnds:
    """Starts the back ends of a node, as forks of a process that was forked before the node had threads."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        if not os.fork():
            self._ours.close()
            _fork_back_ends(theirs)
        theirs.close()

    def start(self, connection: int, files: tuple[int, int]) -> _BackEnd:
        """In place of ``mapping.process._start``."""
        prctl = ctypes.CDLL(None).prctl
        prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # it becomes a child of this process, as it is at a user's
        socket.send_fds(self._ours, [str(os.getpid()).encode()], [connection, files[1], files[0]])
        found = _BackEnd(int(self._ours.recv(20)))
        prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        return found


def _fork_back_ends(asked: socket.socket) -> None:
    """One for each message, until nobody is there to ask; what forks it ends before its id is sent."""
    from dust3r_ros.mapping import process

    while True:
        parent, descriptors, *_ = socket.recv_fds(asked, 20, 3)
        if not parent:
            os._exit(0)
        reads, writes = os.pipe()
        between = os.fork()
        if not between:
            if pid := os.fork():
                os.write(writes, str(pid).encode())
                os._exit(0)
            asked.close()
            ctypes.CDLL(None).prctl(_SET_NAME, BACK_END.encode(), 0, 0, 0)
            sys.exit(process.main([parent.decode(), *map(str, descriptors)]))
        os.waitpid(between, 0)
        asked.send(os.read(reads, 20))
        for descriptor in (*descriptors, reads, writes):
            os.close(descriptor)


def _run(arguments: list[str], log: Path, folder: Path, environment: dict[str, str]) -> None:
    written = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(written, number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    from dust3r_ros.mapping import process
    from dust3r_ros.node.main import main

    process._start = _BackEnds().start  # type: ignore[assignment]
    sys.exit(main(["dust3r_node", *arguments]))
