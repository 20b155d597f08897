"""``dust3r_node`` as a process that is forked from one that has imported it: a start without the imports."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
# With what a node imports once it is configured.
_FORKS.set_forkserver_preload(
    ["dust3r_ros.node.main", "dust3r_ros.node.jobs", "dust3r_ros.mapping.process", "dust3r_ros.session.back_end"]
)


class ForkedNode:
    """A node with these arguments and environment variables, in ``folder``; used as ``subprocess.Popen`` is."""

    def __init__(self, arguments: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = _FORKS.Process(target=_run, args=(list(arguments), log, folder, dict(environment)))
        self._process.start()

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


def _run(arguments: list[str], log: Path, folder: Path, environment: dict[str, str]) -> None:
    written = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(written, number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    from dust3r_ros.node.main import main

    sys.exit(main(["dust3r_node", *arguments]))
