"""What a lens does beside scaling: one radial term, and a principal point that is not in the middle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dust3r_ros.types import Array

_STEPS = 20  # of the inversion; each gains more than a digit for lenses that are not fisheyes
_SAMPLES = 200  # radii that the forward model is fitted to


@dataclass(frozen=True)
class Lens:
    """Maps offsets in an image, pixels from its middle, to those that a pinhole would give (from its centre).

    ideal = (u - c) (1 + radial |u - c|^2 / radius^2), Brown's model read backwards ("Decentering
    Distortion of Lenses", 1966; as in Fitzgibbon, CVPR 2001, to first order). ``center`` c (pixels),
    ``radius`` (pixels): where the radial term counts in full, half of the long edge.
    """

    radius: float
    radial: float = 0.0
    center: tuple[float, float] = (0.0, 0.0)

    @property
    def plain(self) -> bool:
        """Whether it changes nothing."""
        return self.radial == 0.0 and self.center == (0.0, 0.0)

    def ideal(self, offsets: Array) -> Array:
        """(N, 2) where a pinhole would see what is seen at ``offsets`` (N, 2)."""
        if self.plain:
            return offsets
        shifted = offsets - np.asarray(self.center)
        square = np.sum(shifted**2, axis=-1, keepdims=True) / self.radius**2
        return shifted * (1.0 + self.radial * square)

    def seen(self, ideal: Array) -> Array:
        """(N, 2) where the lens shows what a pinhole would at ``ideal`` (N, 2): the inverse of ``ideal``.

        Beyond the radius at which the model turns back, the point of turning is given.
        """
        if self.plain:
            return ideal
        wanted = np.linalg.norm(ideal, axis=-1, keepdims=True) / self.radius
        limit = np.inf if self.radial >= 0 else np.sqrt(-1.0 / (3.0 * self.radial))
        found = np.minimum(wanted, limit)
        for _ in range(_STEPS):  # Newton on r (1 + k r^2) = wanted
            slope = 1.0 + 3.0 * self.radial * found**2
            step = (found * (1.0 + self.radial * found**2) - wanted) / np.maximum(slope, 1e-3)
            found = np.clip(found - step, 0.0, limit)
        scale = np.where(wanted > 0, found / np.maximum(wanted, 1e-12), 1.0)
        return ideal * scale + np.asarray(self.center)

    def distance(self, other: Lens) -> float:
        """The largest shift (pixels) between what two lenses make of the image's corners and border."""
        edge = self.radius * np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.7, 0.7], [-0.7, -0.7]])
        return float(np.linalg.norm(self.ideal(edge) - other.ideal(edge), axis=1).max())

    def scaled(self, factor: float) -> Lens:
        """The same lens where the image is ``factor`` times as large."""
        return Lens(factor * self.radius, self.radial, (factor * self.center[0], factor * self.center[1]))


@lru_cache(maxsize=64)  # asked with every image
def plumb_bob(lens: Lens, focal: float, width: int, height: int) -> tuple[float, float, float]:
    """k1, k2, k3 of the forward model of OpenCV and ROS, fitted to ``lens`` over an image of that size.

    A pinhole's x (from the principal point, in units of ``focal``) is seen at x (1 + k1 r^2 + k2 r^4 +
    k3 r^6). ``lens``, ``focal``, ``width`` and ``height`` (pixels) are of one resolution. With |radial| up
    to 0.07, pixels of 640 x 480 are met to 0.05 px out to the corners; with 0.1, to 0.2 px.
    """
    if lens.radial == 0.0:
        return 0.0, 0.0, 0.0
    reach = math.hypot(width / 2 + abs(lens.center[0]), height / 2 + abs(lens.center[1])) / lens.radius
    if lens.radial < 0:  # short of the radius at which the model turns back: beyond it there is no inverse
        reach = min(reach, 0.95 / math.sqrt(-3.0 * lens.radial))
    # Denser outwards, as Chebyshev's nodes are: the largest error is what counts, and it is at the corners.
    seen = reach * np.sin(np.linspace(0.0, np.pi / 2, _SAMPLES + 1)[1:])
    ideal = seen * (1.0 + lens.radial * seen**2)
    terms = ideal[:, None] ** (3, 5, 7)
    found = np.linalg.lstsq(terms, seen - ideal, rcond=None)[0]
    k1, k2, k3 = (found * (focal / lens.radius) ** np.array([2, 4, 6])).tolist()
    return k1, k2, k3
