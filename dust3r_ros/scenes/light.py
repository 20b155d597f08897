"""Light that is painted into the textures: Lambert's law, one area lamp, soft shadows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.scenes.solids import Solid
from dust3r_ros.scenes.surfaces import Surface
from dust3r_ros.types import Array, Array32

_OFFSETS = np.array([[-0.3, -0.2, 0], [0.3, -0.2, 0], [-0.3, 0.2, 0], [0.3, 0.2, 0]])


@dataclass(frozen=True, eq=False)
class Lamp:
    """A rectangular lamp around ``position`` (3,); ``ambient`` light is there everywhere."""

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
        light = np.zeros(len(points))
        for offset in _OFFSETS:
            light += self._from(self.position + offset, points, normals, solids) / len(_OFFSETS)
        grid = (self.ambient + self.strength * light).reshape(rows, columns).astype(np.float32)
        import cv2  # here, since rendered worlds to train on do without it

        return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)

    def _from(self, lamp: Array, points: Array, normals: Array, solids: Sequence[Solid]) -> Array:
        way = lamp - points
        distance = np.maximum(np.linalg.norm(way, axis=1), 1e-6)
        light = np.maximum((way * normals).sum(1) / distance, 0) / (1 + (distance / self.reach) ** 2)
        lit = np.flatnonzero(light > 0)
        for solid in solids:
            if len(lit) == 0 or _apart(solid, points[lit], lamp):
                continue
            blocked = solid.blocks(points[lit], lamp)
            light[lit[blocked]] = 0
            lit = lit[~blocked]
        return light


def _apart(solid: Solid, points: Array, lamp: Array) -> bool:
    """Whether the box around the solid lies beside the box around the points and the lamp."""
    low, high = np.minimum(points.min(axis=0), lamp), np.maximum(points.max(axis=0), lamp)
    return bool((solid.bounds[1] < low).any() or (solid.bounds[0] > high).any())
