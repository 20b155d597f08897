"""Cameras in a world and their pictures: groups around one place each, and how much they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.scenes.endless.casting import Eye, Seen
from dust3r_ros.scenes.endless.worlds import Scenery, World, make_world
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.scenes.world import RenderedView
from dust3r_ros.types import Array, Array32

_HIDDEN = 0.02  # a point behind the visible surface by this share of its depth is hidden


@dataclass(frozen=True, eq=False)
class DepthView:
    """``depth`` (H, W), 0 or infinite where none; ``K`` (3, 3); ``w_T_c`` (4, 4)."""

    depth: Array32
    K: Array
    w_T_c: Array

    def points(self, step: int) -> Array:
        """(P, 3) world points of every ``step``-th pixel that has depth, in the middle of its block."""
        v, u = (np.arange(step // 2, size, step) for size in self.depth.shape)
        z = self.depth[np.ix_(v, u)].astype(np.float64)
        rays = np.stack(
            np.broadcast_arrays((u - self.K[0, 2]) / self.K[0, 0], (v[:, None] - self.K[1, 2]) / self.K[1, 1], 1.0), -1
        )
        known = np.isfinite(z) & (z > 0)
        return transform(self.w_T_c, rays[known] * z[known][:, None])

    def sees(self, points: Array) -> np.ndarray:
        """(...,) whether world points (..., 3) are in the image and not behind the visible surface.

        Neighbouring depths count too, since the depth of a slanted surface changes within a pixel.
        """
        local = transform(invert(self.w_T_c), points)
        z = np.where(local[..., 2] > 0, local[..., 2], np.nan)
        height, width = self.depth.shape
        with np.errstate(invalid="ignore"):
            u = self.K[0, 0] * local[..., 0] / z + self.K[0, 2]
            v = self.K[1, 1] * local[..., 1] / z + self.K[1, 2]
            inside = (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
        column = np.clip(np.floor(np.where(inside, u, 0)), 0, max(width - 2, 0)).astype(np.int64)
        row = np.clip(np.floor(np.where(inside, v, 0)), 0, max(height - 2, 0)).astype(np.int64)
        flat, base = self.depth.ravel(), row * width + column
        down, right = width * (height > 1), int(width > 1)
        there = np.maximum(
            np.maximum(flat[base], flat[base + right]), np.maximum(flat[base + down], flat[base + down + right])
        )
        return inside & (z < (1 + _HIDDEN) * there)


def overlaps(views: Sequence[DepthView], step: int) -> Array:
    """(N, N): [i, j] is the share of view i's pixels with depth that j sees, by every ``step``-th; 0 without any."""
    clouds = [view.points(step) for view in views]
    counts = [len(cloud) for cloud in clouds]
    points, starts = np.concatenate(clouds), np.concatenate([[0], np.cumsum(counts)])
    found = np.zeros((len(views), len(views)))
    for j, view in enumerate(views):
        seen = np.concatenate([[0], np.cumsum(view.sees(points))])
        found[:, j] = (seen[starts[1:]] - seen[starts[:-1]]) / np.maximum(counts, 1)
    return found


FIELD_OF_VIEW = (40.0, 110.0)  # degrees along the longer side
SHAPES = ((4, 3), (4, 3), (3, 2), (16, 9), (1, 1), (3, 4))  # of images, width to height
CLEAR = 0.12  # metres between a camera and anything, times its world's reach
_GROUP = 8  # cameras that look at one thing
_TRIES = 12


def choose_eyes(world: World, rng: np.random.Generator, count: int, short_side: int) -> list[tuple[Eye, Seen]]:
    """``count`` cameras, each with its depth and shapes; ``short_side``: the shorter side of every image, pixels."""
    eyes: list[tuple[Eye, Seen]] = []
    wide, high = SHAPES[int(rng.integers(len(SHAPES)))]
    unit = short_side / min(wide, high)
    size = round(unit * wide), round(unit * high)
    while len(eyes) < count:
        eyes.extend(_group(world, rng, min(_GROUP, count - len(eyes)), size))
    return eyes


def _group(world: World, rng: np.random.Generator, count: int, size: tuple[int, int]) -> list[tuple[Eye, Seen]]:
    """Cameras around a first one; a group that finds too few good places stays smaller."""
    first, aim, best = _first(world, rng, size)
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
        if worth_of(world, seen) > 0.3 * min(best, 1):
            found.append((eye, seen))
    return found


def _first(
    world: World, rng: np.random.Generator, size: tuple[int, int]
) -> tuple[tuple[Eye, Seen], tuple[Array, Array], float]:
    """The best of a few random cameras, with its place, its target and its worth."""
    best: tuple[tuple[Eye, Seen], tuple[Array, Array], float] | None = None
    for _ in range(_TRIES):
        aim = free_place(world, rng)
        eye = Eye(_intrinsics(rng, size), _aimed(rng, *aim), *size)
        seen = world.scenery.cast(eye)
        worth = worth_of(world, seen)
        if best is None or worth > best[2]:
            best = (eye, seen), aim, worth
        if best[2] > 0.5:
            break
    assert best is not None
    return best


def free_place(world: World, rng: np.random.Generator) -> tuple[Array, Array]:
    """A free place, and a target to look at from it."""
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
    """A small step, a step around the target, one towards it or away, or a turn on the spot."""
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
    if np.hypot(way[0], way[1]) < 1e-3 * abs(way[2]) + 1e-9:  # looking straight up or down leaves the sides undefined
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


def worth_of(world: World, seen: Seen) -> float:
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


_CAMERAS = 2  # purposes of random numbers
_FEW = 0.3  # share of painted views after which all are painted, so that the textures, the largest part, can go
_SAMPLES = 20  # samples along the shorter side for the overlap


def paint(scenery: Scenery, taken: Sequence[tuple[Eye, Seen]]) -> list[RenderedView]:
    """Views of cameras whose pixels are cast already."""
    return [
        RenderedView(scenery.image(eye, seen), np.where(np.isfinite(seen.depth), seen.depth, np.float32(0)))
        for eye, seen in taken
    ]


class Album:
    """``count`` views of world ``number`` of ``seed``, painted when first asked for.

    ``shared`` (N, N): [i, j] is the share of view i's pixels with depth that view j sees.
    """

    def __init__(self, seed: tuple[int, ...], number: int, count: int, short_side: int) -> None:
        world = make_world(seed, number)
        self.layout = world.layout
        self._scenery: Scenery | None = world.scenery
        self._eyes: list[tuple[Eye, Seen | None]] = []
        self._views: list[RenderedView | None] = [None] * count
        chosen = choose_eyes(world, np.random.default_rng([*seed, _CAMERAS, number]), count, short_side)
        self._eyes.extend(chosen)
        step = max(short_side // _SAMPLES, 1)
        self.shared: Array = overlaps([DepthView(seen.depth, eye.K, eye.w_T_c) for eye, seen in chosen], step)

    def __len__(self) -> int:
        return len(self._eyes)

    def camera(self, index: int) -> tuple[Array, Array]:
        """``K`` (3, 3) and ``w_T_c`` (4, 4) of a view."""
        eye = self._eyes[index][0]
        return eye.K.copy(), eye.w_T_c.copy()

    def view(self, index: int) -> RenderedView:
        """Image and depth; shared with later calls, so do not write to them."""
        if (view := self._views[index]) is None:
            left = [number for number, done in enumerate(self._views) if done is None]
            all_left = len(left) - 1 <= _FEW * len(self)
            self._paint(left if all_left else [index])
            if all_left:
                self._scenery = None
            view = self._views[index]
            assert view is not None
        return view

    def _paint(self, numbers: Sequence[int]) -> None:
        assert self._scenery is not None
        taken = [(eye, seen) for eye, seen in (self._eyes[number] for number in numbers) if seen is not None]
        for number, view in zip(numbers, paint(self._scenery, taken), strict=True):
            for array in (view.image, view.depth):
                array.setflags(write=False)
            self._views[number] = view
            self._eyes[number] = self._eyes[number][0], None
