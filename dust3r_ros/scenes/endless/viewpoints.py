"""Cameras in a world: groups around one place each, as somebody who looks at something takes pictures of it."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes.endless.casting import Seen
from dust3r_ros.scenes.endless.eye import Eye
from dust3r_ros.scenes.endless.worlds import World
from dust3r_ros.scenes.trajectory import look_at
from dust3r_ros.types import Array

FIELD_OF_VIEW = (40.0, 110.0)  # degrees along the longer side
SHAPES = ((4, 3), (4, 3), (3, 2), (16, 9), (1, 1), (3, 4))  # of images, width to height
CLEAR = 0.12  # metres between a camera and anything, times its world's reach
_GROUP = 8  # cameras that look at one thing
_TRIES = 12


def choose_eyes(world: World, rng: np.random.Generator, count: int, short_side: int) -> list[tuple[Eye, Seen]]:
    """``count`` cameras with what they see; ``short_side`` pixels is the smaller side of every image."""
    eyes: list[tuple[Eye, Seen]] = []
    wide, high = SHAPES[int(rng.integers(len(SHAPES)))]
    unit = short_side / min(wide, high)
    size = round(unit * wide), round(unit * high)
    while len(eyes) < count:
        eyes.extend(_group(world, rng, min(_GROUP, count - len(eyes)), size))
    return eyes


def _group(world: World, rng: np.random.Generator, count: int, size: tuple[int, int]) -> list[tuple[Eye, Seen]]:
    """Cameras around one; a group that finds no good place shrinks to what it has."""
    first = best = None
    for _ in range(_TRIES):
        position, target = _place(world, rng)
        eye = Eye(_intrinsics(rng, size), _aimed(rng, position, target), *size)
        seen = world.scenery.cast(eye)
        if best is None or _worth(world, seen) > best:
            best, first, aim = _worth(world, seen), (eye, seen), (position, target)
        if best > 0.5:
            break
    assert first is not None
    found, own = [first], rng.random() < 0.3  # whether every camera has its own lens
    for _ in range(2 * count):
        if len(found) == count:
            break
        position, target = _moved(rng, *aim)
        if world.scenery.shapes.holds(position[None], CLEAR * world.stage.reach[0])[0]:
            continue
        K = _intrinsics(rng, size) if own else first[0].K
        eye = Eye(K, _aimed(rng, position, target), *size)
        seen = world.scenery.cast(eye)
        if _worth(world, seen) > 0.3 * min(best or 0, 1):
            found.append((eye, seen))
    return found


def _place(world: World, rng: np.random.Generator) -> tuple[Array, Array]:
    """Somewhere free, and what to look at from there."""
    stage, shapes = world.stage, world.scenery.shapes
    spots = rng.uniform(stage.room[0], stage.room[1], (24, 3))
    free = spots[~shapes.holds(spots, 2 * CLEAR * stage.reach[0])]
    position = free[0] if len(free) else spots[0]
    middles = shapes.center[shapes.solid & (shapes.radius < 60)] if stage.focus is None else stage.focus
    far = np.linalg.norm(middles - position, axis=1)
    near = middles[(far > stage.reach[0]) & (far < stage.reach[1])]
    if len(near) == 0 or rng.random() < 0.1:
        angle = rng.uniform(0, 2 * np.pi)
        target = position + stage.reach[1] * np.array([0.5 * np.cos(angle), 0.5 * np.sin(angle), rng.normal(-0.1, 0.1)])
    else:
        target = near[int(rng.integers(len(near)))]
    return position, target + rng.normal(0, 0.1, 3) * np.linalg.norm(target - position)


def _moved(rng: np.random.Generator, position: Array, target: Array) -> tuple[Array, Array]:
    """A small step, a step around what is looked at, one towards it or away, a turn on the spot."""
    way = target - position
    far, kind = float(np.linalg.norm(way)), rng.random()
    if kind < 0.3:
        step = far * np.exp(rng.uniform(np.log(0.02), np.log(0.25)))
        return position + step * _direction(rng), target + 0.7 * step * _direction(rng)
    if kind < 0.7:
        angle = np.radians(rng.uniform(8, 80)) * rng.choice([-1, 1])
        c, s = np.cos(angle), np.sin(angle)
        turned = np.array([c * way[0] - s * way[1], s * way[0] + c * way[1], way[2] * rng.uniform(0.6, 1.4)])
        return target - turned * rng.uniform(0.75, 1.25), target + 0.1 * far * _direction(rng)
    if kind < 0.85:
        return position + rng.uniform(-0.6, 0.6) * way, target + 0.1 * far * _direction(rng)
    yaw, pitch = rng.normal(0, np.radians(25)), rng.normal(0, np.radians(10))
    c, s = np.cos(yaw), np.sin(yaw)
    turned = np.array([c * way[0] - s * way[1], s * way[0] + c * way[1], way[2] + far * np.tan(pitch)])
    return position + 0.01 * far * _direction(rng), position + turned


def _direction(rng: np.random.Generator) -> Array:
    way = rng.standard_normal(3)
    return np.asarray(way / np.linalg.norm(way))


def _aimed(rng: np.random.Generator, position: Array, target: Array) -> Array:
    """The pose, held a little askew; now and then on its side."""
    way = target - position
    if np.hypot(way[0], way[1]) < 1e-3 * abs(way[2]) + 1e-9:  # straight up or down leaves the sides open
        target = target + np.array([1e-2 * abs(way[2]) + 1e-6, 0, 0])
    roll = rng.normal(0, np.radians(4)) if rng.random() < 0.85 else rng.uniform(-np.pi / 2, np.pi / 2)
    return look_at(position, target, roll)


def _intrinsics(rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """A focal of 40 to 110 degrees along the longer side; in three of ten cameras the image is a crop that puts the
    principal point aside."""
    width, height = size
    focal = max(size) / 2 / np.tan(np.radians(rng.uniform(*FIELD_OF_VIEW)) / 2)
    offset = rng.uniform(-0.12, 0.12, 2) * size if rng.random() < 0.3 else np.zeros(2)
    return np.array([[focal, 0, (width - 1) / 2 + offset[0]], [0, focal, (height - 1) / 2 + offset[1]], [0, 0, 1.0]])


def _worth(world: World, seen: Seen) -> float:
    """How good a view is, 0 to about 1: things at a distance, several of them, not all of it sky."""
    known = np.isfinite(seen.depth)
    share = float(known.mean())
    if share < 0.15:
        return 0.0
    least = 0.35 * world.stage.reach[0]
    near = float((seen.depth[known] < least).mean())
    counts = np.unique(seen.shape[::4, ::4], return_counts=True)[1]
    many = int((counts > 0.002 * counts.sum()).sum())
    return (1 - min(2 * near, 1)) * min(share / 0.4, 1) * min(many / 5, 1)
