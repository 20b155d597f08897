"""What training sets give: views with exact cameras, and pairs of them.

World frame ``w``: any, one per pair. Camera frame: optical (x right, y down, z forward). Lengths: any
unit, one per pair. Pixel centres lie at integer coordinates. NumPy only, so that readers start fast.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.types import Array, Array32, Image


@dataclass(frozen=True, eq=False)
class TrainingView:
    """One image with its truth.

    ``image`` (H, W, 3) uint8 RGB, ``depth`` (H, W) float32: z in the camera, 0 = unknown. ``K`` (3, 3)
    pinhole intrinsics in pixels of this image; its principal point may lie anywhere. ``w_T_c`` (4, 4).
    """

    image: Image
    depth: Array32
    K: Array
    w_T_c: Array

    def points_c(self) -> Array:
        """(H, W, 3) points in the camera's frame; the origin where the depth is unknown."""
        height, width = self.depth.shape
        x = (np.arange(width) - self.K[0, 2]) / self.K[0, 0]  # (W,)
        y = (np.arange(height) - self.K[1, 2]) / self.K[1, 1]  # (H,)
        z = self.depth.astype(np.float64)
        # Undo a skew, which is 0 in every camera but those of some structure-from-motion models.
        x = x[None, :] - (self.K[0, 1] / self.K[0, 0]) * y[:, None]
        return np.stack([x * z, y[:, None] * z, z], axis=-1)

    def points_w(self) -> Array:
        """(H, W, 3) points in the world frame; the camera's centre where the depth is unknown."""
        return self.points_c() @ self.w_T_c[:3, :3].T + self.w_T_c[:3, 3]

    def check(self, name: str) -> None:
        """Raises ``InputError`` naming ``name`` for shapes, types or numbers that no camera gives."""
        height, width = self.image.shape[:2]
        if self.image.shape != (height, width, 3) or self.image.dtype != np.uint8 or self.image.size == 0:
            raise InputError(f"{name}: image of shape {self.image.shape} and type {self.image.dtype} is not RGB uint8")
        if self.depth.shape != (height, width):
            raise InputError(f"{name}: depth of shape {self.depth.shape} does not fit the image of {width}x{height}")
        if not (np.isfinite(self.depth).all() and (self.depth >= 0).all()):
            raise InputError(f"{name}: depth holds negative or not finite numbers; unknown must be 0")
        if self.K.shape != (3, 3) or not np.isfinite(self.K).all() or min(self.K[0, 0], self.K[1, 1]) <= 0:
            raise InputError(f"{name}: K is {self.K.tolist()}; it must be (3, 3), finite, with focals above 0")
        if self.w_T_c.shape != (4, 4) or not np.isfinite(self.w_T_c).all():
            raise InputError(f"{name}: the pose is not a finite (4, 4) matrix")
        if np.abs(self.w_T_c[:3, :3] @ self.w_T_c[:3, :3].T - np.eye(3)).max() > 1e-3:
            raise InputError(f"{name}: the pose's upper left (3, 3) is not a rotation")


@dataclass(frozen=True, eq=False)
class ViewPair:
    """Two views that see some of the same; ``source`` names where they are from, for messages."""

    first: TrainingView
    second: TrainingView
    source: str

    def swapped(self) -> ViewPair:
        """The same pair in the other order."""
        return ViewPair(self.second, self.first, self.source)

    def check(self) -> None:
        """Raises ``InputError`` as ``TrainingView.check``."""
        self.first.check(f"{self.source}, first view")
        self.second.check(f"{self.source}, second view")


class PairSource(Protocol):
    """Where pairs come from: a training set on disk, or rendered worlds."""

    @property
    def name(self) -> str:
        """Of the set, in messages and metrics."""

    def __len__(self) -> int | None:
        """Number of pairs; None for a source that never ends (ask with ``length``: ``len`` knows no None)."""

    def pair(self, index: int, rng: np.random.Generator) -> ViewPair:
        """Pair ``index``; the same for the same index and state of ``rng``.

        Raises ``InputError`` that names the file of a sample that cannot be read.
        """


@runtime_checkable
class BatchSource(Protocol):
    """A source that makes whole batches itself, on the device that trains. It is the only one of a run."""

    def batches(
        self, start: int, number: int, pairs: int, sizes: Sequence[tuple[int, int]], cropping: Any, workers: int
    ) -> Generator[Any, None, None]:
        """Batches (``batches.PairBatch``) from ``number`` on: ``pairs`` of this process each, of a stage before which
        ``start`` pairs of all processes were made. ``workers`` processes help."""

    def at(self, size: tuple[int, int]) -> PairSource:
        """The same worlds, whose single pairs have images of ``size`` (H, W)."""


def length(source: PairSource) -> int | None:
    """Number of pairs of a source, None for one that never ends."""
    count = source.__len__()
    return None if count is None else int(count)
