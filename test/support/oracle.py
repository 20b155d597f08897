"""Backends that know the truth, in the form of a network: what the mapper does with perfect or useless predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from pairs import smooth
from scipy.spatial.transform import Rotation

from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.resize import Resize
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.types import Array, Array32, Image, PairPrediction, View


class Oracle:
    """True pointmaps of a rendered sequence: an arbitrary unit per pair, noise that grows with depth.

    ``warp`` is the standard deviation of a smooth error of log depth, another one for each view of each pair; ``zoom``
    are those of errors of the log focal: one common to all pairs, and another one for each. ``turn_deg`` and ``shift``:
    of the second view's pose in each pair, degrees and median depths.

    A view is recognised by its image, as a network would, also if that is rectified. Confidence is 1 + exp of a number
    that falls with depth, in metres or, if ``relative``, in median depths; so it is above 1 everywhere, also where the
    other view sees nothing.
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
        turn_deg: float = 0.0,
        shift: float = 0.0,
        relative: bool = False,
    ) -> None:
        self._sequence = sequence
        self._resize = Resize.fit(sequence.width, sequence.height, working_size)
        self._by_image = {self._resize.apply(image).tobytes(): i for i, image in enumerate(sequence.images)}
        self._thumbnails = np.stack([_thumbnail(self._resize.apply(image)) for image in sequence.images])
        self._noise, self._seed, self._warp = noise, seed, warp
        self._turn, self._shift, self._relative = np.radians(turn_deg), shift, relative
        self._zoom, self._all_zoomed = zoom[1], zoom[0] * float(np.random.default_rng([seed, 11]).standard_normal())
        self._frames: dict[int, int] = {}
        self.asked: list[tuple[int, int]] = []

    def add(self, view: View) -> None:
        """Take a view in."""
        frame = self._by_image.get(view.image.tobytes())
        if frame is None:
            frame = int(np.argmin(np.abs(self._thumbnails - _thumbnail(view.image)).mean(axis=(1, 2, 3))))
        self._frames[view.index] = frame

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
        a_T_b = invert(a) @ b
        if self._turn or self._shift:
            a_T_b[:3, :3] = (
                Rotation.from_rotvec(self._turn / 3**0.5 * rng.standard_normal(3)).as_matrix() @ a_T_b[:3, :3]
            )
            a_T_b[:3, 3] += self._shift * np.median(points_a[..., 2]) / 3**0.5 * rng.standard_normal(3)
        points_b = transform(a_T_b, points_b)
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
        unit = float(np.median(depth[known])) if self._relative and known.any() else 1.0
        confidence = np.where(known, 1.0 + np.exp(2.0 - depth / unit), 1.0)
        return unproject(np.maximum(noisy, 0.05), focal), confidence.astype(np.float32)

    def true_depth(self, frame: int) -> Array:
        """(H, W) z in metres of a frame at working resolution: that of the nearest native pixel."""
        grid = np.stack(np.meshgrid(np.arange(self._resize.width), np.arange(self._resize.height)), axis=-1)
        u, v = np.moveaxis(np.round(self._resize.to_native(grid)).astype(int), -1, 0)
        height, width = self._sequence.depths.shape[1:]
        return self._sequence.depths[frame][np.clip(v, 0, height - 1), np.clip(u, 0, width - 1)].astype(np.float64)


def _thumbnail(image: Image) -> Array32:
    return cv2.resize(image, (32, 24), interpolation=cv2.INTER_AREA).astype(np.float32)


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
