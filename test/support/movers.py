"""Rendered walks with a thing that moves: a person-sized solid that is somewhere else in each frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import FOCAL_PER_WIDTH, RenderedSequence, stamps, walk
from dust3r_ros.scenes.solids import Globe, Lamp, Pillar, Solid
from dust3r_ros.scenes.surfaces import Ball, Panel, Surface, Tube
from dust3r_ros.scenes.textures import decorated, fabric, plaster
from dust3r_ros.scenes.world import World, build
from dust3r_ros.types import Array


@dataclass(frozen=True, eq=False)
class MovingSequence:
    """A walk, and which pixels (N, H, W) show the thing that moves."""

    sequence: RenderedSequence
    moving: np.ndarray


def person(height: float = 1.7, radius: float = 0.24, seed: int = 5) -> World:
    """A body and a head that stand at (0, 0, 0), as a world of their own."""
    head = 0.14
    solids: list[Solid] = [
        Pillar(np.zeros(3), radius, height - 2 * head, decorated(fabric), fabric),
        Globe(np.array([0.0, 0.0, height - head]), head, plaster),
    ]
    return build([], solids, Lamp(np.array([0.4, -0.3, 2.55]), ambient=0.7), seed)


def shifted(world: World, offset: Array) -> World:
    """The same surfaces and paint somewhere else."""
    return replace(world, surfaces=tuple(_shifted(surface, offset) for surface in world.surfaces))


def together(*worlds: World) -> World:
    """All surfaces of all."""
    return World(
        tuple(surface for world in worlds for surface in world.surfaces),
        tuple(texture for world in worlds for texture in world.textures),
    )


def walk_among(
    places: Sequence[Array | None],
    w_T_c: Array,
    *,
    world: World | None = None,
    mover: World | None = None,
    width: int = 240,
    height: int = 176,
    rate_hz: float = 8.0,
    supersample: int = 2,
) -> MovingSequence:
    """What a camera at ``w_T_c`` (N, 4, 4) sees while ``mover`` (a person) stands at ``places`` (N) (None: nowhere)."""
    world, mover = world or room(), mover or person()
    focal = FOCAL_PER_WIDTH * width
    images, depths, moving = [], [], []
    for pose, place in zip(w_T_c, places, strict=True):
        plain = world.render(pose, width, height, focal, 1 if place is not None else supersample)
        full = (
            plain
            if place is None
            else together(world, shifted(mover, place)).render(pose, width, height, focal, supersample)
        )
        images.append(full.image)
        depths.append(full.depth)
        moving.append(full.depth < plain.depth - 1e-4)
    sequence = RenderedSequence(
        "moving", stamps(len(w_T_c), rate_hz), np.stack(images), np.stack(depths), w_T_c, width, height, focal
    )
    return MovingSequence(sequence, np.stack(moving))


def along(path: Callable[[float], Array], frames: int) -> list[Array]:
    """Places of a path from 0 to 1."""
    return [path(k / max(1, frames - 1)) for k in range(frames)]


def before(w_T_c: Array, distance: float, sideways: float = 0.0) -> Array:
    """The place on the floor so many metres before a camera and to its right."""
    at = w_T_c[:3, 3] + w_T_c[:3, :3] @ [sideways, 0.0, distance]
    return np.array([at[0], at[1], 0.0])


def _shifted(surface: Surface, offset: Array) -> Surface:
    if isinstance(surface, Panel):
        return replace(surface, corner=surface.corner + offset)
    if isinstance(surface, Tube):
        return replace(surface, base=surface.base + offset)
    assert isinstance(surface, Ball)
    return replace(surface, center=surface.center + offset)


__all__ = ["MovingSequence", "along", "before", "person", "shifted", "together", "walk", "walk_among"]
