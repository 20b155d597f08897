"""What the mapper, which knows no clock, has others see to: stage latencies, progress, the order of stamps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter

import numpy as np

from dust3r_ros.errors import InputError

# Frames of a camera that overtake each other on the network are at most this far apart; clocks and bags jump further.
REORDERED_NS = 100_000_000

StageTimer = Callable[[str], AbstractContextManager[None]]
Tick = Callable[[int, int], object]  # takes the steps done, and their number
Heard = Callable[[str, float, float], object]


def no_timer(stage: str) -> AbstractContextManager[None]:
    """Measures nothing."""
    return nullcontext()


class Stopwatch:
    """Collects seconds per stage: ``with stopwatch("track"): …``. The newest ``keep`` per stage count.

    ``heard(stage, begin, end)`` gets each one, in seconds of ``perf_counter``.
    """

    def __init__(self, keep: int = 100_000, heard: Heard | None = None) -> None:
        self._keep, self._heard = keep, heard
        self._seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            end = perf_counter()
            self.note(stage, start, end)
            if self._heard is not None:
                self._heard(stage, start, end)

    def note(self, stage: str, begin: float, end: float) -> None:
        """A stage that was measured elsewhere, by ``perf_counter``."""
        times = self._seconds[stage]
        times.append(end - begin)
        if len(times) > self._keep:
            del times[: self._keep // 2]

    def total(self, stage: str) -> float:
        """Seconds of a stage, over the calls that count; 0 for one that was never timed."""
        return sum(self._seconds.get(stage, ()))

    def summary(self) -> dict[str, dict[str, float]]:
        """{stage: {count, p50, p95, max}}, milliseconds."""
        return {
            stage: {
                "count": len(times),
                "p50_ms": round(1e3 * float(np.percentile(times, 50)), 3),
                "p95_ms": round(1e3 * float(np.percentile(times, 95)), 3),
                "max_ms": round(1e3 * max(times), 3),
            }
            for stage, times in self._seconds.items()
        }


def no_tick(done: int, count: int) -> None:
    """Nobody watches the progress."""


class StampOrder:
    """The newest stamp of every camera; cameras may have different clocks."""

    def __init__(self, jumps: bool) -> None:
        """``jumps``: whether time may be set back; else every image before the last one is refused."""
        self._jumps = jumps
        self._last: dict[str, int] = {}
        self._before: dict[str, int] = {}

    def back(self, camera: str, stamp_ns: int) -> int:
        """By how many ns time was set back before this image; 0 if it was not.

        Raises ``InputError`` for an image that was seen already or was overtaken by others.
        """
        back = self._last.get(camera, stamp_ns - 1) - stamp_ns
        if back < 0:
            return 0
        if back == 0:
            raise InputError(f"image stamp {stamp_ns} ns repeats the last one; stamps must increase")
        if back <= REORDERED_NS or not self._jumps:
            seconds = back * 1e-9
            raise InputError(f"image stamp {stamp_ns} ns is {seconds:.3f} s before the last one; stamps must increase")
        return back

    def took(self, camera: str, stamp_ns: int) -> None:
        """An image was used."""
        self._before[camera], self._last[camera] = self._last.get(camera, 0), stamp_ns

    def take_back(self, camera: str, stamp_ns: int) -> None:
        """The image was not used after all: another one may have its stamp, unless newer ones came."""
        if self._last.get(camera) == stamp_ns:
            self._last[camera] = self._before[camera]

    def clear(self) -> None:
        """Forget all stamps: time was set back."""
        self._last.clear()
        self._before.clear()
