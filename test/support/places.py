"""Recordings of places: walks through rendered rooms, mapped without depth; rooms with the same table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from kept import kept
from sequences import SMALL

from dust3r_ros.config import as_mapping
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes import sequence as scenes
from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.scenes.world import World
from dust3r_ros.storage.saved_map import save_map

CONFIG = replace(SMALL, dense=False)
FRAMES = 20


def on_the_table(center: np.ndarray) -> bool:
    """Whether a surface around ``center`` (3,) belongs to the table in the middle, or what is on it."""
    return bool(abs(center[0]) < 0.9 and abs(center[1]) < 0.8 and 0.02 < center[2] < 1.3)


def twin(seed: int, other: int, shared: Callable[[np.ndarray], bool] = on_the_table) -> World:
    """The room ``other`` with the surfaces of room ``seed`` that both are to share."""
    parts = [
        pair
        for world, own in ((room(other), False), (room(seed), True))
        for pair in zip(world.surfaces, world.textures, strict=True)
        if shared(pair[0].corners.mean(axis=0)) is own
    ]
    return World(tuple(surface for surface, _ in parts), tuple(texture for _, texture in parts))


@kept
def around(
    place: int, hand: int, start: int = 0, table_of: int | None = None, frames: int = FRAMES
) -> RenderedSequence:
    """A walk around the table of room ``place``, beginning with frame ``start``; ``hand`` varies its unsteadiness."""
    poses = scenes.walk("orbit", start + frames, rate_hz=8.0, seed=hand)[start:]
    world = room(place) if table_of is None else twin(table_of, place)
    return scenes.render_path("orbit", world, poses, width=240, height=176, rate_hz=8.0)


def write_map(sequence: RenderedSequence, path: Path, camera: str = "camera", **settings: object) -> Path:
    """Map a walk and save the map, with more ``settings``."""
    mapper = Mapper(CONFIG)
    for stamp_ns, image in zip(sequence.stamps_ns, sequence.images, strict=True):
        mapper.process(int(stamp_ns), camera, image)
    mapper.finish()
    save_map(path, mapper, {**as_mapping(CONFIG), **settings})
    return path
