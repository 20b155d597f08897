"""The depth of every keyframe, gathered from the pairs it is part of."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from dust3r_ros.alignment.depth_filling import fill_depth
from dust3r_ros.alignment.depth_fusion import fuse_depths
from dust3r_ros.types import Array, Array32, PairPrediction


class DepthMaps:
    """Depth estimates per keyframe, one for each other view of its pairs, and what they fuse to, gaps closed.

    Everything is in map units and z of the keyframe's own camera. Single estimates are let go by
    ``freeze``; the fused map stays.
    """

    def __init__(self) -> None:
        self._estimates: dict[int, dict[int, tuple[Array32, Array32]]] = {}
        self._fused: dict[int, tuple[Array32, Array32]] = {}

    def absorb(
        self, prediction: PairPrediction, second_T_first: Array, scale: float, only: Collection[int] | None = None
    ) -> None:
        """Take the depth of both views of a pair whose unit is ``scale`` map units, or of those in ``only``."""
        first, second = prediction.first, prediction.second
        wanted = (first, second) if only is None else only
        if first in wanted:
            self._put(first, second, scale * prediction.points_first[..., 2], prediction.confidence_first)
        if second in wanted:
            x, y, z = np.moveaxis(prediction.points_second, -1, 0)
            row = (scale * second_T_first[2, :3]).astype(np.float32)
            depth = row[0] * x + row[1] * y + (row[2] * z + np.float32(second_T_first[2, 3]))
            self._put(second, first, depth, prediction.confidence_second)

    def _put(self, index: int, other: int, depth: Array32, confidence: Array32) -> None:
        self._estimates.setdefault(index, {})[other] = (
            np.where(confidence > 1.0, depth, 0.0).astype(np.float32),
            np.where(depth > 0, confidence, 1.0).astype(np.float32),
        )
        self._fused.pop(index, None)

    def get(self, index: int) -> tuple[Array32, Array32] | None:
        """(depth, confidence) of a keyframe, None while no pair told anything."""
        if index not in self._fused:
            estimates = list(self._estimates.get(index, {}).values())
            if not estimates:
                return None
            self._fused[index] = fill_depth(*fuse_depths([e[0] for e in estimates], [e[1] for e in estimates]))
        return self._fused[index]

    def freeze(self, index: int) -> None:
        """Keep only the fused map of a keyframe; it counts as one estimate if others come later."""
        fused = self.get(index)
        if fused is not None:
            self._estimates[index] = {index: fused}

    def clear(self, index: int) -> None:
        """Forget the depth of a keyframe."""
        self._estimates.pop(index, None)
        self._fused.pop(index, None)

    def rescale(self, index: int, factor: float) -> None:
        """The keyframe's surroundings grew by ``factor``."""
        for other, (depth, confidence) in self._estimates.get(index, {}).items():
            self._estimates[index][other] = (depth * np.float32(factor), confidence)
        if index in self._fused:
            depth, confidence = self._fused[index]
            self._fused[index] = (depth * np.float32(factor), confidence)

    def take_over(self, other: DepthMaps, first: int, scale: float) -> None:
        """The depth of another map, whose keyframes are these from ``first`` on and whose unit is ``scale`` units."""
        for index in list(other._estimates):
            fused = other.get(index)
            if fused is not None:
                self._fused[first + index] = fused
                self._estimates[first + index] = {first + index: fused}
                self.rescale(first + index, scale)
