"""Poses by time, for images whose stamps are not those of the poses."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

import numpy as np

from dust3r_ros.geometry.rigid import interpolate
from dust3r_ros.types import Array


class Track:
    """Poses (4, 4) sorted by stamp; between two the pose lies on the way from one to the other."""

    def __init__(self, poses: Iterable[tuple[int, Array]]) -> None:
        found = sorted(poses, key=lambda item: item[0])
        self._stamps, self._poses = [stamp for stamp, _ in found], [T for _, T in found]

    def at(self, stamp_ns: int, tolerance_ns: int) -> Array | None:
        """The pose at a stamp; None unless one is there or one before and one after are within the tolerance."""
        after = bisect_left(self._stamps, stamp_ns)
        if after < len(self._stamps) and self._stamps[after] == stamp_ns:
            return self._poses[after]
        if after == 0 or after == len(self._stamps):
            return None
        low, high = self._stamps[after - 1], self._stamps[after]
        if stamp_ns - low > tolerance_ns or high - stamp_ns > tolerance_ns:
            return None
        return interpolate(self._poses[after - 1], self._poses[after], (stamp_ns - low) / (high - low))


def nearest(stamps: list[int], stamp_ns: int, tolerance_ns: int) -> int | None:
    """Index of the nearest of sorted stamps, None where it is further off than the tolerance (nanoseconds)."""
    if not stamps:
        return None
    after = bisect_left(stamps, stamp_ns)
    around = [index for index in (after - 1, after) if 0 <= index < len(stamps)]
    best = min(around, key=lambda index: abs(stamps[index] - stamp_ns))
    return best if abs(stamps[best] - stamp_ns) <= tolerance_ns else None


def nominal(index: int, hz: int = 30) -> int:
    """Stamp in nanoseconds of image ``index`` where the data set has none: ``hz`` images a second from 0."""
    return int(index) * 10**9 // hz


def scaled(T: Array, factor: float) -> Array:
    """(4, 4) with its translation in another unit."""
    result = np.array(T, np.float64)
    result[:3, 3] *= factor
    return result
