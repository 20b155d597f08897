"""Backends that know the truth, in the form of a network: what the mapper does with perfect or useless predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pairs import smooth

from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.resize import Resize
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.types import Array, Array32, PairPrediction, View


class Oracle:
    """True pointmaps of a rendered sequence: an arbitrary unit per pair, noise that grows with depth.

    ``warp`` is the standard deviation of a smooth error of log depth, another one for each view of each pair; ``zoom``
    are those of errors of the log focal: one common to all pairs, and another one for each.

    A view is recognised by its image, as a network would. Confidence is 1 + exp of a number that
    falls with depth, so it is above 1 everywhere, also where the other view sees nothing.
    """

    name = "oracle"
    uses_poses = False

    def __init__(
        self,
        sequence: RenderedSequence,
        working_size: int,
        noise: float = 0.01,
        seed: int = 0,
        warp: float = 0.0,
        zoom: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self._sequence = sequence
        self._resize = Resize.fit(sequence.width, sequence.height, working_size)
        self._by_image = {self._resize.apply(image).tobytes(): i for i, image in enumerate(sequence.images)}
        self._noise, self._seed, self._warp = noise, seed, warp
        self._zoom, self._all_zoomed = zoom[1], zoom[0] * float(np.random.default_rng([seed, 11]).standard_normal())
        self._frames: dict[int, int] = {}
        self.asked: list[tuple[int, int]] = []

    def add(self, view: View) -> None:
        """Take a view in."""
        self._frames[view.index] = self._by_image[view.image.tobytes()]

    def has(self, index: int) -> bool:
        """Whether a view is kept."""
        return index in self._frames

    def forget(self, index: int) -> None:
        """Drop a view."""
        self._frames.pop(index, None)

    def clear(self) -> None:
        """Drop every view."""
        self._frames.clear()

    def predict(
        self,
        pairs: Sequence[tuple[int, int]],
        focals: Mapping[str, float],
        poses: Mapping[int, Array] | None = None,
        landmarks: Mapping[int, Array] | None = None,
    ) -> list[PairPrediction]:
        """The truth of every pair, whatever focals and poses are."""
        self.asked += pairs
        return [self._pair(first, second) for first, second in pairs]

    def _pair(self, first: int, second: int) -> PairPrediction:
        rng = np.random.default_rng([self._seed, first, second])
        unit = float(np.exp(rng.uniform(-1.5, 1.5)))
        a, b = (self._sequence.w_T_c[self._frames[i]] for i in (first, second))
        zoom = self._all_zoomed + (self._zoom * float(rng.standard_normal()) if self._zoom else 0.0)
        points_a, confidence_a = self._view(self._frames[first], rng, zoom)
        points_b, confidence_b = self._view(self._frames[second], rng, zoom)
        points_b = transform(invert(a) @ b, points_b)
        return PairPrediction(
            first,
            second,
            (unit * points_a).astype(np.float32),
            confidence_a,
            (unit * points_b).astype(np.float32),
            confidence_b,
        )

    def _view(self, frame: int, rng: np.random.Generator, zoom: float) -> tuple[Array, Array32]:
        """Noisy points (H, W, 3), metres, in the view's own frame, and confidence (H, W): 1 where there is no depth.

        ``zoom``: error of the log focal.
        """
        depth = self.true_depth(frame)
        known = depth > 0
        noisy = depth * (1.0 + self._noise * depth * rng.standard_normal(depth.shape))
        if self._warp:
            noisy *= np.exp(self._warp * smooth(depth.shape, rng))
        focal = self._resize.focal_to_working(self._sequence.focal) * np.exp(zoom)
        confidence = np.where(known, 1.0 + np.exp(2.0 - depth), 1.0)
        return unproject(np.maximum(noisy, 0.05), focal), confidence.astype(np.float32)

    def true_depth(self, frame: int) -> Array:
        """(H, W) z in metres of a frame at working resolution: that of the nearest native pixel."""
        grid = np.stack(np.meshgrid(np.arange(self._resize.width), np.arange(self._resize.height)), axis=-1)
        u, v = np.moveaxis(np.round(self._resize.to_native(grid)).astype(int), -1, 0)
        height, width = self._sequence.depths.shape[1:]
        return self._sequence.depths[frame][np.clip(v, 0, height - 1), np.clip(u, 0, width - 1)].astype(np.float64)


class Nonsense(Oracle):
    """Finite numbers without any sense, now and then with high confidence."""

    name = "nonsense"

    def _pair(self, first: int, second: int) -> PairPrediction:
        rng = np.random.default_rng([self._seed, first, second, 7])
        shape = (self._resize.height, self._resize.width)

        def points() -> Array32:
            return rng.normal(0.0, 1.0, (*shape, 3)).astype(np.float32)

        def confidence() -> Array32:
            return (1.0 + np.exp(rng.normal(0.0, 2.0, shape))).astype(np.float32)

        return PairPrediction(first, second, points(), confidence(), points(), confidence())
