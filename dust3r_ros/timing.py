"""Stage latencies, measured outside the mapper (which knows no clock)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter

import numpy as np

StageTimer = Callable[[str], AbstractContextManager[None]]


def no_timer(stage: str) -> AbstractContextManager[None]:
    """Measures nothing."""
    return nullcontext()


class Stopwatch:
    """Collects seconds per stage: ``with stopwatch("track"): …``. The newest ``keep`` per stage count."""

    def __init__(self, keep: int = 100_000) -> None:
        self._keep = keep
        self._seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            times = self._seconds[stage]
            times.append(perf_counter() - start)
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
