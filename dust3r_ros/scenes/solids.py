"""Furniture: solids made of surfaces, and the shadows they cast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.scenes.surfaces import Ball, Panel, Surface, Tube
from dust3r_ros.scenes.textures import Pattern
from dust3r_ros.types import Array, Array32

_SKIN = 1e-3  # metres; a point this close to a surface is on it, not behind it


class Solid(Protocol):
    """A body with painted surfaces."""

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Lowest and highest corner (3,) of a box around it."""

    def surfaces(self) -> list[tuple[Surface, Pattern]]:
        """What of it can be seen, with its paint."""

    def blocks(self, points: Array, lamp: Array) -> NDArray[np.bool_]:
        """(N,) whether it stands between points (N, 3) and a lamp (3,)."""


class _Bounded:
    """The box around a solid, from its surfaces."""

    def surfaces(self) -> list[tuple[Surface, Pattern]]:
        """What of it can be seen, with its paint."""
        raise NotImplementedError

    @cached_property
    def bounds(self) -> tuple[Array, Array]:
        """Lowest and highest corner (3,)."""
        corners = np.concatenate([surface.corners for surface, _ in self.surfaces()])
        return corners.min(axis=0), corners.max(axis=0)


def box_panels(low: Array, high: Array, yaw: float = 0.0, inside: bool = False) -> dict[str, Panel]:
    """The sides of a box by the direction they lie in (+x, -x, +y, -y, +z, -z), seen from outside or ``inside``.

    ``yaw`` (radians) turns the box about the vertical axis through its middle.
    """
    middle, half = (low + high) / 2, (high - low) / 2
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1.0]])
    panels = {}
    for name, right, down in (
        ("+x", [0, 1, 0], [0, 0, -1]),
        ("-x", [0, -1, 0], [0, 0, -1]),
        ("+y", [-1, 0, 0], [0, 0, -1]),
        ("-y", [1, 0, 0], [0, 0, -1]),
        ("+z", [1, 0, 0], [0, -1, 0]),
        ("-z", [1, 0, 0], [0, 1, 0]),
    ):
        right_axis, down_axis = np.array(right, float), np.array(down, float)
        outward = -np.cross(right_axis, down_axis)
        if inside:
            right_axis = -right_axis
        size = 2 * float(abs(right_axis @ half)), 2 * float(abs(down_axis @ half))
        corner = outward * abs(outward @ half) - right_axis * size[0] / 2 - down_axis * size[1] / 2
        panels[name] = Panel(middle + turn @ corner, turn @ right_axis, turn @ down_axis, size[0], size[1])
    return panels


@dataclass(frozen=True, eq=False)
class Box(_Bounded):
    """Box from ``low`` to ``high`` (3,), turned by ``yaw`` about its middle; the top may have its own paint."""

    low: Array
    high: Array
    side: Pattern
    top: Pattern
    yaw: float = 0.0

    def surfaces(self) -> list[tuple[Surface, Pattern]]:
        """Six panels; the bottom only when it is off the floor."""
        panels = box_panels(self.low, self.high, self.yaw)
        return [
            (panel, self.top if name == "+z" else self.side)
            for name, panel in panels.items()
            if name != "-z" or self.low[2] > 0.01
        ]

    def blocks(self, points: Array, lamp: Array) -> NDArray[np.bool_]:
        """Slab test in the frame of the box."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        to_box = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2 - _SKIN
        start = np.ascontiguousarray(((points - middle) @ to_box.T).T)
        way = ((lamp - middle) @ to_box.T)[:, None] - start
        way = np.where(np.abs(way) < 1e-9, 1e-9, way)
        first, second = (-half[:, None] - start) / way, (half[:, None] - start) / way
        enter = np.minimum(first, second).max(axis=0)
        leave = np.maximum(first, second).min(axis=0)
        return (np.maximum(enter, 0) < np.minimum(leave, 1)) & (leave > 0)


@dataclass(frozen=True, eq=False)
class Pillar(_Bounded):
    """Upright cylinder with a round top."""

    base: Array
    radius: float
    height: float
    side: Pattern
    top: Pattern

    def surfaces(self) -> list[tuple[Surface, Pattern]]:
        """Side and top."""
        corner = self.base + np.array([-self.radius, self.radius, self.height])
        lid = Panel(corner, np.array([1.0, 0, 0]), np.array([0, -1.0, 0]), 2 * self.radius, 2 * self.radius, round=True)
        return [(Tube(self.base, self.radius, self.height), self.side), (lid, self.top)]

    def blocks(self, points: Array, lamp: Array) -> NDArray[np.bool_]:
        """Whether the parts of the ray inside the circle and below the top overlap."""
        start, way = points - self.base, lamp - points
        rise = np.where(np.abs(way[:, 2]) < 1e-9, 1e-9, way[:, 2])
        a = np.maximum(_dot(way[:, :2], way[:, :2]), 1e-12)
        half_b = _dot(start[:, :2], way[:, :2])
        c = _dot(start[:, :2], start[:, :2]) - (self.radius - _SKIN) ** 2
        reach = np.sqrt(np.maximum(half_b**2 - a * c, 0))
        bottom, top = -start[:, 2] / rise, (self.height - _SKIN - start[:, 2]) / rise
        enter = np.maximum((-half_b - reach) / a, np.minimum(bottom, top))
        leave = np.minimum((-half_b + reach) / a, np.maximum(bottom, top))
        return (reach > 0) & (np.maximum(enter, 0) < np.minimum(leave, 1))


@dataclass(frozen=True, eq=False)
class Globe(_Bounded):
    """A ball with one paint."""

    center: Array
    radius: float
    paint: Pattern

    def surfaces(self) -> list[tuple[Surface, Pattern]]:
        """The ball."""
        return [(Ball(self.center, self.radius), self.paint)]

    def blocks(self, points: Array, lamp: Array) -> NDArray[np.bool_]:
        """Nearest approach to the centre."""
        start, way = points - self.center, lamp - points
        nearest = np.clip(-_dot(start, way) / _dot(way, way), 0, 1)
        passed = start + nearest[:, None] * way
        return _dot(passed, passed) < (self.radius - _SKIN) ** 2


_OFFSETS = np.array([[-0.3, -0.2, 0], [0.3, -0.2, 0], [-0.3, 0.2, 0], [0.3, 0.2, 0]])


@dataclass(frozen=True, eq=False)
class Lamp:
    """A rectangular lamp around ``position`` (3,); ``ambient`` light is everywhere."""

    position: Array
    ambient: float = 0.5
    strength: float = 0.9
    reach: float = 3.0

    def shade(self, surface: Surface, solids: Sequence[Solid], height: int, width: int, per_metre: float) -> Array32:
        """(H, W) light on a texture, from ``per_metre`` light samples per metre with shadows of ``solids``."""
        wide, high = surface.extent
        rows, columns = max(int(high * per_metre), 2), max(int(wide * per_metre), 2)
        down, across = (np.arange(rows) + 0.5) * high / rows, (np.arange(columns) + 0.5) * wide / columns
        v, u = np.meshgrid(down, across, indexing="ij")
        points, normals = surface.points(u.ravel(), v.ravel())
        corners = np.array([(column.min(), column.max()) for column in points.T])
        bounds = np.array([solid.bounds for solid in solids]).reshape(-1, 2, 3)
        light = np.zeros(len(points))
        for lamp in self.position + _OFFSETS:
            # A solid outside the box around the points and the lamp casts no shadow on them.
            lowest, highest = np.minimum(corners[:, 0], lamp), np.maximum(corners[:, 1], lamp)
            between = ((bounds[:, 1] >= lowest) & (bounds[:, 0] <= highest)).all(axis=1)
            near = [solid for solid, is_between in zip(solids, between, strict=True) if is_between]
            light += self._from(lamp, points, normals, near) / len(_OFFSETS)
        grid = (self.ambient + self.strength * light).reshape(rows, columns).astype(np.float32)
        import cv2  # imported here, since worlds for training do without it

        return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)

    def _from(self, lamp: Array, points: Array, normals: Array, solids: Sequence[Solid]) -> Array:
        way = lamp - points
        distance = np.maximum(np.sqrt(_dot(way, way)), 1e-6)
        light = np.maximum(_dot(way, normals) / distance, 0) / (1 + (distance / self.reach) ** 2)
        lit = np.flatnonzero(light > 0)
        for solid in solids if len(lit) else ():
            blocked = solid.blocks(points[lit], lamp)
            light[lit[blocked]] = 0
            lit = lit[~blocked]
        return light


def _dot(a: Array, b: Array) -> Array:
    """(N,) products of rows (N, 2 or 3); NumPy's own sum is slow along so short an axis."""
    products = a * b
    return np.asarray(sum(products.T[1:], products[:, 0]))
