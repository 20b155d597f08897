"""Pictures of a cloud: every point a square of its own size, the front ones win (a z-buffer in NumPy)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.cloud import Cloud, concatenate, keyframe_cloud
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.types import Array, Array32, Image, Keyframe

_LARGEST_SQUARE = 9  # pixels; a point right before the camera must not cover the picture


@dataclass(frozen=True, eq=False)
class Surfels:
    """A cloud whose points know how they were seen.

    ``size`` (N,) is the side, in map units, of the pixel a point came from; ``ray`` (N, 3) the unit
    direction from its camera to it, in the map frame.
    """

    cloud: Cloud
    size: Array
    ray: Array

    def __len__(self) -> int:
        return len(self.cloud)

    def select(self, keep: NDArray[Any] | slice) -> Surfels:
        """The points that ``keep`` (mask, indices or slice) names."""
        cloud = self.cloud
        kept = Cloud(cloud.points[keep], cloud.colors[keep], cloud.confidence[keep])
        return Surfels(kept, self.size[keep], self.ray[keep])

    def facing(self, direction: Array) -> Surfels:
        """The points whose front is seen when looking along ``direction`` (3,), unit: not the backs of walls.

        Which side of a surface is its front is known from the ray that saw it.
        """
        return self.select(self.ray @ direction > -0.15)


@dataclass(frozen=True, eq=False)
class Viewpoint:
    """A virtual camera: pose ``w_T_c``, picture ``width`` x ``height`` (pixels), principal point in the middle.

    ``focal`` is in pixels; with ``orthographic`` it is pixels per map unit and depth does not shrink things.
    """

    w_T_c: Array
    focal: float
    width: int
    height: int
    orthographic: bool = False

    def project(self, points: Array | Array32) -> tuple[Array, Array]:
        """Pixels (N, 2) and depths (N,) of map points (N, 3); pixels are NaN behind a perspective camera."""
        camera = transform(invert(self.w_T_c), np.asarray(points, dtype=np.float64))
        depth = camera[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            shrink = np.ones_like(depth) if self.orthographic else np.where(depth > 1e-9, depth, np.nan)
            pixels = self.focal * camera[:, :2] / shrink[:, None]
        return pixels + np.array([(self.width - 1) / 2.0, (self.height - 1) / 2.0]), depth


def surfels(keyframes: Iterable[Keyframe], min_confidence: float, stride: int = 1) -> Surfels:
    """The points of all keyframes, as ``map_cloud`` gives them, with their sizes."""
    clouds, sizes, rays = [], [np.zeros(0)], [np.zeros((0, 3))]
    for keyframe in keyframes:
        cloud = keyframe_cloud(keyframe, min_confidence, stride)
        offset = cloud.points - keyframe.w_T_c[:3, 3]
        clouds.append(cloud)
        sizes.append(offset @ keyframe.w_T_c[:3, 2] * stride / keyframe.focal)
        rays.append(offset / np.maximum(np.linalg.norm(offset, axis=1, keepdims=True), 1e-12))
    return Surfels(concatenate(clouds), np.concatenate(sizes), np.concatenate(rays))


def render(points: Surfels, view: Viewpoint, background: tuple[int, int, int]) -> tuple[Image, Array]:
    """Picture (H, W, 3) uint8 RGB and depth (H, W) of it, infinite where nothing was drawn."""
    pixels, depth = view.project(points.cloud.points)
    image = np.empty((view.height, view.width, 3), np.uint8)
    image[:] = background
    buffer = np.full(view.height * view.width, np.inf)
    margin = _LARGEST_SQUARE
    with np.errstate(invalid="ignore"):
        inside = np.all((pixels > -margin) & (pixels < [view.width + margin, view.height + margin]), axis=1)
    which = np.flatnonzero(inside)
    if not len(which):
        return image, buffer.reshape(view.height, view.width)
    scale = view.focal if view.orthographic else view.focal / depth[which]
    sides = np.clip(np.ceil(points.size[which] * scale * 1.15), 1, _LARGEST_SQUARE).astype(int)
    cells, owners = _squares(pixels[which], sides, view)
    owners = which[owners]
    np.minimum.at(buffer, cells, depth[owners])
    # Several keyframes see one surface, each a little elsewhere: the mean of what lies within 2 %
    # of the front is calm where "the nearest wins" would flicker between them.
    near = buffer[cells] if not view.orthographic else np.ptp(depth[which])
    front = depth[owners] <= buffer[cells] + 0.02 * near
    cells, owners = cells[front], owners[front]
    count = np.bincount(cells, minlength=len(buffer))
    flat = image.reshape(-1, 3)
    for channel in range(3):
        total = np.bincount(cells, points.cloud.colors[owners, channel], minlength=len(buffer))
        flat[count > 0, channel] = np.round(total[count > 0] / count[count > 0])
    return _without_pinholes(image, buffer.reshape(view.height, view.width))


def _without_pinholes(image: Image, depth: Array) -> tuple[Image, Array]:
    """Empty pixels most of whose neighbours are drawn get their mean: gaps between squares, not of the map."""
    drawn = np.isfinite(depth).astype(np.float32)
    share = cv2.blur(drawn, (3, 3))
    gaps = (drawn == 0) & (share > 0.55)
    for layer in (image, depth):
        mask = drawn if layer.ndim == 2 else drawn[..., None]
        mean = cv2.blur(np.where(mask > 0, layer, 0).astype(np.float32), (3, 3))
        layer[gaps] = (mean[gaps].T / share[gaps]).T.astype(layer.dtype)
    return image, depth


def _squares(pixels: Array, sides: NDArray[Any], view: Viewpoint) -> tuple[NDArray[Any], NDArray[Any]]:
    """Flat picture indices that squares around ``pixels`` cover, and which point each belongs to."""
    cells, owners = [], []
    for side in np.unique(sides):
        group = np.flatnonzero(sides == side)
        corner = np.round(pixels[group] - (side - 1) / 2.0).astype(int)
        for dy in range(side):
            for dx in range(side):
                u, v = corner[:, 0] + dx, corner[:, 1] + dy
                good = (u >= 0) & (u < view.width) & (v >= 0) & (v < view.height)
                cells.append(v[good] * view.width + u[good])
                owners.append(group[good])
    return np.concatenate(cells), np.concatenate(owners)
