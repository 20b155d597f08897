"""What a map's unit was when it was last known, told again by the distances of its keyframes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from dust3r_ros.metric.evidence import ScaleEvidence
from dust3r_ros.types import Array, Keyframe

_ANCHORS = 64  # keyframes at most, spread over the map
_FEWEST = 2
_BENT_STD = 0.02  # what refinements change of distances beside a common factor, relative


class UnitMemory:
    """Keyframes of the map as they stand, and where some of them stood when the unit was the metre.

    It speaks for a map that is loaded, or whose odometry is gone, and not for another map that the camera is in:
    of that it knows no keyframe.
    """

    def __init__(self) -> None:
        self._present: dict[int, Array] = {}  # positions by keyframe
        self._anchors: dict[int, Array] = {}
        self._std = math.inf

    @property
    def relative_std(self) -> float:
        """How well the unit was known when it was; infinite for never."""
        return self._std

    def hear(self, changed: Iterable[Keyframe], removed: Iterable[int] = ()) -> None:
        """Keyframes that moved or are new, and those that left."""
        for index in removed:
            self._present.pop(index, None)
        for keyframe in changed:
            self._present[keyframe.index] = keyframe.w_T_c[:3, 3]

    def keep(self, relative_std: float) -> None:
        """The map's unit is the metre as it stands, known to ``relative_std``."""
        spread = sorted(self._present)[:: max(1, math.ceil(len(self._present) / _ANCHORS))]
        self._anchors = {index: self._present[index] for index in spread}
        self._std = relative_std

    def tell(self) -> ScaleEvidence | None:
        """Metres per unit of the map as it stands; None where the unit was never known, or not of this map."""
        common = self._anchors.keys() & self._present.keys()
        if not math.isfinite(self._std) or len(common) < _FEWEST:
            return None
        then, now = (_spread(positions, sorted(common)) for positions in (self._anchors, self._present))
        if not (then > 0 and now > 0):
            return None
        return ScaleEvidence("memory", then / now, math.hypot(self._std, _BENT_STD), len(common))


def _spread(positions: Mapping[int, Array], indices: list[int]) -> float:
    """The median distance between keyframes, each with the one that is half a list away."""
    at = np.array([positions[index] for index in indices])
    return float(np.median(np.linalg.norm(at - np.roll(at, len(at) // 2, axis=0), axis=1)))
