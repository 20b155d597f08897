"""A network of views whose depth is known: right up to a scale, or wrong in ways that networks are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from pairs import smooth

from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.types import Array, PairPrediction, View

Wrong = Callable[[Array, np.random.Generator], Array]


class StandIn:
    """Views by index of ``depths`` (N, H, W), metres, whatever the size of their images.

    An arbitrary unit per pair, ``noise`` of log depth per pixel, ``warp`` over the view; ``wrong`` makes another depth
    of the true one. It is equally confident of all.
    """

    name = "stand-in"
    uses_poses = False

    def __init__(
        self, depths: Array, w_T_c: Array, focal: float, noise: float = 0.01, warp: float = 0.02,
        wrong: Wrong | None = None,
    ) -> None:  # fmt: skip
        self._depths, self._w_T_c, self._focal = depths, w_T_c, focal
        self._noise, self._warp, self._wrong = noise, warp, wrong
        self.sizes: dict[int, tuple[int, int]] = {}
        self.encoded: list[int] = []
        self.asked: list[tuple[int, int]] = []

    def add(self, view: View) -> None:
        """Take a view in."""
        self.sizes[view.index] = view.image.shape[:2]
        self.encoded.append(view.index)

    def has(self, index: int) -> bool:
        """Whether a view is kept."""
        return index in self.sizes

    def forget(self, index: int) -> None:
        """Drop a view."""
        self.sizes.pop(index, None)

    def clear(self) -> None:
        """Drop every view."""
        self.sizes.clear()

    def predict(
        self, pairs: Sequence[tuple[int, int]], focals: Any, poses: Any = None, landmarks: Any = None
    ) -> list[PairPrediction]:
        """Both orders of a pair differ in unit and noise, as a network's do."""
        self.asked += pairs
        return [self._pair(first, second) for first, second in pairs]

    def _pair(self, first: int, second: int) -> PairPrediction:
        rng = np.random.default_rng([first, second])
        unit = np.exp(rng.uniform(-1, 1))
        own, other = (unproject(self._depth(index, rng), self._focal) for index in (first, second))
        other = transform(invert(self._w_T_c[first]) @ self._w_T_c[second], other)
        points = (unit * own).astype(np.float32), (unit * other).astype(np.float32)
        sure = [np.full(part.shape[:2], 5.0, np.float32) for part in points]
        return PairPrediction(first, second, points[0], sure[0], points[1], sure[1])

    def _depth(self, index: int, rng: np.random.Generator) -> Array:
        height, width = self.sizes[index]
        true = cv2.resize(self._depths[index], (width, height), interpolation=cv2.INTER_NEAREST).astype(np.float64)
        depth = true if self._wrong is None else self._wrong(true, rng)
        return depth * np.exp(self._noise * rng.standard_normal(true.shape) + self._warp * smooth(true.shape, rng))
