"""An empty box with cameras inside, and predictions of their pairs as a network makes them: cheap, with known truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dust3r_ros.geometry.pinhole import center_of, pixel_grid, rays, unproject
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.geometry.similarity import rms_apart
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.types import Array, Array32, PairPrediction

HALF = np.array([3.2, 2.6, 1.4])  # metres from the middle to the walls
HEIGHT, WIDTH, FOCAL = 36, 48, 42.0


def circle(keyframes: int, per_lap: int) -> Array:
    """(N, 4, 4) ``w_T_c`` on an ellipse, looking outward and ahead, a bit different every lap."""
    turn = 2 * np.pi * np.arange(keyframes) / per_lap
    off = 0.08 * np.sin(0.37 * turn)
    at = np.stack([(1.4 + off) * np.cos(turn), (1.0 + off) * np.sin(turn), 0.1 * np.sin(1.7 * turn)], axis=1)
    look = turn + 0.6
    ahead = np.stack([np.cos(look), np.sin(look), 0.1 * np.sin(2.3 * turn)], axis=1)
    return np.stack([look_at(p, p + a) for p, a in zip(at, ahead, strict=True)])


@dataclass(eq=False)
class BoxRoom:
    """``w_T_c`` (N, 4, 4) and what is wrong with predictions: ``noise`` of depth, relative, per pixel and per pair."""

    w_T_c: Array
    noise: float = 0.01
    seed: int = 0
    shape: tuple[int, int] = (HEIGHT, WIDTH)
    focal: float = FOCAL

    def depth(self, index: int) -> Array:
        """(H, W) true z, metres."""
        T, (height, width) = self.w_T_c[index], self.shape
        ways = rays(pixel_grid(height, width), self.focal, center_of(height, width)) @ T[:3, :3].T
        with np.errstate(divide="ignore"):
            return ((np.sign(ways) * HALF - T[:3, 3]) / ways).min(axis=-1)

    def predict(self, pairs: Iterable[tuple[int, int]]) -> list[PairPrediction]:
        """Right ones."""
        return [self.pair(i, j, invert(self.w_T_c[i]) @ self.w_T_c[j]) for i, j in pairs]

    def mistake(self, i: int, j: int, i_T_j: Array | None = None) -> list[PairPrediction]:
        """Both orders of a pair that is confidently placed where it is not (at ``i_T_j``)."""
        rng = np.random.default_rng([self.seed, i, j, 1])
        if i_T_j is None:
            i_T_j = pose(look_at(np.zeros(3), rng.normal(size=3))[:3, :3], rng.uniform(-1, 1, 3))
        return [self.pair(i, j, i_T_j), self.pair(j, i, invert(i_T_j))]

    def pair(self, first: int, second: int, first_T_second: Array) -> PairPrediction:
        """One prediction in a unit of its own."""
        rng = np.random.default_rng([self.seed, first, second])
        unit = np.exp(rng.uniform(-1, 1))
        own, other = (self._points(index, rng) for index in (first, second))
        return PairPrediction(
            first,
            second,
            (unit * own).astype(np.float32),
            self._confidence(own),
            (unit * transform(first_T_second, other)).astype(np.float32),
            self._confidence(other),
        )

    def _points(self, index: int, rng: np.random.Generator) -> Array:
        tilt = self.noise * rng.standard_normal(2) @ np.moveaxis(pixel_grid(*self.shape) / self.focal, -1, 1)
        return unproject(self.depth(index) * np.exp(tilt + self.noise * rng.standard_normal(self.shape)), self.focal)

    def _confidence(self, points: Array) -> Array32:
        return (1.0 + np.exp(1.5 - 0.2 * points[..., 2])).astype(np.float32)

    def ate(self, w_T_c: Array) -> float:
        """Root mean square distance, metres, of poses of the first keyframes after the best similarity."""
        return rms_apart(w_T_c[:, :3, 3], self.w_T_c[: len(w_T_c), :3, 3])


def with_neighbours(index: int, count: int = 3) -> list[tuple[int, int]]:
    """Both orders of the pairs of a keyframe with the ones just before."""
    return [pair for old in range(max(0, index - count), index) for pair in ((old, index), (index, old))]
