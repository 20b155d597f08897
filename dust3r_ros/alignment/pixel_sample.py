"""The few pixels that stand for an image while its edges are being weighed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.types import Array, Array32, PairPrediction

PIXELS = 768  # every 8th row and column of a 256 x 192 image

# Steps of the two-dimensional additive recurrence with the lowest discrepancy known: powers of the
# inverse of the plastic number (Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018).
_PLASTIC = 1.32471795724474602596
_STEPS = np.array([1.0 / _PLASTIC, 1.0 / _PLASTIC**2])


@dataclass(frozen=True, eq=False)
class PixelSample:
    """``PIXELS`` pixels spread evenly over an image: ``flat`` (P,) indices, ``offsets`` (P, 2) from its middle."""

    flat: NDArray[np.int64]
    offsets: Array

    def rays(self, focal: float) -> Array32:
        """(P, 3) directions with z = 1; ``focal`` in pixels."""
        return np.column_stack([self.offsets / focal, np.ones(len(self.offsets))]).astype(np.float32)


@lru_cache(maxsize=32)
def pixel_sample(height: int, width: int) -> PixelSample:
    """The sample of an image of this size: the same number for every size, so that edges stack."""
    at = (0.5 + np.arange(PIXELS)[:, None] * _STEPS) % 1.0
    columns, rows = np.floor(at * [width, height]).astype(np.int64).T
    return PixelSample(rows * width + columns, np.column_stack([columns, rows]) - np.asarray(center_of(height, width)))


@lru_cache(maxsize=32)
def sampled_rays(height: int, width: int, focal: float) -> Array32:
    """``rays`` of the sample of an image of this size."""
    return pixel_sample(height, width).rays(focal)


@dataclass(frozen=True, eq=False)
class SampledPair:
    """What the sampled pixels of one prediction say, in the pair's own unit; weights (P,) are log confidence.

    ``points`` (P, 3): the second view's pixels in the first view's frame; ``depth`` (P,): z of the
    first view's pixels.
    """

    first: int
    second: int
    points: Array32
    weight: Array32
    depth: Array32
    depth_weight: Array32


def sample_pair(prediction: PairPrediction) -> SampledPair:
    """A prediction at its sampled pixels; what is not finite or lies behind the first camera weighs nothing."""
    here = pixel_sample(*prediction.confidence_first.shape).flat
    there = pixel_sample(*prediction.confidence_second.shape).flat
    depth = np.asarray(prediction.points_first, dtype=np.float32).reshape(-1, 3)[here, 2]
    points = np.asarray(prediction.points_second, dtype=np.float32).reshape(-1, 3)[there]
    depth, depth_weight = _weighed(depth, prediction.confidence_first.ravel()[here], np.asarray(depth > 0))
    points, weight = _weighed(points, prediction.confidence_second.ravel()[there], np.isfinite(points).all(axis=-1))
    return SampledPair(prediction.first, prediction.second, points, weight, depth, depth_weight)


def _weighed(values: Array32, confidence: Array32, usable: Any) -> tuple[Array32, Array32]:
    usable = usable & np.isfinite(confidence) & (confidence > 1.0) & np.isfinite(values).reshape(len(values), -1).all(1)
    weight = np.where(usable, np.log(np.where(usable, confidence, 1.0)), 0.0).astype(np.float32)
    return np.where(usable.reshape(-1, *[1] * (values.ndim - 1)), values, np.float32(0.0)), weight
