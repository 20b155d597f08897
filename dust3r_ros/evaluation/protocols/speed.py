"""Speed and memory of a backend; those of the mapper come with a mapping (``of_map``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dust3r_ros.backends.base import Backend
from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.protocols.cost import Cost, rate
from dust3r_ros.evaluation.protocols.predictor import Predictor
from dust3r_ros.evaluation.protocols.recordings import Recording, select
from dust3r_ros.evaluation.protocols.rows import Row, guarded, row

PROTOCOL = "speed"


def run_speed(recordings: Iterable[Recording], backend: Backend, *, pairs: int = 20, size: int = 512) -> Iterator[Row]:
    """One row per recording: ordered pairs per second of neighbouring views, encoding of every view once with it.

    A first pair, which warms up, is not counted; decoding of images is not either.
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
