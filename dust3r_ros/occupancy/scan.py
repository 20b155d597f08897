"""A keyframe's depth, as small as a ground plan allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.geometry.cleaning import depth_edges
from dust3r_ros.geometry.pinhole import center_of, rays
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.types import Array, Keyframe

_PIXELS = 20_000
_EDGE = 0.15  # of depth, over a pixel


@dataclass(frozen=True, eq=False)
class Scan:
    """A keyframe as a plan needs it: depth (h, w) of every ``stride``-th row and column over ``unit``, 0 = none.

    ``focal`` and ``center`` are those of the full image of the keyframe.
    """

    w_T_c: Array
    focal: float
    center: tuple[float, float]
    stride: int
    unit: float
    depth: NDArray[np.float16]

    def points(self, count: int | None = None) -> Array:
        """(N, 3) in the map frame; with ``count`` some of them, at most twice as many, spread over the image."""
        v, u = np.nonzero(self.depth)
        if count is not None and len(v) > count:
            v, u = v[:: len(v) // count], u[:: len(u) // count]
        z = self.depth[v, u].astype(np.float64) * self.unit
        pixels = np.stack([u, v], axis=-1).astype(np.float64) * self.stride
        return transform(self.w_T_c, rays(pixels, self.focal, self.center) * z[:, None])


def scan_of(keyframe: Keyframe, min_confidence: float) -> Scan:
    """Depth with more than ``min_confidence`` and no jump beside it, of at most some 20 000 pixels."""
    depth = keyframe.depth
    keep = np.isfinite(depth) & (depth > 0) & (keyframe.confidence > min_confidence)
    keep &= ~depth_edges(depth, _EDGE)
    stride = max(1, int(np.ceil(np.sqrt(depth.size / _PIXELS))))
    thin, keep = depth[::stride, ::stride], keep[::stride, ::stride]
    unit = float(np.median(thin[keep])) if keep.any() else 1.0
    small = np.where(keep, np.clip(thin / unit, 1e-4, 6e4), 0).astype(np.float16)
    return Scan(keyframe.w_T_c, keyframe.focal, center_of(*depth.shape), stride, unit, small)
