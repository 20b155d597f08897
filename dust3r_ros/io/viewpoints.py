"""From where a map is best looked at: outliers do not count, the path always does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.geometry.rigid import pose
from dust3r_ros.io.splat import Surfels, Viewpoint
from dust3r_ros.types import Array, Keyframe

_CUT = 2.0  # percent of the points that may lie outside the picture on each side
_FILL = 0.92  # part of the picture that the rest fills
_ELEVATION = np.radians(38.0)
_SAMPLE = 20_000


def above(points: Surfels, path: Array, width: int, height: int) -> Viewpoint:
    """Orthographic, straight down; the longer extent of the map lies along the longer side of the picture."""
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
    """Perspective, from behind the cameras and above, turned a little so that depth shows."""
    core = np.concatenate([_core(points), path])
    low, high = _extent(core, path)
    center = (low + high) / 2
    forward = _heading(keyframes)
    direction = np.append(np.cos(_ELEVATION) * forward, -np.sin(_ELEVATION))
    right = np.cross(direction, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(direction, right), direction], axis=1)
    distance = 1.6 * max(float(np.linalg.norm(high - low)), 1e-6)
    for _ in range(3):  # recentre, because perspective moves the middle
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
    """A sample (M, 3) of the points without the far outliers."""
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
    """Horizontal unit direction (2,): where the cameras look on average (the first one, if in all directions)."""
    looks = np.array([keyframe.w_T_c[:2, 2] for keyframe in keyframes])
    mean = looks.mean(axis=0)
    if np.linalg.norm(mean) < 0.2:
        mean = looks[0] if np.linalg.norm(looks[0]) > 1e-6 else np.array([1.0, 0.0])
    mean = mean / np.linalg.norm(mean)
    turn = np.radians(25.0)
    return np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ mean
