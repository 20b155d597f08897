"""Rendered sequences in the form of recordings of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dust3r_ros.evaluation.protocols.recordings import Selection, select
from dust3r_ros.scenes.sequence import RenderedSequence


@dataclass(frozen=True, eq=False)
class RecordedFrame:
    """One frame of a sequence; what is None is not known."""

    stamp_ns: int
    camera: str
    K: Any
    w_T_c: Any
    picture: Any
    distances: Any

    def image(self) -> Any:
        return self.picture

    def depth(self) -> Any:
        return self.distances


@dataclass(frozen=True, eq=False)
class RecordedSequence:
    name: str
    dataset: str
    views: tuple[RecordedFrame, ...]
    metric: bool = True
    ordered: bool = True
    split: str = ""
    scene: str = ""


def recorded(
    sequence: RenderedSequence, *, depth: bool = True, poses: bool = True, name: str = "", **more: Any
) -> RecordedSequence:
    """All frames of ``sequence`` with what is true of them."""
    f, height, width = sequence.focal, sequence.height, sequence.width
    K = np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1]])
    views = [
        RecordedFrame(
            int(stamp), "camera", K, sequence.w_T_c[i] if poses else None, sequence.images[i],
            sequence.depths[i] if depth else None,
        )
        for i, stamp in enumerate(sequence.stamps_ns)
    ]  # fmt: skip
    return RecordedSequence(name or sequence.name, "rendered", tuple(views), **more)


def split(recording: Any, every: int) -> tuple[Selection, Selection]:
    """(database, queries): every ``every``-th view, starting in the middle of the first ``every``, is a query."""
    count = len(recording.views)
    queries = list(range(every // 2, count, every))
    return select(recording, sorted(set(range(count)) - set(queries))), select(recording, queries)
