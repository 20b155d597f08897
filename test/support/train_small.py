"""dust3r-train on the room of the tests, as a process of its own, which a test may kill.

``Training`` forks it from a process that has loaded torch once; $BROKEN: indices that cannot be read, with commas.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from forks import forked
from small_worlds import NoisyRoom

from dust3r_ros.cli import train
from dust3r_ros.training.recipe import Recipe
from dust3r_ros.training.views import PairSource

# With what torch's optimisers load when the first one is made.
_PRELOAD = "dust3r_ros.training.session", "torch._dynamo", "matplotlib.backends.backend_agg"


class Training:
    """A process of dust3r-train with these options and additional environment variables.

    ``largest``: bytes beyond which no file grows.
    """

    def __init__(self, *options: object, largest: int | None = None, **environment: object) -> None:
        self._said = Path(tempfile.mkdtemp())
        variables = {name: str(value) for name, value in environment.items()}
        self._process = forked(_PRELOAD, _run, [str(option) for option in options], variables, self._said, largest)

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def send(self, signal: int) -> None:
        """A signal to a process that runs."""
        os.kill(self.pid, signal)

    def kill(self) -> None:
        """End it at once, if it runs, and wait until it is gone."""
        self._process.kill()
        self._process.join()

    def end(self, timeout: float = 120) -> tuple[int, str, str]:
        """Wait for its end: exit code, output, errors."""
        self._process.join(timeout)
        assert not self.running(), f"it has not ended after {timeout:g} s: {self._read('err')}"
        assert self._process.exitcode is not None
        return self._process.exitcode, self._read("out"), self._read("err")

    def _read(self, name: str) -> str:
        path = self._said / name
        return path.read_text(encoding="utf-8") if path.exists() else ""


def sources(
    data: Sequence[str], recipe: Recipe, world: int, cache: Path | None, device: str, rank: int
) -> list[PairSource]:
    """In place of ``open_sources``."""
    broken = frozenset(int(index) for index in os.environ.get("BROKEN", "").split(",") if index)
    return [NoisyRoom(broken=broken), NoisyRoom("second room", 25)]


def _run(options: list[str], environment: dict[str, str], said: Path, largest: int | None) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(said / name, os.O_CREAT | os.O_WRONLY), number)
    os.environ.update(environment)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    multiprocessing.set_start_method(None, force=True)  # Python's own for what it starts, as in any other process
    from dust3r_ros.training import session

    session.open_sources = sources
    sys.exit(train.main(options))
