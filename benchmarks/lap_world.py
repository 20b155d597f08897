"""Laps through a rendered corridor, and predictions of its keyframe pairs with simulated network errors.

Depth only, without colours, so that a thousand keyframes take seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.geometry.pinhole import center_of, project, unproject
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.scenes.rooms import corridor
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.scenes.surfaces import RayGrid
from dust3r_ros.types import Array, Array32, PairPrediction

HEIGHT, WIDTH, FOCAL = 192, 256, 0.83 * 256
STEP_M, STEP_DEG = 0.25, 8.0  # distance and rotation between keyframes
_RADIUS = 0.3  # metres, of the turns at both ends
_LOOP_M, _LOOP_DEG, _LOOP_GAP = 0.45, 15.0, 30


@dataclass(frozen=True)
class Errors:
    """Standard deviations of a network's errors, per pair unless stated otherwise.

    ``smooth``: depth, relative, in patches of a sixth of the image; ``pixel``: depth, relative, per
    pixel; ``rotation_deg`` and ``shift`` (of the median depth): pose of the second view;
    ``focal``: relative; ``unit``: log of the range of units.
    """

    smooth: float = 0.02
    pixel: float = 0.01
    rotation_deg: float = 0.25
    shift: float = 0.004
    focal: float = 0.01
    unit: float = 1.5


def laps(keyframes: int, seed: int = 0) -> Array:
    """(N, 4, 4) ``w_T_c``: back and forth along the corridor with a turn at both ends, every lap slightly different."""
    turns = 2 * 180.0 / STEP_DEG
    per_lap = float(np.clip(keyframes / 2.5, 1.4 * turns, 200.0))
    straight = (per_lap - turns) / 2 * STEP_M
    progress = np.arange(keyframes)
    lap, at = np.divmod(progress, per_lap)
    half, along = np.divmod(at, per_lap / 2)
    drive = np.minimum(along * STEP_M, straight)
    turn = np.radians(np.maximum(along - straight / STEP_M, 0.0) * STEP_DEG)
    way = np.where(half == 0, 1.0, -1.0)
    x = way * (drive - straight / 2 + _RADIUS * np.sin(turn))
    y = -way * _RADIUS * np.cos(turn)
    heading = turn + np.pi * half
    rng = np.random.default_rng([seed, 4])
    sway = rng.uniform(-1, 1, (int(lap.max()) + 2, 4))
    blend = (lap + at / per_lap)[:, None]
    low = np.floor(blend[:, 0]).astype(int)
    off = sway[low] + (sway[low + 1] - sway[low]) * (blend - low[:, None])
    position = np.stack([x, y + 0.12 * off[:, 0], 1.4 + 0.08 * off[:, 1] + 0.03 * np.sin(0.4 * progress)], axis=1)
    heading = heading + 0.06 * off[:, 2] + 0.03 * np.sin(0.23 * progress)
    look = np.stack([np.cos(heading), np.sin(heading), np.full(keyframes, -0.12)], axis=1)
    return np.stack([look_at(p, p + d, 0.03 * o) for p, d, o in zip(position, look, off[:, 3], strict=True)])


class LapWorld:
    """What the cameras of ``laps`` see, and an oracle for their pairs."""

    def __init__(self, keyframes: int, errors: Errors = Errors(), seed: int = 0, cached: int = 1000) -> None:
        self.w_T_c = laps(keyframes, seed)
        self._world, self._errors, self._seed = corridor(seed), errors, seed
        self._cache: OrderedDict[int, Array32] = OrderedDict()
        self._cached = cached

    @property
    def path(self) -> float:
        """Metres walked."""
        return float(np.linalg.norm(np.diff(self.w_T_c[:, :3, 3], axis=0), axis=1).sum())

    def render_all(self) -> None:
        """Render every keyframe that is kept in memory."""
        for index in range(min(len(self.w_T_c), self._cached)):
            self.depth(index)

    def depth(self, index: int) -> Array32:
        """(H, W) true z, metres."""
        if index not in self._cache:
            self._cache[index] = self._render(self.w_T_c[index]).astype(np.float16)
            if len(self._cache) > self._cached:
                self._cache.popitem(last=False)
        return self._cache[index].astype(np.float32)

    def _render(self, w_T_c: Array) -> Array32:
        cx, cy = center_of(HEIGHT, WIDTH)
        x, y = ((np.arange(size) - middle) / FOCAL for size, middle in ((WIDTH, cx), (HEIGHT, cy)))
        rays = RayGrid(w_T_c[:3, 3], w_T_c[:3, :3], x.astype(np.float32), y.astype(np.float32))
        depth = np.full((HEIGHT, WIDTH), np.inf, np.float32)
        for index, window in rays.windows(self._world.corners):
            hit = self._world.surfaces[index].cast(rays.part(*window))
            if hit is not None:
                depth[window] = np.minimum(depth[window], hit.depth)
        return depth

    def loop_candidate(self, index: int) -> int | None:
        """The nearest older keyframe with a similar view, as retrieval by appearance would find it."""
        old = self.w_T_c[: max(index - _LOOP_GAP, 0)]
        away = np.linalg.norm(old[:, :3, 3] - self.w_T_c[index, :3, 3], axis=1)
        alike = old[:, :3, 2] @ self.w_T_c[index, :3, 2] > np.cos(np.radians(_LOOP_DEG))
        away = np.where(alike, away, np.inf)
        return int(np.argmin(away)) if len(old) and away.min() < _LOOP_M else None

    def predict(self, pairs: Sequence[tuple[int, int]]) -> list[PairPrediction]:
        """Simulated network predictions for pairs with a common view."""
        return [self._pair(first, second, self._relative(first, second)) for first, second in pairs]

    def mistake(self, index: int, other: int) -> list[PairPrediction]:
        """Both orders of a pair of different places that look alike: consistent, confident and wrong."""
        rng = np.random.default_rng([self._seed, index, other, 6])
        turn = Rotation.from_rotvec(np.radians(rng.uniform(-25, 25, 3))).as_matrix()
        index_T_other = pose(turn, rng.uniform(-1.0, 1.0, 3))
        return [self._pair(index, other, index_T_other), self._pair(other, index, invert(index_T_other))]

    def _relative(self, first: int, second: int) -> Array:
        return invert(self.w_T_c[first]) @ self.w_T_c[second]

    def _pair(self, first: int, second: int, first_T_second: Array) -> PairPrediction:
        rng, errors = np.random.default_rng([self._seed, first, second, 5]), self._errors
        unit = np.exp(rng.uniform(-errors.unit, errors.unit))
        stretch = np.array([1 + errors.focal * rng.standard_normal()] * 2 + [1.0])
        points_first, points_second = (stretch * self._points(index, rng) for index in (first, second))
        turn = Rotation.from_rotvec(np.radians(errors.rotation_deg) * rng.standard_normal(3)).as_matrix()
        off = pose(turn, errors.shift * float(np.median(points_first[..., 2])) * rng.standard_normal(3))
        points_second = transform(first_T_second @ off, points_second)
        return PairPrediction(
            first,
            second,
            (unit * points_first).astype(np.float32),
            _confidence(points_first),
            (unit * points_second).astype(np.float32),
            _confidence(points_second),
        )

    def _points(self, index: int, rng: np.random.Generator) -> Array:
        coarse = rng.standard_normal((5, 6)).astype(np.float32)
        smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        pixel = rng.standard_normal((HEIGHT, WIDTH), dtype=np.float32)
        return unproject(self.depth(index) * np.exp(self._errors.smooth * smooth + self._errors.pixel * pixel), FOCAL)


def _confidence(points: Array) -> Array32:
    """Decreases with distance, and is low where the first camera does not see the point."""
    pixels = project(points, FOCAL, center_of(HEIGHT, WIDTH))
    seen = np.all((pixels >= 0) & (pixels <= [WIDTH - 1, HEIGHT - 1]), axis=-1)
    return (1.0 + np.where(seen, 1.0, 0.15) * np.exp(2.0 - 0.2 * points[..., 2])).astype(np.float32)
