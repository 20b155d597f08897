"""Renders a cloud, every point as a square of its own size, nearest first; and chooses good viewpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.cloud.cloud import Cloud, concatenate, keyframe_cloud
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.types import Array, Array32, Image, Keyframe

_CUT = 2.0  # percent of the points that may be outside the picture on each side
_FILL = 0.92  # fraction of the picture filled by the rest
_ELEVATION = np.radians(38.0)
_SAMPLE = 20_000


def above(points: Surfels, path: Array, width: int, height: int) -> Viewpoint:
    """Orthographic, straight down; the longer extent of the map is along the longer side of the picture."""
    ground = np.concatenate([_core(points)[:, :2], path[:, :2]])
    low, high = _extent(ground, path[:, :2])
    turned = (high - low)[0] < (high - low)[1] if width >= height else (high - low)[0] > (high - low)[1]
    right = np.array([0.0, -1.0, 0.0]) if turned else np.array([1.0, 0.0, 0.0])
    down = np.array([0.0, 0.0, -1.0])
    rotation = np.stack([right, np.cross(down, right), down], axis=1)
    size = (high - low)[::-1] if turned else high - low
    center = np.append((low + high) / 2, points.cloud.points[:, 2].max() + 1.0)
    focal = _FILL * min(width / max(size[0], 1e-9), height / max(size[1], 1e-9))
    return Viewpoint(pose(rotation, center), float(focal), width, height, orthographic=True)


def outside(points: Surfels, keyframes: Sequence[Keyframe], path: Array, width: int, height: int) -> Viewpoint:
    """Perspective, from behind and above the cameras, rotated a little to show depth."""
    core = np.concatenate([_core(points), path])
    low, high = _extent(core, path)
    center = (low + high) / 2
    forward = _heading(keyframes)
    direction = np.append(np.cos(_ELEVATION) * forward, -np.sin(_ELEVATION))
    right = np.cross(direction, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(direction, right), direction], axis=1)
    distance = 1.6 * max(float(np.linalg.norm(high - low)), 1e-6)
    for _ in range(3):  # recentre, because perspective shifts the middle
        view = Viewpoint(pose(rotation, center - distance * direction), 1.0, 1, 1)
        pixels, _ = view.project(core)
        path_pixels, _ = view.project(path)
        first, last = _extent(pixels, path_pixels)
        middle = (first + last) / 2 * distance
        center = center + rotation[:, :2] @ middle
    size = last - first
    focal = _FILL * min(width / max(size[0], 1e-9), height / max(size[1], 1e-9))
    return Viewpoint(pose(rotation, center - distance * direction), float(focal), width, height)


def _core(points: Surfels) -> Array:
    """A sample (M, 3) of the points without far outliers."""
    step = max(1, len(points) // _SAMPLE)
    sample = points.cloud.points[::step].astype(np.float64)
    distance = np.linalg.norm(sample - np.median(sample, axis=0), axis=1)
    return sample[distance <= np.percentile(distance, 97.0)]


def _extent(points: Array, always: Array) -> tuple[Array, Array]:
    low, high = np.nanpercentile(points, [_CUT, 100.0 - _CUT], axis=0)
    if len(always):
        low, high = np.minimum(low, np.nanmin(always, axis=0)), np.maximum(high, np.nanmax(always, axis=0))
    return low, high


def _heading(keyframes: Sequence[Keyframe]) -> Array:
    """Horizontal unit direction (2,): the cameras' mean viewing direction (that of the first, if they cancel out)."""
    looks = np.array([keyframe.w_T_c[:2, 2] for keyframe in keyframes])
    mean = looks.mean(axis=0)
    if np.linalg.norm(mean) < 0.2:
        mean = looks[0] if np.linalg.norm(looks[0]) > 1e-6 else np.array([1.0, 0.0])
    mean = mean / np.linalg.norm(mean)
    turn = np.radians(25.0)
    return np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ mean


_LARGEST_SQUARE = 9  # pixels; a point close to the camera must not cover the picture


@dataclass(frozen=True, eq=False)
class Surfels:
    """A cloud with the size and viewing ray of each point.

    ``size`` (N,) is the side, in map units, of the pixel from which a point came; ``ray`` (N, 3) the unit direction
    from its camera to the point, in the map frame.
    """

    cloud: Cloud
    size: Array
    ray: Array

    def __len__(self) -> int:
        return len(self.cloud)

    def select(self, keep: NDArray[Any] | slice) -> Surfels:
        """The points selected by ``keep`` (mask, indices or slice)."""
        cloud = self.cloud
        kept = Cloud(cloud.points[keep], cloud.colors[keep], cloud.confidence[keep])
        return Surfels(kept, self.size[keep], self.ray[keep])

    def facing(self, direction: Array) -> Surfels:
        """The points whose front is visible along ``direction`` (3,), unit: not the backs of walls.

        The front of a surface is the side from which its ray came.
        """
        return self.select(self.ray @ direction > -0.15)


@dataclass(frozen=True, eq=False)
class Viewpoint:
    """A virtual camera: pose ``w_T_c``, picture ``width`` x ``height`` (pixels), principal point in the middle.

    ``focal`` is in pixels; if ``orthographic``, in pixels per map unit, without perspective.
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
    """The points of all keyframes, as in ``map_cloud``, with their sizes."""
    clouds, sizes, rays = [], [np.zeros(0)], [np.zeros((0, 3))]
    for keyframe in keyframes:
        cloud = keyframe_cloud(keyframe, min_confidence, stride)
        offset = cloud.points - keyframe.w_T_c[:3, 3]
        clouds.append(cloud)
        sizes.append(offset @ keyframe.w_T_c[:3, 2] * stride / keyframe.focal)
        rays.append(offset / np.maximum(np.linalg.norm(offset, axis=1, keepdims=True), 1e-12))
    return Surfels(concatenate(clouds), np.concatenate(sizes), np.concatenate(rays))


def render(points: Surfels, view: Viewpoint, background: tuple[int, int, int]) -> tuple[Image, Array]:
    """Picture (H, W, 3) uint8 RGB and its depth (H, W), infinite where nothing was drawn."""
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
    # Several keyframes see one surface at slightly different depths: the mean of everything within 2 %
    # of the front is smooth where the nearest alone would flicker between them.
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
    """Fill empty pixels with mostly drawn neighbours by their mean: these are gaps between squares, not in the map."""
    drawn = np.isfinite(depth).astype(np.float32)
    share = cv2.blur(drawn, (3, 3))
    gaps = (drawn == 0) & (share > 0.55)
    for layer in (image, depth):
        mask = drawn if layer.ndim == 2 else drawn[..., None]
        mean = cv2.blur(np.where(mask > 0, layer, 0).astype(np.float32), (3, 3))
        layer[gaps] = (mean[gaps].T / share[gaps]).T.astype(layer.dtype)
    return image, depth


def _squares(pixels: Array, sides: NDArray[Any], view: Viewpoint) -> tuple[NDArray[Any], NDArray[Any]]:
    """Flat picture indices covered by squares around ``pixels``, and the point of each."""
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
