"""Worlds to map: a furnished room and a long corridor."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from dust3r_ros.scenes.solids import Box, Globe, Lamp, Pillar, Solid, box_panels
from dust3r_ros.scenes.surfaces import Surface
from dust3r_ros.scenes.textures import Pattern, books, brick, ceiling, decorated, fabric, planks, plaster, poster, tiles
from dust3r_ros.scenes.world import World, build
from dust3r_ros.types import Array

ROOM_SIZE = (6.4, 5.4, 2.7)  # metres
CORRIDOR_SIZE = (24.0, 2.6, 2.6)
_FURNITURE_DEPTH = 0.45  # metres; furniture keeps to this strip along the walls and to the table


@lru_cache(maxsize=4)
def room(seed: int = 0) -> World:
    """A room of 6.4 x 5.4 x 2.7 m around (0, 0), floor at z = 0: table in the middle, furniture along the walls."""
    rng = np.random.default_rng([seed, 1])
    solids = _table(rng) + _along_walls(rng, ROOM_SIZE[0], ROOM_SIZE[1])
    return build(_shell(rng, ROOM_SIZE), solids, Lamp(np.array([0.4, -0.3, 2.55])), seed)


@lru_cache(maxsize=2)
def corridor(seed: int = 0) -> World:
    """A corridor of 24 x 2.6 x 2.6 m along x around (0, 0), boxes and cupboards along both long walls."""
    rng = np.random.default_rng([seed, 2])
    length, width, _ = CORRIDOR_SIZE
    lamp = Lamp(np.array([0.0, 0.0, 2.5]), ambient=0.65, reach=8.0)
    return build(_shell(rng, CORRIDOR_SIZE), _along_walls(rng, length, width, ends=False), lamp, seed, per_metre=150.0)


def _shell(rng: np.random.Generator, size: tuple[float, float, float]) -> list[tuple[Surface, Pattern]]:
    x, y, z = size[0] / 2, size[1] / 2, size[2]
    panels = box_panels(np.array([-x, -y, 0]), np.array([x, y, z]), inside=True)
    walls = [decorated(brick), decorated(plaster, 0.5), decorated(brick, 0.25), decorated(plaster, 0.6)]
    order = rng.permutation(4)
    paint = {name: walls[i] for name, i in zip(("+x", "-x", "+y", "-y"), order, strict=True)}
    paint["+z"] = ceiling
    paint["-z"] = [planks, tiles][rng.integers(2)]
    return [(panel, paint[name]) for name, panel in panels.items()]


def _table(rng: np.random.Generator) -> list[Solid]:
    wide, deep, high = 0.55, 0.38, rng.uniform(0.68, 0.76)
    solids: list[Solid] = [Box(np.array([-wide, -deep, high - 0.05]), np.array([wide, deep, high]), planks, planks)]
    for x in (-wide + 0.06, wide - 0.06):
        for y in (-deep + 0.06, deep - 0.06):
            solids.append(Pillar(np.array([x, y, 0]), 0.035, high - 0.05, planks, planks))
    solids += _things(rng, np.array([-wide, -deep, high]), np.array([wide, deep, high]), 6)
    solids.append(Box(np.array([-0.3, -0.2, 0.0]), np.array([0.1, 0.15, 0.35]), poster, fabric, rng.uniform(0, 1)))
    return solids


def _up(height: float) -> Array:
    return np.array([0.0, 0.0, height])


def _things(rng: np.random.Generator, low: Array, high: Array, count: int) -> list[Solid]:
    """Small boxes, cans and balls side by side on the rectangle low to high at z = low[2]."""
    solids: list[Solid] = []
    cells = np.linspace(low[0], high[0], count + 1)
    for left, right in pairwise(cells):
        across = low[1] + rng.uniform(0.25, 0.75) * (high[1] - low[1])
        center = np.array([(left + right) / 2, across, low[2]])
        size = rng.uniform(0.28, 0.42) * (right - left)
        kind = rng.integers(3)
        if kind == 0:
            half = np.array([size, size * rng.uniform(0.7, 1.0), 0])
            tall = _up(rng.uniform(0.1, 0.32))
            solids.append(Box(center - half, center + half + tall, poster, fabric, rng.uniform(-0.4, 0.4)))
        elif kind == 1:
            solids.append(Pillar(center, size, rng.uniform(0.12, 0.3), poster, planks))
        else:
            solids.append(Globe(center + _up(size), size, [fabric, tiles, plaster][rng.integers(3)]))
    return solids


def _along_walls(rng: np.random.Generator, length: float, width: float, ends: bool = True) -> list[Solid]:
    """Furniture in a strip along the walls of a room; without ``ends`` only along the long ones."""
    solids: list[Solid] = []
    for side in (1, -1):
        solids += _row(rng, length, width / 2, side, along=0)
        if ends:
            solids += _row(rng, width - 2 * _FURNITURE_DEPTH, length / 2, side, along=1)
    return solids


def _row(rng: np.random.Generator, length: float, wall: float, side: int, along: int) -> list[Solid]:
    solids: list[Solid] = []
    at = -length / 2 + rng.uniform(0.05, 0.4)
    while True:
        wide, deep = rng.uniform(0.4, 1.1), rng.uniform(0.25, _FURNITURE_DEPTH)
        if at + wide > length / 2:
            return solids
        low, high = np.zeros(3), np.zeros(3)
        low[along], high[along] = at, at + wide
        low[1 - along], high[1 - along] = sorted((side * wall, side * (wall - deep)))
        solids += _piece(rng, low, high)
        at += wide + rng.uniform(0.1, 0.9)


def _piece(rng: np.random.Generator, low: Array, high: Array) -> list[Solid]:
    """A bookcase, a cupboard with things on it, a crate, or a pillar, on the floor rectangle low to high."""
    kind = rng.integers(4)
    if kind == 0:
        return [Box(low, high + _up(rng.uniform(1.2, 2.0)), books, planks)]
    if kind == 1:
        top = rng.uniform(0.6, 1.0)
        inset = 0.1 * (high - low)
        return [
            Box(low, high + _up(top), planks, planks),
            *_things(rng, low + inset + _up(top), high - inset + _up(top), 3),
        ]
    if kind == 2:
        return [Box(low, high + _up(rng.uniform(0.3, 0.7)), poster, fabric)]
    radius = min((high - low)[:2]) / 2
    return [Pillar((low + high) / 2, radius, rng.uniform(0.5, 1.6), [fabric, poster][rng.integers(2)], planks)]
