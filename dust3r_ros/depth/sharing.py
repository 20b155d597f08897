"""What one keyframe knows of the surfaces that another one sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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
_PATCH = (7, 7)
_MOST_OFF = 0.5  # of what varies in two patches that show the same; of two that do not, it is about all
_NOISE = 30.0  # squared levels, summed over channels, by which patches that show the same differ all the same


@dataclass(frozen=True, eq=False)
class DepthShot:
    """A keyframe as its depth is shared: ``image`` (H, W, 3) uint8, ``depth`` (H, W), 0 = none, ``confidence``."""

    image: Image
    depth: Array32
    confidence: Array32
    w_T_c: Array
    focal: float

    @cached_property
    def smooth(self) -> Image:
        """(H W, 3) the colours of its pixels without their noise."""
        return cv2.blur(self.image, (3, 3)).reshape(-1, 3)

    @cached_property
    def colours_around(self) -> tuple[Image, Image]:
        """(H W, 3) each: the darkest and the lightest of every channel around its pixels."""
        return cv2.erode(self.image, _AROUND).reshape(-1, 3), cv2.dilate(self.image, _AROUND).reshape(-1, 3)


def seen_from(shot: DepthShot, other: DepthShot) -> tuple[Array32, Array32]:
    """Depth (H, W), 0 = none, and confidence >= 1 that ``shot`` tells of the pixels of ``other``.

    Each pixel of the shot lands on the nearest one of the other, the nearest surface wins. It is believed where the
    other keyframe shows the shot's colour there, and around it the shot's texture: what is hidden by something whose
    depth is not known looks different, as does what moved. A colour alone is met by chance here and there, and a few
    pixels of the wall behind a thing are enough to close the gap of the thing with wall. Depth that is less precise
    for the other, as it is nearer to it, is less confident.
    """
    height, width = other.depth.shape
    at, place, z, near = _landed(shot, other)
    nearest = np.full(height * width, np.inf, np.float32)
    np.minimum.at(nearest, place, near)
    first = nearest[place] == near
    at, place, z, near = (part[first] for part in (at, place, z, near))
    same = _same_color(shot, other, at, place) & _same_texture(shot, other, at, place)
    at, place, z, near = (part[same] for part in (at, place, z, near))
    depth, sure = np.zeros(height * width, np.float32), np.ones(height * width, np.float32)
    depth[place] = near
    sure[place] += _SHARE * (shot.confidence.ravel()[at] - 1) * np.minimum(1, np.square(z / near))
    depth = depth.reshape(height, width)
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


def _same_color(shot: DepthShot, other: DepthShot, at: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(K,) whether pixels ``at`` of a shot have a colour that is seen around ``place`` of another, both flat."""
    color = shot.smooth[at]
    dark, light = (edge[place] for edge in other.colours_around)
    if not len(at):
        return np.zeros(0, bool)
    off = cv2.max(cv2.subtract(dark, color), cv2.subtract(color, light))
    return np.asarray(off.reshape(-1, 3).max(axis=1) <= _COLOR)


def _same_texture(shot: DepthShot, other: DepthShot, at: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(K,) whether what lands around ``place`` of another from ``at`` of a shot, both flat, varies as it does there."""
    shape = other.depth.shape
    there, a = np.zeros(shape, np.float32), np.zeros((*shape, 3), np.float32)
    there.reshape(-1)[place], a.reshape(-1, 3)[place] = 1, shot.smooth[at]
    b = other.smooth.reshape(*shape, 3) * there[..., None]
    scale = 1 / np.maximum(cv2.blur(there, _PATCH), _TINY)
    mean_a, mean_b = cv2.blur(a, _PATCH), cv2.blur(b, _PATCH)
    varies = scale * (cv2.blur(_dot(a, a) + _dot(b, b), _PATCH) - scale * (_dot(mean_a, mean_a) + _dot(mean_b, mean_b)))
    a -= b
    mean_a -= mean_b
    off = scale * (cv2.blur(_dot(a, a), _PATCH) - scale * _dot(mean_a, mean_a))
    return (off < _MOST_OFF * varies + _NOISE).ravel()[place]


def _dot(a: Array32, b: Array32) -> Array32:
    """(H, W) sum over channels of the product of (H, W, 3)."""
    return np.einsum("ijk,ijk->ij", a, b)
