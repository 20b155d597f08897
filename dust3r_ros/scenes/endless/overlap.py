"""How much of what one camera sees another sees too, from exact depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.types import Array, Array32

_HIDDEN = 0.02  # a point this share of its depth behind what is seen there is hidden by it


@dataclass(frozen=True, eq=False)
class DepthView:
    """``depth`` (H, W), 0 or infinite where none; ``K`` (3, 3); ``w_T_c`` (4, 4)."""

    depth: Array32
    K: Array
    w_T_c: Array

    def points(self, step: int) -> Array:
        """(P, 3) world points of every ``step``-th pixel that has depth, in the middle of its block."""
        v, u = (np.arange(step // 2, size, step) for size in self.depth.shape)
        z = self.depth[np.ix_(v, u)].astype(np.float64)
        rays = np.stack(
            np.broadcast_arrays((u - self.K[0, 2]) / self.K[0, 0], (v[:, None] - self.K[1, 2]) / self.K[1, 1], 1.0), -1
        )
        known = np.isfinite(z) & (z > 0)
        return transform(self.w_T_c, rays[known] * z[known][:, None])

    def sees(self, points: Array) -> np.ndarray:
        """(...,) whether world points (..., 3) are in the image and not behind what is seen there.

        The depth beside the place counts too, since a slanted surface changes its depth within a pixel.
        """
        local = transform(invert(self.w_T_c), points)
        z = np.where(local[..., 2] > 0, local[..., 2], np.nan)
        height, width = self.depth.shape
        with np.errstate(invalid="ignore"):
            u = self.K[0, 0] * local[..., 0] / z + self.K[0, 2]
            v = self.K[1, 1] * local[..., 1] / z + self.K[1, 2]
            inside = (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
        column = np.clip(np.floor(np.where(inside, u, 0)), 0, max(width - 2, 0)).astype(np.int64)
        row = np.clip(np.floor(np.where(inside, v, 0)), 0, max(height - 2, 0)).astype(np.int64)
        flat, base = self.depth.ravel(), row * width + column
        down, right = width * (height > 1), int(width > 1)
        there = np.maximum(
            np.maximum(flat[base], flat[base + right]), np.maximum(flat[base + down], flat[base + down + right])
        )
        return inside & (z < (1 + _HIDDEN) * there)


def overlap(first: DepthView, second: DepthView, step: int = 1) -> float:
    """Share of the pixels of ``first`` with depth that ``second`` sees, by every ``step``-th pixel; 0 without any."""
    points = first.points(step)
    return float(second.sees(points).mean()) if len(points) else 0.0


def overlaps(views: Sequence[DepthView], step: int) -> Array:
    """(N, N): [i, j] is the share of view i's pixels that view j sees."""
    clouds = [view.points(step) for view in views]
    counts = [len(cloud) for cloud in clouds]
    points, starts = np.concatenate(clouds), np.concatenate([[0], np.cumsum(counts)])
    found = np.zeros((len(views), len(views)))
    for j, view in enumerate(views):
        seen = np.concatenate([[0], np.cumsum(view.sees(points))])
        found[:, j] = (seen[starts[1:]] - seen[starts[:-1]]) / np.maximum(counts, 1)
    return found
