"""The pinhole camera: square pixels, pixel centres at integers, principal point at the image centre."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dust3r_ros.types import Array, Array32, Image


def center_of(height: int, width: int) -> tuple[float, float]:
    """Principal point (cx, cy) of an image: its centre, pixels."""
    return (width - 1) / 2.0, (height - 1) / 2.0


class Pinhole(NamedTuple):
    """Focal and principal point ``center`` (cx, cy) of an image, pixels."""

    focal: float
    center: tuple[float, float]

    @classmethod
    def of(cls, focal: float, shape: tuple[int, ...]) -> Pinhole:
        """For an image of ``shape`` (H, W), with the principal point at its centre."""
        return cls(focal, center_of(*shape))


@lru_cache(maxsize=16)
def pixel_grid(height: int, width: int) -> Array:
    """(H, W, 2) pixel coordinates (u, v); shared, read-only."""
    v, u = np.mgrid[:height, :width]
    grid = np.stack([u, v], axis=-1).astype(np.float64)
    grid.setflags(write=False)
    return grid


def rays(pixels: Array, focal: float, center: tuple[float, float]) -> Array:
    """Directions (..., 3) with z = 1 of pixels (..., 2), camera frame."""
    xy = (pixels - np.asarray(center)) / focal
    return np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1)


def unproject(depth: Array | Array32, focal: float) -> Array:
    """(H, W, 3) points, camera frame, of a depth map (H, W) holding z."""
    height, width = depth.shape
    return rays(pixel_grid(height, width), focal, center_of(height, width)) * depth[..., None]


def project(points: Array, focal: float, center: tuple[float, float]) -> Array:
    """Pixels (..., 2) of points (..., 3), camera frame; NaN where z <= 0."""
    z = np.where(points[..., 2:] > 0, points[..., 2:], np.nan)
    return focal * points[..., :2] / z + np.asarray(center)


def inside(pixels: Array | Array32, shape: tuple[int, ...]) -> np.ndarray:
    """(N,) which pixels (N, 2) lie within an image of ``shape`` (h, w), not on its outermost ones; NaN does not."""
    return np.asarray(np.all((pixels > 0) & (pixels < [shape[1] - 1, shape[0] - 1]), axis=1))


def unmasked(pixels: Array, masked: Image | None) -> np.ndarray:
    """(N,) which pixels (N, 2) are where ``masked`` (h, w) is 0, outside as at its border; None: all are."""
    if masked is None:
        return np.ones(len(pixels), bool)
    column, row = np.clip(np.round(pixels).astype(int), 0, [masked.shape[1] - 1, masked.shape[0] - 1]).T
    return np.asarray(masked[row, column] == 0)
