"""Speed and memory: rate per second, and peak memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from dust3r_ros.backends.base import Backend
from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Recording
from dust3r_ros.evaluation.protocols.predictor import Predictor
from dust3r_ros.evaluation.protocols.recordings import select
from dust3r_ros.evaluation.protocols.rows import Row, guarded, row
from dust3r_ros.products.results import peak_memory_mb

_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): resets the peak resident set size


def rate(count: int, seconds: float) -> float:
    """Per second. Raises ``InputError`` for a time that is not positive or a negative count."""
    if count < 0 or not (np.isfinite(seconds) and seconds > 0):
        raise InputError(f"{count} in {seconds} s is not a rate; the time must be positive, the count 0 or more")
    return count / seconds


class Cost:
    """Seconds of the stretches that were timed, and peak memory since this was made.

    ``peak_memory_mb`` (10^6 bytes of resident memory of this process) counts from ``Cost()`` where the system can reset
    it (Linux), else from the start of the process; ``peak_device_mb`` is what torch allocated on CUDA devices, None
    where the process does not use CUDA. Decoding images and comparing with truth stay outside ``timed``.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        _reset()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Adds the seconds of its block. Waits for work on CUDA."""
        _wait()
        start = perf_counter()
        try:
            yield
        finally:
            _wait()
            self.seconds += perf_counter() - start

    @property
    def peak_memory_mb(self) -> float:
        """MB (10^6 bytes)."""
        return peak_memory_mb()

    @property
    def peak_device_mb(self) -> float | None:
        """MB (10^6 bytes), over all CUDA devices; None without."""
        cuda = _cuda()
        if cuda is None:
            return None
        return sum(cuda.max_memory_allocated(index) for index in range(cuda.device_count())) / 1e6


def _reset() -> None:
    """Peak memory counts from now on, where the system can do that."""
    cuda = _cuda()
    if cuda is not None:
        for index in range(cuda.device_count()):
            cuda.reset_peak_memory_stats(index)
    with suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK)


def _wait() -> None:
    cuda = _cuda()
    if cuda is not None:
        cuda.synchronize()


def _cuda() -> Any:
    """``torch.cuda`` where torch is loaded and has begun to use a device: this module itself never loads torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


PROTOCOL = "speed"


def run_speed(recordings: Iterable[Recording], backend: Backend, *, pairs: int = 20, size: int = 512) -> Iterator[Row]:
    """One row per recording: ordered pairs of neighbouring views per second, each view encoded once.

    The first pair (warm-up) and the decoding of images are not counted.
    """
    for recording in recordings:

        def measure(recording: Recording = recording) -> Row:
            if len(recording.views) < 2:
                raise InputError(f"'{recording.name}' has {len(recording.views)} views; a pair needs 2")
            chosen = select(recording, range(min(len(recording.views), pairs // 2 + 1)))
            predictor, cost = Predictor(backend, size), Cost()
            predictor.take(chosen.views[:2])
            predictor.predict([(0, 1)])
            with cost.timed():
                views = predictor.take(chosen.views)
                asked = [pair for i in range(len(views) - 1) for pair in ((i, i + 1), (i + 1, i))]
                predictor.predict(asked)
            height, width = views[0].image.shape[:2]
            return row(
                recording, PROTOCOL, backend.name, pairs=len(asked), width=width, height=height,
                seconds=cost.seconds, pairs_per_second=rate(len(asked), cost.seconds),
                peak_memory_mb=cost.peak_memory_mb, peak_device_mb=cost.peak_device_mb,
            )  # fmt: skip

        yield guarded(recording, PROTOCOL, backend.name, measure)
