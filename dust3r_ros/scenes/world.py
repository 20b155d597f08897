"""A world of textured surfaces and its exact images and depth by ray casting."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.scenes.solids import Globe, Lamp, Pillar, Solid
from dust3r_ros.scenes.surfaces import RayGrid, Surface
from dust3r_ros.scenes.textures import Pattern, Texture, decorated, fabric, plaster, texture
from dust3r_ros.types import Array, Array32, Image

_NOTHING = -1
_LEVELS = 16  # of a texture, at most: the longest side has 2^16 texels


@dataclass(frozen=True, eq=False)
class RenderedView:
    """``image`` (H, W, 3) uint8 RGB and ``depth`` (H, W) float32: z in metres at the pixel centres, 0 = none."""

    image: Image
    depth: Array32


@dataclass(frozen=True, eq=False)
class World:
    """Surfaces and their textures (same order), light painted in. World frame: metres, z up."""

    surfaces: tuple[Surface, ...]
    textures: tuple[Texture, ...]

    def render(self, w_T_c: Array, width: int, height: int, focal: float, supersample: int = 2) -> RenderedView:
        """The view of a pinhole camera at ``w_T_c`` (4, 4, optical frame); ``focal`` and sizes in pixels.

        Every pixel is the mean of ``supersample``^2 rays, each averaging the texture over its own footprint; depth is
        taken along the ray through the pixel's centre.
        """
        if min(width, height, supersample) < 1 or not focal > 0:
            raise InputError(
                f"cannot render {width}x{height} pixels with focal {focal} and supersampling {supersample}; "
                "all must be positive"
            )
        fine = self._cast(_ray_grid(w_T_c, width, height, focal, supersample))
        colors = self._paint(fine, focal * supersample)
        parts = colors.reshape(height, supersample, width, supersample, 3)
        image = parts[:, 0, :, 0].copy()
        for row, column in list(np.ndindex(supersample, supersample))[1:]:  # many times faster than a mean over axes
            image += parts[:, row, :, column]
        image /= supersample**2
        center = fine if supersample == 1 else self._cast(_ray_grid(w_T_c, width, height, focal, 1))
        depth = np.where(center.surface == _NOTHING, 0, center.depth)
        return RenderedView((np.clip(image, 0, 255) + 0.5).astype(np.uint8), depth.astype(np.float32))

    def shifted(self, offset: Array) -> World:
        """The same surfaces and paint, ``offset`` (3,) metres away."""
        return replace(self, surfaces=tuple(_shifted(surface, offset) for surface in self.surfaces))

    @cached_property
    def corners(self) -> Array:
        """(M, 8, 3) corners of the surfaces, repeated where there are four."""
        return np.stack([np.resize(surface.corners, (8, 3)) for surface in self.surfaces])

    def _cast(self, rays: RayGrid) -> _Visible:
        shape = (len(rays.y), len(rays.x))
        seen = _Visible(
            np.full(shape, _NOTHING, np.int16), np.full(shape, np.inf, np.float32), *np.zeros((3, *shape), np.float32)
        )
        for index, window in rays.windows(self.corners):
            hit = self.surfaces[index].cast(rays.part(*window))
            if hit is None:
                continue
            nearer = hit.depth < seen.depth[window]
            if nearer.any():
                seen.surface[window][nearer] = index
                for name in ("depth", "u", "v", "facing"):
                    np.copyto(getattr(seen, name)[window], getattr(hit, name), where=nearer)
        return seen

    def _paint(self, seen: _Visible, focal: float) -> Array32:
        # A pixel's cone of solid angle 1 / (focal^2 |ray|^3) covers the area z^2 / (focal^2 |n . ray|).
        footprint = (seen.depth / (focal * np.sqrt(np.maximum(seen.facing, 1e-3)))).ravel()
        order = np.argsort(seen.surface, axis=None, kind="stable")
        surface, footprint = seen.surface.ravel()[order], footprint[order]
        level = np.zeros(len(order), np.float32)
        for part in _runs(surface):
            if surface[part.start] != _NOTHING:
                level[part] = self.textures[surface[part.start]].level(footprint[part])
        # What a texture blends of the same two levels is done at once.
        finer = level.astype(np.int16)
        within = np.argsort(surface.astype(np.int32) * _LEVELS + finer, kind="stable")
        order, surface, level, finer = order[within], surface[within], level[within], finer[within]
        u, v = seen.u.ravel()[order], seen.v.ravel()[order]
        painted = np.zeros((len(order), 3), np.float32)
        for part in _runs(surface, finer):
            index = surface[part.start]
            if index != _NOTHING:
                painted[part] = self.textures[index].blend(int(finer[part.start]), level[part], u[part], v[part])
        colors = np.empty_like(painted)
        colors[order] = painted
        return colors


def _shifted(surface: Surface, offset: Array) -> Surface:
    """A surface stores its place under one of three names."""
    name = next(name for name in ("corner", "base", "center") if hasattr(surface, name))
    return replace(surface, **{name: getattr(surface, name) + offset})  # type: ignore[type-var]


def together(*worlds: World) -> World:
    """One world with the surfaces of all."""
    return World(
        tuple(surface for world in worlds for surface in world.surfaces),
        tuple(texture for world in worlds for texture in world.textures),
    )


def _runs(*keys: NDArray[np.int16]) -> Iterator[slice]:
    """Where neighbours have the same keys (N,)."""
    ends = np.flatnonzero(np.any([np.diff(key) != 0 for key in keys], axis=0)) + 1
    for start, end in pairwise([0, *ends.tolist(), len(keys[0])]):
        yield slice(start, end)


@dataclass(frozen=True, eq=False)
class _Visible:
    surface: NDArray[np.int16]
    depth: Array32
    u: Array32
    v: Array32
    facing: Array32


def _ray_grid(w_T_c: Array, width: int, height: int, focal: float, supersample: int) -> RayGrid:
    cx, cy = center_of(height, width)
    within = (np.arange(supersample) + 0.5) / supersample - 0.5
    u = (np.arange(width)[:, None] + within).ravel()
    v = (np.arange(height)[:, None] + within).ravel()
    return RayGrid(
        w_T_c[:3, 3], w_T_c[:3, :3], ((u - cx) / focal).astype(np.float32), ((v - cy) / focal).astype(np.float32)
    )


def build(
    shell: Sequence[tuple[Surface, Pattern]], solids: Sequence[Solid], lamp: Lamp, seed: int, per_metre: float = 256.0
) -> World:
    """Paint and light everything; ``per_metre`` texels on the shell, 1.5 times as many on furniture.

    Each surface has its own random numbers (from ``seed`` and its place), so that adding furniture changes no other
    paint.
    """
    painted = [(surface, pattern, per_metre, 12.0) for surface, pattern in shell]
    painted += [(surface, pattern, 1.5 * per_metre, 40.0) for solid in solids for surface, pattern in solid.surfaces()]
    textures = []
    for surface, pattern, density, light_density in painted:
        rng = np.random.default_rng([seed, zlib.crc32(surface.corners.round(3).tobytes()), int(density)])
        wide, high = surface.extent
        height, width = max(round(high * density), 2), max(round(wide * density), 2)
        light = lamp.shade(surface, solids, height, width, light_density)
        picture = pattern(rng, height, width, density) * light[..., None]
        np.clip(picture, 0, 1, out=picture)
        picture *= 255
        picture += 0.5
        textures.append(texture(picture.astype(np.uint8), wide, high))
    return World(tuple(surface for surface, *_ in painted), tuple(textures))


def person(height: float = 1.7, radius: float = 0.24, seed: int = 5) -> World:
    """A body and a head that stand at (0, 0, 0), as a world of their own; metres."""
    head = 0.14
    solids: list[Solid] = [
        Pillar(np.zeros(3), radius, height - 2 * head, decorated(fabric), fabric),
        Globe(np.array([0.0, 0.0, height - head]), head, plaster),
    ]
    return build([], solids, Lamp(np.array([0.4, -0.3, 2.55]), ambient=0.7), seed)
