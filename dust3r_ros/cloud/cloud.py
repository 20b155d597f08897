"""Converts keyframes to a point cloud in the map frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import center_of, pixel_grid, rays
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.types import Array, Array32, Image, Keyframe

_TINY = 1e-6  # keeps the position of a point of confidence 1 defined


@dataclass(frozen=True, eq=False)
class Cloud:
    """``points`` (N, 3) float32 in the map frame, ``colors`` (N, 3) uint8 RGB, ``confidence`` (N,) float32."""

    points: Array32
    colors: Image
    confidence: Array32

    def __len__(self) -> int:
        return len(self.points)


def concatenate(clouds: Iterable[Cloud]) -> Cloud:
    """All points of all clouds, in order."""
    parts = list(clouds)
    if not parts:
        return Cloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32))
    return Cloud(
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.colors for part in parts]),
        np.concatenate([part.confidence for part in parts]),
    )


def keyframe_cloud(keyframe: Keyframe, min_confidence: float = 1.0, stride: int = 1, every: int = 1) -> Cloud:
    """Pixels of one keyframe with depth and more than ``min_confidence``, from every ``stride``-th row and column.

    Of these, in row order, every ``every``-th is kept.
    """
    step = (slice(None, None, stride), slice(None, None, stride))
    depth, confidence = keyframe.depth[step], keyframe.confidence[step]
    keep = np.unravel_index(np.flatnonzero((depth > 0) & (confidence > min_confidence))[::every], depth.shape)
    height, width = keyframe.depth.shape
    pixels = pixel_grid(height, width)[step][keep]
    points = rays(pixels, keyframe.focal, center_of(height, width)) * depth[keep][:, None]
    return Cloud(
        transform(keyframe.w_T_c, points).astype(np.float32),
        keyframe.image[step][keep],
        confidence[keep].astype(np.float32),
    )


def map_cloud(keyframes: Iterable[Keyframe], min_confidence: float = 1.0, stride: int = 1) -> Cloud:
    """The clouds of all keyframes, concatenated."""
    return concatenate(keyframe_cloud(keyframe, min_confidence, stride) for keyframe in keyframes)


def thin(cloud: Cloud, voxel: float) -> Cloud:
    """One point per cube of edge ``voxel`` (> 0): mean position and colour, weighted by C - 1.

    Its confidence is 1 + the sum of C - 1. Cubes lie on a grid through the origin, and points come in
    the order of their cubes (x, then y, then z), so that parts may be thinned before the whole.
    Points that are not finite are dropped. Raises ``GeometryError`` for a voxel that is not positive.
    """
    if not (np.isfinite(voxel) and voxel > 0):
        raise GeometryError(f"voxel is {voxel}; it must be a positive length in map units")
    finite = np.isfinite(cloud.points).all(axis=1) & np.isfinite(cloud.confidence)
    if not finite.all():
        cloud = Cloud(cloud.points[finite], cloud.colors[finite], cloud.confidence[finite])
    if not len(cloud):
        return concatenate([])
    cells = [np.floor(cloud.points[:, axis] / np.float64(voxel)) for axis in range(3)]
    order, first = _groups(cells)
    gain = np.maximum(cloud.confidence - 1, _TINY).astype(np.float32)[order]
    total = np.add.reduceat(gain, first)

    def mean(values: Array32) -> Array32:
        return (np.add.reduceat(values[order] * gain, first) / total).astype(np.float32)

    # Sums of offsets within a cube lose no precision, wherever the cube lies
    corners = [(cell * voxel).astype(np.float32) for cell in cells]
    places = [mean(cloud.points[:, axis] - corner) + corner[order[first]] for axis, corner in enumerate(corners)]
    colors = [np.rint(mean(cloud.colors[:, channel].astype(np.float32))) for channel in range(3)]
    return Cloud(np.stack(places, axis=1), np.stack(colors, axis=1).astype(np.uint8), 1 + total)


def _groups(cells: list[Array]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The order that sorts ``cells``, three integer arrays (N,), by x, y, z, and where each new cell begins in it."""
    extent = [int(cell.max() - cell.min()) + 1 for cell in cells]
    if extent[0] * extent[1] * extent[2] < 2**62:
        x, y, z = ((cell - cell.min()).astype(np.int64) for cell in cells)
        key = (x * extent[1] + y) * extent[2] + z
        order = np.argsort(key, kind="stable")
        new = np.diff(key[order]) != 0
    else:
        order = np.lexsort(cells[::-1])
        new = np.any([np.diff(cell[order]) != 0 for cell in cells], axis=0)
    return order, np.flatnonzero(np.concatenate([[True], new]))
