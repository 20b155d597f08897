"""One focal per camera, pooled over its keyframes: surer with every one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.focal import FOCAL_LIMITS, estimate_focal, pooled_focal, reference_focal
from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.types import PairPrediction

_PIXELS = 768  # of a view, that tell its focal: errors of pointmaps reach over more than what lies between


@dataclass
class FocalPool:
    """The focal of one camera, pixels of its pointmaps; ``given`` ones are never changed."""

    given: float | None = None
    _focals: list[float] = field(default_factory=list)
    _weights: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._focals)

    @property
    def votes(self) -> list[tuple[float, float]]:
        """(focal, weight) of every vote."""
        return list(zip(self._focals, self._weights, strict=True))

    @classmethod
    def of(cls, given: float | None, votes: Sequence[tuple[float, float]]) -> FocalPool:
        """A pool of votes that were counted before."""
        return cls(given, [focal for focal, _ in votes], [weight for _, weight in votes])

    def vote(self, predictions: Sequence[PairPrediction]) -> bool:
        """Let the first views of the predictions that came with one keyframe vote, as one; whether they did."""
        logs, weights = [], []
        for prediction in predictions if self.given is None else ():
            weight = float(
                np.mean(np.log(np.maximum(np.nan_to_num(prediction.confidence_first, nan=1.0, posinf=1.0), 1.0)))
            )
            try:
                logs.append(math.log(_first_focal(prediction)))
                weights.append(weight)
            except GeometryError:
                continue
        if not sum(weights) > 0:
            return False
        self._focals.append(math.exp(np.average(logs, weights=weights)))
        self._weights.append(float(np.mean(weights)))
        return True

    def withdraw(self) -> None:
        """Forget the last vote."""
        self._focals.pop()
        self._weights.pop()

    def value(self, height: int, width: int) -> tuple[float, float]:
        """(focal, standard deviation); a guess for this size and infinity before the first vote."""
        if self.given is not None:
            return self.given, 0.0
        if not self._focals:
            return reference_focal(height, width), math.inf
        return pooled_focal(self._focals, self._weights)


def _first_focal(prediction: PairPrediction) -> float:
    """The focal of the first view from about ``_PIXELS`` pixels in rows and columns, within the usual limits."""
    height, width = prediction.confidence_first.shape
    step = max(1, round(math.sqrt(height * width / _PIXELS)))
    cx, cy = center_of(height, width)
    points, confidence = prediction.points_first[::step, ::step], prediction.confidence_first[::step, ::step]
    focal = step * estimate_focal(points, confidence, center=(cx / step, cy / step), limits=None)
    low, high = (limit * reference_focal(height, width) for limit in FOCAL_LIMITS)
    return min(max(focal, low), high)
