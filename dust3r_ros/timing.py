"""Stage latencies and progress, seen from outside the mapper (which knows no clock)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter

import numpy as np

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
