"""A camera and what its rays are in the coordinates of every shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dust3r_ros.errors import InputError
from dust3r_ros.scenes.endless.meeting import NEAR
from dust3r_ros.scenes.endless.shapes import HALL, Shapes
from dust3r_ros.types import Array, Array32


@dataclass(frozen=True, eq=False)
class Eye:
    """A pinhole camera: ``K`` (3, 3) in pixels, centres at integers, no skew; ``w_T_c`` (4, 4) optical frame."""

    K: Array
    w_T_c: Array
    width: int
    height: int

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1 or not min(self.K[0, 0], self.K[1, 1]) > 0:
            raise InputError(
                f"cannot render {self.width}x{self.height} pixels with focals {self.K[0, 0]}, {self.K[1, 1]}; "
                "all must be positive"
            )

    def x(self, u: ArrayLike) -> Array32:
        """x at z = 1 of columns ``u`` (any shape), float32."""
        return ((np.asarray(u) - self.K[0, 2]) / self.K[0, 0]).astype(np.float32)

    def y(self, v: ArrayLike) -> Array32:
        """y at z = 1 of rows ``v``, float32."""
        return ((np.asarray(v) - self.K[1, 2]) / self.K[1, 1]).astype(np.float32)

    @property
    def focal(self) -> float:
        """Geometric mean of both focals, pixels: a pixel covers 1 / focal^2."""
        return float(np.sqrt(self.K[0, 0] * self.K[1, 1]))


@dataclass(frozen=True, eq=False)
class Sight:
    """N shapes as one camera sees them: a ray (x, y, 1) is ``forms`` (x, y, 1) from ``origin`` in local coordinates.

    ``forms`` (3, 3, N), ``origin`` (3, N), ``size`` (3, N), ``taper`` (N,), ``repeats`` (2, N) float32; ``kind``,
    ``mask``, ``chart`` (N,) int64: shapes last, since rays look up one number after the other.
    NumPy arrays, or PyTorch tensors of the shapes of many cameras.
    """

    forms: Array32
    origin: Array32
    size: Array32
    taper: Array32
    repeats: Array32
    kind: NDArray[np.int64]
    mask: NDArray[np.int64]
    chart: NDArray[np.int64]


def sight(shapes: Shapes, w_T_c: Array) -> Sight:
    """The shapes as the camera at ``w_T_c`` (4, 4) sees them."""
    return Sight(
        np.array(np.einsum("nij,jk->ikn", shapes.local, w_T_c[:3, :3]), np.float32, order="C"),
        np.array(np.einsum("nij,nj->in", shapes.local, w_T_c[:3, 3] - shapes.center), np.float32, order="C"),
        np.array(shapes.size.T, np.float32, order="C"),
        shapes.taper.astype(np.float32),
        np.array(shapes.repeats.T, np.float32, order="C"),
        shapes.kind,
        shapes.mask,
        shapes.chart,
    )


def windows(shapes: Shapes, eye: Eye) -> NDArray[np.int64]:
    """(N, 4) pixels that can see each shape: rows from, to, columns from, to (to excluded); empty when none can."""
    local = (shapes.corners - eye.w_T_c[:3, 3]) @ eye.w_T_c[:3, :3]  # (N, 8, 3)
    ahead = local[..., 2] > NEAR
    z = np.where(ahead, local[..., 2], 1.0)
    u, v = local[..., 0] / z * eye.K[0, 0] + eye.K[0, 2], local[..., 1] / z * eye.K[1, 1] + eye.K[1, 2]
    found = np.empty((len(shapes), 4), np.int64)
    for place, values, limit in ((0, v, eye.height), (2, u, eye.width)):
        # One pixel more on every side, for what is rounded.
        found[:, place] = np.clip(np.floor(values.min(axis=1)) - 1, 0, limit)
        found[:, place + 1] = np.clip(np.ceil(values.max(axis=1)) + 2, 0, limit)
    found[~ahead.all(axis=1) | (shapes.kind == HALL)] = [0, eye.height, 0, eye.width]
    found[~ahead.any(axis=1)] = 0
    found[(found[:, 0] >= found[:, 1]) | (found[:, 2] >= found[:, 3])] = 0
    return found
