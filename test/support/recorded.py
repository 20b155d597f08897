"""Rendered sequences in the form of recordings of a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dust3r_ros.evaluation.datasets import Recording, View
from dust3r_ros.evaluation.protocols.recordings import select
from dust3r_ros.scenes.sequence import RenderedSequence


def recorded(
    sequence: RenderedSequence, *, depth: bool = True, poses: bool = True, name: str = "", **more: Any
) -> Recording:
    """All frames of ``sequence`` with what is true of them."""
    f, height, width = sequence.focal, sequence.height, sequence.width
    K = np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1]])
    views = [
        View(
            int(stamp), "camera", K, sequence.w_T_c[i] if poses else None, read(sequence.images[i]),
            read(sequence.depths[i]) if depth else None,
        )
        for i, stamp in enumerate(sequence.stamps_ns)
    ]  # fmt: skip
    return Recording(name or sequence.name, "rendered", tuple(views), **more)


def read(pixels: Any) -> Callable[[], Any]:
    """What reads an image or depth that is there already."""
    return lambda: pixels


def split(recording: Recording, every: int) -> tuple[Recording, Recording]:
    """(database, queries): every ``every``-th view, starting in the middle of the first ``every``, is a query."""
    count = len(recording.views)
    queries = list(range(every // 2, count, every))
    return select(recording, sorted(set(range(count)) - set(queries))), select(recording, queries)
