"""What one keyframe knows of the surfaces that another one sees."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, Array32, Image

_COLOR = 18  # of 255, beyond the range of colours around a pixel: another surface is seen there
_BEHIND = np.float32(1.1)  # times as far as what lands beside it: seen through the gaps between nearer points
_SHARE = np.float32(0.5)  # of confidence - 1 that is passed on: part of it comes from the same images
_TINY = np.float32(1e-9)
_AROUND = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class DepthShot:
    """A keyframe as its depth is shared: ``image`` (H, W, 3) uint8, ``depth`` (H, W), 0 = none, ``confidence``."""

    image: Image
    depth: Array32
    confidence: Array32
    w_T_c: Array
    focal: float


def seen_from(shot: DepthShot, other: DepthShot) -> tuple[Array32, Array32]:
    """Depth (H, W), 0 = none, and confidence >= 1 that ``shot`` tells of the pixels of ``other``.

    Each pixel of the shot lands on the nearest one of the other, the nearest surface wins. It is believed where that
    pixel shows the shot's colour: what is hidden from the other keyframe by something whose depth it does not
    know looks different there, as does what moved. Depth that is less precise for the other, as it is nearer to it,
    is less confident.
    """
    height, width = other.depth.shape
    at, place, z, near = _landed(shot, other)
    same = _looks_alike(shot.image, other.image, at, place)
    at, place, z, near = (part[same] for part in (at, place, z, near))
    nearest = np.full(height * width, np.inf, np.float32)
    np.minimum.at(nearest, place, near)
    first = nearest[place] == near
    gain = _SHARE * (shot.confidence.ravel()[at] - 1) * np.minimum(1, np.square(z / near))
    sure = np.ones(height * width, np.float32)
    sure[place[first]] += gain[first]
    depth = np.where(np.isfinite(nearest), nearest, np.float32(0)).reshape(height, width)
    closeness = 1 / np.where(depth > 0, depth, np.float32(np.inf))
    hidden = cv2.dilate(closeness, _AROUND) * depth > _BEHIND
    depth[hidden] = 0
    return depth, np.where(depth > 0, sure.reshape(height, width), np.float32(1))


def _landed(shot: DepthShot, other: DepthShot) -> tuple[np.ndarray, np.ndarray, Array32, Array32]:
    """Pixels (K,) of a shot seen by another, those they land on there, both flat, and their depth in each."""
    height, width = shot.depth.shape
    at = np.flatnonzero((shot.depth > 0) & (shot.confidence > 1))
    z = shot.depth.ravel()[at].astype(np.float32)
    cx, cy = center_of(height, width)
    x = ((np.arange(width) - cx) / shot.focal).astype(np.float32)[at % width] * z
    y = ((np.arange(height) - cy) / shot.focal).astype(np.float32)[at // width] * z
    T = (invert(other.w_T_c) @ shot.w_T_c).astype(np.float32)
    px, py, pz = (T[i, 0] * x + T[i, 1] * y + T[i, 2] * z + T[i, 3] for i in range(3))
    height, width = other.depth.shape
    cx, cy = (np.float32(middle) for middle in center_of(height, width))
    scale = np.float32(other.focal) / np.maximum(pz, _TINY)
    u, v = px * scale + cx, py * scale + cy
    # Compared before rounding, which far outside does not fit into integers
    inside = (pz > _TINY) & (u > -0.5) & (v > -0.5) & (u < width - 0.5) & (v < height - 0.5)
    place = np.rint(v[inside]).astype(np.int64) * width + np.rint(u[inside]).astype(np.int64)
    return at[inside], place, z[inside], pz[inside]


def _looks_alike(image: Image, other: Image, at: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(K,) whether pixels ``at`` of an image have a colour that is seen around ``place`` of another, both flat."""
    color = cv2.blur(image, (3, 3)).reshape(-1, 3)[at]
    dark, light = (edge(other, _AROUND).reshape(-1, 3)[place] for edge in (cv2.erode, cv2.dilate))
    if not len(at):
        return np.zeros(0, bool)
    off = cv2.max(cv2.subtract(dark, color), cv2.subtract(color, light))
    return np.asarray(off.reshape(-1, 3).max(axis=1) <= _COLOR)
