"""An object in its own process: methods are called from here, results and messages come back.

``python -m dust3r_ros.mapping.process`` is that process.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from dust3r_ros.errors import BackendError
from dust3r_ros.geometry.processes import usable_cores
from dust3r_ros.mapping.channel import Channel, shared_file

_PAUSE_S = 0.01  # a waiting image is requested within this time
NICENESS = 10  # the front end has priority
_ROOT = Path(__file__).resolve().parents[2]

Send = Callable[[str, Any], None]


class Host(Protocol):
    """The object that lives in the process."""

    def work(self, idle: bool) -> bool:
        """Do a piece of deferred work; returns whether there may be more. Not ``idle``: a call came just now."""


class RemoteObject:
    """The object returned by ``make(report, *arguments)``, in its own process at a lower priority.

    ``make`` is a module-level function. ``on_message(kind, value)`` gets the object's messages, ``on_end(reason)`` is
    called if the process ends unexpectedly; both in their own thread. Raises what ``make`` raises.
    """

    def __init__(
        self,
        make: Callable[..., Host],
        arguments: tuple[Any, ...],
        on_message: Send,
        on_end: Callable[[str], None],
    ) -> None:
        self._on_message, self._on_end = on_message, on_end
        self._numbers, self._asked = itertools.count(), dict[int, Future[Any]]()
        self._lock, self._stopping = threading.Lock(), False
        ours, theirs = socket.socketpair()
        files = shared_file(), shared_file()
        with theirs:
            self._process = _start(theirs.fileno(), files)
        self._channel = Channel(Connection(ours.detach()), *files)
        for descriptor in files:
            os.close(descriptor)
        made: Future[Any] = Future()
        self._asked[-1] = made
        self._reader = threading.Thread(target=self._read, name="back end", daemon=True)
        self._channel.send((make, arguments))
        self._reader.start()
        try:
            made.result()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def call(self, method: str, *arguments: Any) -> Future[Any]:
        """Queue a call of a method; the future gets its result or exception."""
        future: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            self._asked[number] = future
        try:
            self._channel.send((number, method, arguments))
        except (OSError, ValueError):
            self._fail_all()
        return future

    def stop(self) -> None:
        """End the process after the queued calls; returns when it is gone."""
        self._stopping = True
        with contextlib.suppress(OSError, ValueError):
            self._channel.send((-1, "", ()))
        self._process.wait()
        if self._reader.is_alive() and self._reader is not threading.current_thread():
            self._reader.join()
        self._fail_all()

    def _read(self) -> None:
        while True:
            try:
                number, kind, value = self._channel.receive()
            except (OSError, EOFError):
                break
            except Exception:  # a message that cannot be read: nobody would get an answer any more
                traceback.print_exc()
                self._process.kill()
                break
            if number is None:
                try:
                    self._on_message(kind, value)
                except Exception:  # messages and answers still on their way are received
                    traceback.print_exc()
                continue
            with self._lock:
                future = self._asked.pop(number, None)
            if future is None:  # it failed: the process ended after it had answered
                continue
            if kind == "error":
                future.set_exception(value)
            else:
                future.set_result(value)
        self._channel.close()
        code = self._process.wait()
        self._fail_all()
        if not self._stopping:
            self._on_end(f"signal {-code}" if code < 0 else f"exit code {code}")

    def _fail_all(self) -> None:
        with self._lock:
            asked, self._asked = self._asked, {}
        for future in asked.values():
            if not future.done():
                future.set_exception(BackendError("the mapping process ended before it could answer"))


def _start(connection: int, files: tuple[int, int]) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = str(max(1, usable_cores() - 1))  # of a network: one core is left to the front end
    environment: Mapping[str, str] = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": path}
    words = [sys.executable, "-m", "dust3r_ros.mapping.process", str(os.getpid())]
    words += [str(descriptor) for descriptor in (connection, files[1], files[0])]
    return subprocess.Popen(words, pass_fds=(connection, *files), env=environment, stdin=subprocess.DEVNULL)


# Inside the process


def _die_with(parent: int) -> None:
    """End with the process that started this one, even if that is killed: nothing else would end this one."""

    def watch() -> None:
        with contextlib.suppress(OSError, AttributeError):
            select.select([os.pidfd_open(parent)], [], [])  # Linux: returns when it ends
        while os.getppid() == parent:
            time.sleep(0.05)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _serve(channel: Channel) -> None:
    make, arguments = channel.receive()
    try:
        host: Host = make(lambda kind, value: channel.send((None, kind, value)), *arguments)
    except Exception as error:
        channel.send((-1, "error", _picklable(error)))
        return
    channel.send((-1, "result", None))
    while True:
        host.work(False)
        while not channel.waits(_PAUSE_S) and host.work(True):
            pass
        number, method, values = channel.receive()
        if number < 0:
            return
        try:
            answer = "result", getattr(host, method)(*values)
        except Exception as error:  # an OSError, too: it is the method's, and not of the channel
            answer = "error", _picklable(error)
        try:
            channel.send((number, *answer))
        except OSError:
            return
        except Exception as error:
            channel.send((number, "error", _picklable(error)))


def main(argv: list[str]) -> int:
    """Run the process; arguments: parent's id, socket, shared files out and in."""
    parent, connection, out_file, in_file = map(int, argv)
    _die_with(parent)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # the node receives them too and ends this process in order
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    import cv2

    cv2.setNumThreads(1)  # pairs and keyframes are distributed to threads, and this process forks
    os.register_at_fork(after_in_child=lambda: os.close(connection))
    channel = Channel(Connection(connection), out_file, in_file)
    with contextlib.suppress(EOFError, OSError):
        _serve(channel)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
