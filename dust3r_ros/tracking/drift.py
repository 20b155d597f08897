"""How corners that are followed drift, as the keyframes around an image tell, and what they are without it.

Where a corner of a keyframe should be is known in the end: where its landmark is. What it was off by there, it was in
the images around too, for it was followed from one to the other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array

_MOST_PX = 3.0  # more is another spot


@dataclass(frozen=True, eq=False)
class Sight:
    """The corners (N) that were followed into the image of a stamp.

    ``anchored_ns``: stamp of the keyframe that they were last told anew from.
    """

    stamp_ns: int
    tracks: Tracks
    anchored_ns: int


@dataclass(frozen=True, eq=False)
class Drift:
    """By how much (N, 2) the corners with these ``ids`` (N,) were off in a keyframe, pixels; NaN: nobody knows."""

    stamp_ns: int
    ids: np.ndarray
    pixels: Array


def without_drift(sight: Sight, drifts: Sequence[Drift]) -> Tracks:
    """The corners of an image without their drift, by keyframes of its camera in order of time.

    In an image that came before the corners of the last keyframe were told anew they are off as in that keyframe; else
    by a part of what they will be off by in the next one.
    """
    at = bisect_left(drifts, sight.stamp_ns, key=lambda drift: drift.stamp_ns)
    if at == 0:
        return sight.tracks
    last, share = drifts[at - 1], 1.0
    if sight.anchored_ns >= last.stamp_ns:
        if at == len(drifts):
            return sight.tracks
        share = (sight.stamp_ns - last.stamp_ns) / (drifts[at].stamp_ns - last.stamp_ns)
        last = drifts[at]
    ids, pixels = sight.tracks.ids, sight.tracks.pixels.copy()
    _, own, there = np.intersect1d(ids, last.ids, return_indices=True)
    off = last.pixels[there]
    near = np.linalg.norm(off, axis=1) < _MOST_PX
    pixels[own[near]] -= share * off[near]
    return Tracks(ids, pixels)
