"""Shapes that rays can meet, as arrays: panels, boxes, halls, frustums, ellipsoids.

World frame: metres, z up. Every shape lives in a cube: local coordinates ``p`` in [-1, 1]^3 are world
points ``center + axes p``. An affine map keeps the parameter of a ray, so the depth found locally is
the depth in the camera. A shape's surface consists of *charts*, flat maps with coordinates (s, t) in
[0, 1]^2 that carry paint and light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.types import Array

# PANEL: the rectangle z = 0, seen from both sides. BOX: the cube. HALL: the cube seen from within.
# FRUSTUM: a cylinder about z, thinner towards z = 1 by its taper. ELLIPSOID: the ball.
KINDS = PANEL, BOX, HALL, FRUSTUM, ELLIPSOID = range(5)
# Charts: the panel; sides +x -x +y -y +z -z; side, bottom and top; the six sides of the cube around the ball.
CHARTS = np.array([1, 6, 6, 3, 6])

_CUBE = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)]) * 2.0 - 1.0


@dataclass(frozen=True, eq=False)
class Shape:
    """One shape: its kind, ``center`` (3,), ``axes`` (3, 3) with the half axes (metres) in its columns.

    ``taper`` in [0, 1]: how much of its radius a frustum loses on the way up. ``mask`` >= 0 is the stencil
    that cuts holes into a panel, repeated ``repeats`` times along its axes. Shapes that are not ``solid`` (sheets lying
    on things, backdrops) cast no shadow and block no camera.
    """

    kind: int
    center: Array
    axes: Array
    taper: float = 0.0
    mask: int = -1
    repeats: tuple[float, float] = (1.0, 1.0)
    solid: bool = True


@dataclass(frozen=True, eq=False)
class Shapes:
    """N shapes as arrays; ``chart`` (N,) is the number of the first chart of each."""

    kind: NDArray[np.int64]
    center: Array
    axes: Array
    taper: Array
    mask: NDArray[np.int64]
    repeats: Array
    solid: NDArray[np.bool_]
    chart: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.kind)

    @cached_property
    def local(self) -> Array:
        """(N, 3, 3) world directions to local ones."""
        return np.asarray(np.linalg.inv(self.axes), np.float64)

    @cached_property
    def size(self) -> Array:
        """(N, 3) lengths of the half axes, metres."""
        return np.asarray(np.linalg.norm(self.axes, axis=1), np.float64)

    @cached_property
    def corners(self) -> Array:
        """(N, 8, 3) corners of the cubes; a panel's is flat."""
        cube = np.broadcast_to(_CUBE, (len(self), 8, 3)).copy()
        cube[self.kind == PANEL, :, 2] = 0
        return self.center[:, None] + np.einsum("nij,ncj->nci", self.axes, cube)

    @cached_property
    def radius(self) -> Array:
        """(N,) of a ball around each, metres."""
        return np.linalg.norm(self.corners - self.center[:, None], axis=-1).max(axis=1)

    @property
    def charts(self) -> int:
        """Number of all charts."""
        return int(CHARTS[self.kind].sum())

    def holds(self, points: Array, margin: float) -> NDArray[np.bool_]:
        """(P,) whether points (P, 3) are within ``margin`` metres of the cube of a solid shape, or outside a hall."""
        away = points[:, None] - self.center  # (P, N, 3)
        p = np.abs(np.einsum("nij,pnj->pni", self.local, away))
        size = np.where((self.kind == PANEL)[:, None] & (np.arange(3) == 2), 0.0, 1.0)
        near = (p < size + margin / self.size).all(axis=-1) & (self.solid & (self.kind != HALL))
        outside = (p > 1 - margin / self.size).any(axis=-1) & (self.kind == HALL)
        return (near | outside).any(axis=1)


def gather(shapes: Sequence[Shape]) -> Shapes:
    """Shapes as arrays, in the same order."""
    kind = np.array([shape.kind for shape in shapes])
    return Shapes(
        kind,
        np.array([shape.center for shape in shapes], np.float64),
        np.array([shape.axes for shape in shapes], np.float64),
        np.array([shape.taper for shape in shapes], np.float64),
        np.array([shape.mask for shape in shapes]),
        np.array([shape.repeats for shape in shapes], np.float64),
        np.array([shape.solid for shape in shapes]),
        np.cumsum(CHARTS[kind]) - CHARTS[kind],
    )


def chart_extents(shape: Shape) -> list[tuple[float, float]]:
    """Width and height in metres of every chart of a shape."""
    a, b, c = 2 * np.linalg.norm(shape.axes, axis=0)
    if shape.kind == PANEL:
        return [(a, b)]
    if shape.kind == FRUSTUM:
        return [(np.pi * (a + b) / 2, c), (a, b), (a, b)]
    if shape.kind == ELLIPSOID:
        quarter = np.pi * np.array([a, b, c]) / 4
        return [(quarter[(k // 2 + 1) % 3], quarter[(k // 2 + 2) % 3]) for k in range(6)]
    return [(b, c), (b, c), (a, c), (a, c), (a, b), (a, b)]


def chart_points(shape: Shape, face: int, s: Array, t: Array) -> tuple[Array, Array]:
    """Points and outward unit normals (N, 3), world frame, at coordinates (N,) of a chart."""
    x, y = 2 * s - 1, 2 * t - 1
    if shape.kind == PANEL:
        local, normal = np.stack([x, y, 0 * x], -1), np.broadcast_to([0.0, 0.0, 1.0], (len(x), 3))
    elif shape.kind == FRUSTUM:
        local, normal = _frustum_points(shape.taper, face, s, t)
    elif shape.kind == ELLIPSOID:
        local = np.empty((len(x), 3))
        axis = face // 2
        local[:, axis], local[:, (axis + 1) % 3], local[:, (axis + 2) % 3] = (1 - 2 * (face % 2)), x, y
        local /= np.linalg.norm(local, axis=1, keepdims=True)
        normal = local
    else:
        local, normal = np.empty((len(x), 3)), np.zeros((len(x), 3))
        axis, sign = face // 2, 1.0 - 2 * (face % 2)
        across, up = ((1, 2), (0, 2), (0, 1))[axis]
        local[:, axis], local[:, across], local[:, up] = sign, (-sign if axis == 1 else sign) * x, -y
        normal[:, axis] = -sign if shape.kind == HALL else sign
    outward = normal @ np.linalg.inv(shape.axes)
    return shape.center + local @ shape.axes.T, outward / np.linalg.norm(outward, axis=1, keepdims=True)


def _frustum_points(taper: float, face: int, s: Array, t: Array) -> tuple[Array, Array]:
    if face == 0:
        z = 1 - 2 * t
        radius, angle = 1 - taper * (z + 1) / 2, 2 * np.pi * s
        across = np.stack([np.cos(angle), np.sin(angle)], -1)
        return (
            np.concatenate([radius[:, None] * across, z[:, None]], -1),
            np.concatenate([across, np.full((len(s), 1), taper / 2)], -1),
        )
    end = -1.0 if face == 1 else 1.0
    lid = np.stack([2 * s - 1, 2 * t - 1, np.full_like(s, end)], -1)
    return lid, np.broadcast_to([0.0, 0.0, end], lid.shape)
