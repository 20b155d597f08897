"""Rendered walks with a thing that moves: a person-sized solid that is somewhere else in each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import FOCAL_PER_WIDTH, RenderedSequence, stamps
from dust3r_ros.scenes.world import World, person, together
from dust3r_ros.types import Array


@dataclass(frozen=True, eq=False)
class MovingSequence:
    """A walk, and which pixels (N, H, W) show the thing that moves."""

    sequence: RenderedSequence
    moving: np.ndarray


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
            else together(world, mover.shifted(place)).render(pose, width, height, focal, supersample)
        )
        images.append(full.image)
        depths.append(full.depth)
        moving.append(full.depth < plain.depth - 1e-4)
    sequence = RenderedSequence(
        "moving", stamps(len(w_T_c), rate_hz), np.stack(images), np.stack(depths), w_T_c, width, height, focal
    )
    return MovingSequence(sequence, np.stack(moving))


def before(w_T_c: Array, distance: float, sideways: float = 0.0) -> Array:
    """The place on the floor so many metres before a camera and to its right."""
    at = w_T_c[:3, 3] + w_T_c[:3, :3] @ [sideways, 0.0, distance]
    return np.array([at[0], at[1], 0.0])
