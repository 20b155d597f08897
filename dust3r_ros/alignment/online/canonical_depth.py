"""Canonical depth of keyframes: whole maps fused from all their pairs while they are young, a few pixels later."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dust3r_ros.alignment.online.edge_store import PIXELS, pixel_sample
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.depths import fuse_depths, robust_scale
from dust3r_ros.types import Array32

_MIN_SHARED = 16  # sampled pixels that two depth maps must share before one is scaled to the other


@dataclass(frozen=True, eq=False)
class _Estimate:
    """Depth (H, W) times ``factor`` is canonical; ``sampled`` (2, P): canonical depth, confidence at sampled pixels."""

    depth: Array32
    confidence: Array32
    factor: float
    sampled: Array32


class CanonicalDepth:
    """One depth map per keyframe, each in its own unit: the median of the first estimate is 1.

    Each estimate is scaled to that unit by the robust ratio of depths, so that only its shape is
    fused. The sampled pixels (``pixel_sample``) of all keyframes stay; ``release`` drops the whole map.
    """

    def __init__(self) -> None:
        self._estimates: dict[int, list[_Estimate]] = {}
        self._fused: dict[int, tuple[Array32, Array32]] = {}  # whole maps already fused
        self._shapes: list[tuple[int, int]] = []
        self._sampled = np.zeros((2, 64, PIXELS), dtype=np.float32)
        self._stale: set[int] = set()

    def __len__(self) -> int:
        return len(self._shapes)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        maps = sum(
            e.depth.nbytes + e.confidence.nbytes + e.sampled.nbytes
            for estimates in self._estimates.values()
            for e in estimates
        )
        fused = sum(depth.nbytes + confidence.nbytes for depth, confidence in self._fused.values())
        return maps + fused + self._sampled.nbytes

    def append(self, height: int, width: int) -> int:
        """Add a keyframe without depth; returns its index."""
        index = len(self._shapes)
        if index == self._sampled.shape[1]:
            self._sampled = np.concatenate([self._sampled, np.zeros_like(self._sampled)], axis=1)
        self._shapes.append((height, width))
        self._estimates[index] = []
        return index

    def drop_last(self) -> None:
        """Forget the newest keyframe."""
        index = len(self._shapes) - 1
        self.clear(index)
        self._shapes.pop()
        del self._estimates[index]

    def clear(self, index: int) -> None:
        """Forget everything known about a keyframe's depth."""
        self._fused.pop(index, None)
        self._estimates[index] = []
        self._stale.discard(index)
        self._sampled[:, index] = 0.0

    def known(self, index: int) -> bool:
        """Whether any pixel has depth."""
        self._refresh(index)
        return bool((self._sampled[0, index] > 0).any())

    def put(self, index: int, depth: Array32, confidence: Array32) -> None:
        """Add an estimate (H, W) of z in any unit; confidence >= 1. Has no effect once released.

        Raises ``GeometryError`` if it has no depth in common with earlier estimates.
        """
        if index not in self._estimates:
            return
        at = pixel_sample(*self._shapes[index]).flat
        depth, confidence = _cleaned(depth, confidence)
        sampled, sure = depth.ravel()[at], confidence.ravel()[at]
        weight = np.log(sure) * (sampled > 0)
        if self._estimates[index]:
            if len(self._estimates[index]) == 1:
                self._refresh(index)
            reference, reference_weight = self._sampled[:, index]
            weight = weight * reference_weight
        else:
            reference = np.ones_like(sampled)
        if np.count_nonzero((weight > 0) & (reference > 0)) < _MIN_SHARED:
            raise GeometryError(
                f"keyframe {index}: of {PIXELS} sampled pixels {np.count_nonzero(weight > 0)} have depth in common "
                f"with what is known; at least {_MIN_SHARED} are needed"
            )
        factor = robust_scale(reference, sampled, weight)
        both: Array32 = np.stack([np.float32(factor) * sampled, sure])
        self._estimates[index].append(_Estimate(depth, confidence, factor, both))
        self._fused.pop(index, None)
        self._stale.add(index)

    def sample(self, index: int) -> Array32:
        """(2, P) depth and log confidence of a keyframe at the sampled pixels."""
        self._refresh(index)
        return self._sampled[:, index].copy()

    def restore(self, height: int, width: int, sample: Array32) -> None:
        """Add a released keyframe of an earlier session, of which only the ``sample`` (2, P) is left."""
        index = self.append(height, width)
        self._sampled[:, index] = sample
        del self._estimates[index]

    def sampled(self, indices: np.ndarray) -> tuple[Array32, Array32]:
        """(depth, log confidence), each (n, P), at the sampled pixels; 0 where unknown."""
        for index in self._stale.intersection(indices.tolist()):
            self._refresh(index)
        return self._sampled[0, indices], self._sampled[1, indices]

    def whole(self, index: int) -> tuple[Array32, Array32] | None:
        """The fused map: depth (H, W), 0 where unknown, and confidence (H, W); None once released or unknown."""
        estimates = self._estimates.get(index)
        if not estimates:
            return None
        if index not in self._fused:
            depths = [np.float32(e.factor) * e.depth for e in estimates]
            self._fused[index] = fuse_depths(depths, [e.confidence for e in estimates])
        return self._fused[index]

    def release(self, index: int) -> tuple[Array32, Array32] | None:
        """``whole`` for the last time."""
        self._refresh(index)
        fused = self.whole(index)
        self._estimates.pop(index, None)
        self._fused.pop(index, None)
        return fused

    def _refresh(self, index: int) -> None:
        if index not in self._stale:
            return
        self._stale.discard(index)
        estimates = self._estimates[index]
        depth, confidence = fuse_depths([e.sampled[0] for e in estimates], [e.sampled[1] for e in estimates])
        self._sampled[0, index], self._sampled[1, index] = depth, np.log(confidence)


def _cleaned(depth: Array32, confidence: Array32) -> tuple[Array32, Array32]:
    """Depth >= 0 and confidence >= 1, both finite; 0 and 1 wherever either is invalid.

    ``fuse_depths`` ignores a pixel that lacks either.
    """
    depth, confidence = np.fmax(depth, np.float32(0.0)), np.fmax(confidence, np.float32(1.0))  # drops NaN as well
    if not (np.isfinite(depth.max()) and np.isfinite(confidence.max())):
        good = np.isfinite(depth) & np.isfinite(confidence)
        depth, confidence = np.where(good, depth, np.float32(0.0)), np.where(good, confidence, np.float32(1.0))
    return depth, confidence
