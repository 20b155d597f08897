"""Surfaces a ray can meet: flat panels, upright tubes, balls.

World frame: metres, z up. A surface maps its points to texture coordinates (u right, v down,
metres). Casting is done on the pixel grid of one camera, whose rays are ``R (x, y, 1)``: a ray's
parameter is the depth z, and every dot product with a fixed vector is a linear form of (x, y).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.types import Array, Array32

NEAR = 0.02  # metres; nothing nearer is seen


@dataclass(frozen=True, eq=False)
class RayGrid:
    """Rays of one camera: origin (3,), rotation (3, 3), ``x`` (W,) and ``y`` (H,) of the pixels at z = 1."""

    origin: Array
    rotation: Array
    x: Array32
    y: Array32

    def part(self, rows: slice, columns: slice) -> RayGrid:
        """A rectangle of the grid."""
        return RayGrid(self.origin, self.rotation, self.x[columns], self.y[rows])

    def dot(self, vector: Array) -> Array32:
        """(H, W) dot product of every ray with a world vector."""
        a, b, c = (self.rotation.T @ vector).astype(np.float32)
        return (a * self.x + c) + (b * self.y)[:, None]

    def squared_norm(self) -> Array32:
        """(H, W) squared length of every ray."""
        return (self.x * self.x + 1) + (self.y * self.y)[:, None]

    def windows(self, corners: Array) -> Iterator[tuple[int, tuple[slice, slice]]]:
        """The convex hulls of ``corners`` (M, N, 3) that can be seen, by number, each with its rows and columns."""
        local = (corners - self.origin) @ self.rotation
        z = local[..., 2]
        ahead = z.min(axis=1) > NEAR
        with np.errstate(divide="ignore", invalid="ignore"):
            xy = local[..., :2] / z[..., None]
        low, high = xy.min(axis=1), xy.max(axis=1)
        left, right = _covered(self.x, low[:, 0], high[:, 0], ahead)
        top, bottom = _covered(self.y, low[:, 1], high[:, 1], ahead)
        seen = (z.max(axis=1) > NEAR) & (left < right) & (top < bottom)
        for index in np.flatnonzero(seen).tolist():
            yield index, (slice(int(top[index]), int(bottom[index])), slice(int(left[index]), int(right[index])))


def _covered(grid: Array32, low: Array, high: Array, ahead: NDArray[np.bool_]) -> tuple[NDArray[np.intp], ...]:
    """First and last + 1 of the grid between ``low`` and ``high`` (M,); all of it for what is not ``ahead``."""
    first, last = grid.searchsorted(low), grid.searchsorted(high, side="right")
    return np.where(ahead, first, 0), np.where(ahead, last, len(grid))


@dataclass(frozen=True, eq=False)
class Hit:
    """Where the rays of a grid meet a surface: ``depth`` (z, infinite where they do not), u, v and ``facing``.

    ``facing`` is |n . ray| with the ray's z = 1: the cosine of incidence times the ray's length.
    """

    depth: Array32
    u: Array32
    v: Array32
    facing: Array32


class Surface(Protocol):
    """Something with a texture that rays can meet."""

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height of the texture, metres."""

    @property
    def corners(self) -> Array:
        """(N, 3) points whose convex hull holds the surface."""

    def cast(self, rays: RayGrid) -> Hit | None:
        """The nearest outer side along every ray; None if all of it is turned away."""

    def points(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Points and outward unit normals (N, 3) at texture coordinates (N,)."""


def _hidden(mask: NDArray[np.bool_], depth: Array32) -> Array32:
    return np.where(mask & (depth > NEAR), depth, np.float32(np.inf))


@dataclass(frozen=True, eq=False)
class Panel:
    """Flat rectangle (or the ellipse in it, if ``round``) from ``corner`` along unit axes; seen from one side.

    The normal is ``right x down`` turned towards the viewer: a viewer in front sees ``right`` to the
    right and ``down`` below, so the normal is ``-(right x down)``.
    """

    corner: Array
    right: Array
    down: Array
    width: float
    height: float
    round: bool = False

    @cached_property
    def normal(self) -> Array:
        """Unit normal on the visible side."""
        return -np.cross(self.right, self.down)

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height, metres."""
        return self.width, self.height

    @cached_property
    def corners(self) -> Array:
        """The four corners (4, 3)."""
        across, along = self.right * self.width, self.down * self.height
        return np.stack([self.corner, self.corner + across, self.corner + along, self.corner + across + along])

    def cast(self, rays: RayGrid) -> Hit | None:
        """Plane intersection; rays from behind miss."""
        offset = rays.origin - self.corner
        above = np.float32(offset @ self.normal)
        if above <= 0:
            return None
        toward = -rays.dot(self.normal)
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = above / toward
            u = np.float32(offset @ self.right) + depth * rays.dot(self.right)
            v = np.float32(offset @ self.down) + depth * rays.dot(self.down)
            inside = (u >= 0) & (u <= self.width) & (v >= 0) & (v <= self.height)
            if self.round:
                inside &= (2 * u / self.width - 1) ** 2 + (2 * v / self.height - 1) ** 2 <= 1
        return Hit(_hidden(inside & (toward > 0), depth), u, v, toward)

    def points(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Points and normals at (u, v)."""
        points = self.corner + u[:, None] * self.right + v[:, None] * self.down
        return points, np.broadcast_to(self.normal, points.shape)


@dataclass(frozen=True, eq=False)
class Tube:
    """Side of an upright cylinder on ``base`` (centre of its bottom); u runs around, v from the top down."""

    base: Array
    radius: float
    height: float

    @property
    def extent(self) -> tuple[float, float]:
        """Circumference and height, metres."""
        return 2 * np.pi * self.radius, self.height

    @cached_property
    def corners(self) -> Array:
        """The eight corners of the box around it."""
        reach = np.array([self.radius, self.radius, 0])
        return _box_corners(self.base - reach, self.base + reach + np.array([0, 0, self.height]))

    def cast(self, rays: RayGrid) -> Hit:
        """Nearer root of the quadratic in the horizontal plane."""
        offset = rays.origin - self.base
        dx, dy, dz = (rays.dot(axis) for axis in np.eye(3))
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = _near_root(
                dx * dx + dy * dy,
                np.float32(offset[0]) * dx + np.float32(offset[1]) * dy,
                float(offset[:2] @ offset[:2]) - self.radius**2,
            )
            x, y = np.float32(offset[0]) + depth * dx, np.float32(offset[1]) + depth * dy
            v = np.float32(self.height - offset[2]) - depth * dz
            u = np.float32(self.radius) * (np.arctan2(y, x) % np.float32(2 * np.pi))
            facing = -(x * dx + y * dy) / np.float32(self.radius)
            inside = (v >= 0) & (v <= self.height)
        return Hit(_hidden(inside, depth), u, v, facing)

    def points(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Points and normals at (u, v)."""
        angle = u / self.radius
        normals = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], -1)
        heights = np.stack([0 * v, 0 * v, self.height - v], -1)
        return self.base + self.radius * normals + heights, normals


@dataclass(frozen=True, eq=False)
class Ball:
    """Sphere; its texture is six squares side by side, the sides of the cube around it."""

    center: Array
    radius: float

    @cached_property
    def _side(self) -> float:
        return self.radius * np.pi / 2

    @property
    def extent(self) -> tuple[float, float]:
        """Six squares of a quarter of the circumference."""
        return 6 * self._side, self._side

    @cached_property
    def corners(self) -> Array:
        """The eight corners of the box around it."""
        return _box_corners(self.center - self.radius, self.center + self.radius)

    def cast(self, rays: RayGrid) -> Hit:
        """Nearer root of the quadratic."""
        offset = rays.origin - self.center
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = _near_root(rays.squared_norm(), rays.dot(offset), float(offset @ offset) - self.radius**2)
            ways = np.stack([rays.dot(axis) for axis in np.eye(3)])
            normals = (offset.astype(np.float32)[:, None, None] + depth * ways) / np.float32(self.radius)
            facing = -(normals * ways).sum(axis=0)
            u, v = self._coordinates(normals)
        return Hit(_hidden(np.isfinite(depth), depth), u, v, facing)

    def _coordinates(self, normals: Array32) -> tuple[Array32, Array32]:
        axis = np.argmax(np.abs(np.nan_to_num(normals)), axis=0)[None]
        major = np.take_along_axis(normals, axis, 0)[0]
        first = np.take_along_axis(normals, (axis + 1) % 3, 0)[0] / np.abs(major)
        second = np.take_along_axis(normals, (axis + 2) % 3, 0)[0] / np.abs(major)
        tile = (2 * axis[0] + (major < 0)).astype(np.float32)
        side = np.float32(self._side)
        return (tile + (np.clip(first, -0.99, 0.99) + 1) / 2) * side, (second + 1) / 2 * side

    def points(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Points and normals at (u, v)."""
        tile = np.minimum(np.floor(u / self._side), 5).astype(int)
        normals = np.empty((len(u), 3))
        rows, axis = np.arange(len(u)), tile // 2
        normals[rows, axis] = np.where(tile % 2, -1.0, 1.0)
        normals[rows, (axis + 1) % 3] = 2 * (u / self._side - tile) - 1
        normals[rows, (axis + 2) % 3] = 2 * v / self._side - 1
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return self.center + self.radius * normals, normals


def _near_root(a: Array32, half_b: Array32, c: float) -> Array32:
    """Smaller root of a t^2 + 2 half_b t + c = 0; NaN where there is none."""
    return (-half_b - np.sqrt(half_b * half_b - a * np.float32(c))) / a


def _box_corners(low: Array, high: Array) -> Array:
    choose = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)], dtype=bool)
    return np.where(choose, high, low)
