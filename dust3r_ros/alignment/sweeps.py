"""Alternating closed steps towards the published objective: depth of sampled pixels, images, pairs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.global_start import GlobalStart
from dust3r_ros.alignment.moments import scale_of
from dust3r_ros.alignment.pixel_block import PixelBlock
from dust3r_ros.alignment.placement import image_equations, move_images, place_pairs
from dust3r_ros.alignment.problem import Problem
from dust3r_ros.alignment.workspace import Workspace
from dust3r_ros.geometry.focal import FOCAL_LIMITS, reference_focal
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, Array32

_local = threading.local()

# Without cameras given, images of one size whose focals lie within this factor share one: pointmaps
# do not tell focals apart that are closer.
SAME_CAMERA = 0.04
# Least residual in a weight: this part of the mean residual, and of the mean scale of the pairs. The
# first costs the objective nothing that shows and keeps a few lucky pixels from outweighing the others.
FLOOR, _TINY = 0.05, 1e-7


@dataclass(eq=False)
class Scene:
    """The unknowns: ``w_T_c`` (N, 4, 4), ``focals`` (N,), ``w_S_pair`` (E, 4, 4); and what of them is held.

    ``ends`` (E, 2): first and second image of the pairs.
    ``camera`` (N,): images of the same number share the focal. ``on`` (E,): pairs that count.
    ``focal_limits`` (2, N): least and largest, pixels. ``floor``: least residual in a weight, world unit.
    """

    ends: NDArray[np.int64]
    w_T_c: Array
    focals: Array
    w_S_pair: Array
    camera: NDArray[np.int64]
    held_pose: NDArray[np.bool_]
    held_focal: NDArray[np.bool_]
    on: NDArray[np.bool_]
    focal_limits: Array
    floor: float = 0.0

    @classmethod
    def of(cls, problem: Problem, start: GlobalStart) -> Scene:
        """From the start, with what the problem gives held."""
        count = len(start.focals)
        poses, cameras = problem.poses, problem.cameras
        held = np.zeros(count, bool) if problem.focals is None else np.isfinite(problem.focals)
        camera = _alike(problem, start.focals) if cameras is None else np.unique(cameras, return_inverse=True)[1]
        logs = np.where(held, 0.0, np.log(start.focals))
        mean = np.bincount(camera, logs)[camera] / np.maximum(np.bincount(camera, ~held)[camera], 1)
        scene = cls(
            np.array([(pair.first, pair.second) for pair in problem.pairs]),
            start.w_T_c,
            np.where(held, start.focals, np.exp(mean)),
            start.w_S_pair,
            camera,
            np.zeros(count, bool) if poses is None else np.isfinite(poses[:, 0, 0]),
            held,
            ~start.switched_off,
            np.outer(FOCAL_LIMITS, [reference_focal(*shape) for shape in problem.shapes]),
        )
        scene.set_floor(float(np.median(start.residual)))
        return scene

    def set_floor(self, residual: float) -> None:
        """For a mean residual, world unit."""
        self.floor = max(FLOOR * residual, _TINY * float(scale_of(self.w_S_pair).mean()))


@dataclass(frozen=True, eq=False)
class Statistics:
    """All that one step for images and pairs takes from the pixels.

    ``costs`` (E,): sums of w |r|; ``equations`` (N, 7, 8) of ``image_equations``; ``sums`` (E, 2, 4, 4) and
    ``squares`` (E,): what places the pairs, by view, with points in the frames of the cameras; ``weight``: sum of w.
    """

    costs: Array
    equations: Array
    sums: Array
    squares: Array
    weight: float

    def plus(self, other: Statistics, factor: float = 1.0) -> Statistics:
        """This and ``factor`` times the other."""
        return Statistics(
            self.costs + factor * other.costs,
            self.equations + factor * other.equations,
            self.sums + factor * other.sums,
            self.squares + factor * other.squares,
            self.weight + factor * other.weight,
        )


def gather(
    scene: Scene,
    makers: Sequence[Callable[[], PixelBlock]],
    depths: dict[int, Array32],
    pool: Executor,
    iterations: int = 1,
) -> Statistics:
    """One pass over blocks; ``depths`` (by position of the block) take ``iterations`` steps before they count."""
    tasks = [(scene, make, depths.get(index), iterations) for index, make in enumerate(makers)]
    parts = [_pass(task) for task in tasks] if len(tasks) == 1 else list(pool.map(_pass, tasks))
    pairs, images = len(scene.w_S_pair), len(scene.w_T_c)
    found = Statistics(
        np.zeros(pairs),
        np.zeros((images, 7, 8)),
        np.zeros((pairs, 2, 4, 4)),
        np.zeros(pairs),
        sum(part.weight for part in parts),
    )
    for index, part in enumerate(parts):
        depths[index] = part.depth
        np.add.at(found.costs, part.edges, part.costs)
        found.equations[part.images] += part.equations
        np.add.at(found.sums, (part.edges, part.views), part.sums)
        np.add.at(found.squares, part.edges, part.squares)
    return found


class _Part(NamedTuple):
    """What a block gives."""

    images: NDArray[np.int64]
    edges: NDArray[np.int64]
    views: NDArray[np.int64]
    depth: Array32
    costs: Array
    equations: Array
    sums: Array
    squares: Array
    weight: float


def _pass(task: tuple[Scene, Callable[[], PixelBlock], Array32 | None, int]) -> _Part:
    scene, make, depth, iterations = task
    block = make()
    block.switch(scene.on)
    slopes = block.slopes(scene.focals)
    c_S_pair = invert(scene.w_T_c[block.images])[:, None] @ scene.w_S_pair[block.edges]
    space = _workspace()
    seen = space.weigh(block, c_S_pair, slopes, depth, scene.floor, iterations)
    sums, squares = space.sums(block, np.stack([*(slopes * seen.depth), seen.depth]))
    equations = image_equations(seen.total, seen.mean, slopes, seen.depth)
    weight = float(block.weights.sum())
    return _Part(block.images, block.edges, block.views, seen.depth, seen.cost, equations, sums, squares, weight)


def step(scene: Scene, found: Statistics) -> float:
    """All images, then all pairs, by closed forms; returns the value before: costs at mean log scale 0."""
    value = float(found.costs.sum() * np.exp(-np.log(scale_of(scene.w_S_pair)).mean()))
    w_T_old, f_old = scene.w_T_c, scene.focals
    scene.w_T_c, focals = move_images(w_T_old, f_old, found.equations, scene.camera, scene.held_pose, scene.held_focal)
    scene.focals = np.where(scene.held_focal, f_old, np.clip(focals, *scene.focal_limits))
    # The derivative of the mean log scale: without it the value would fall with the size of the pairs.
    pull = found.costs.sum() / max(1, np.count_nonzero(scene.on))
    w_S_c = scene.w_T_c.copy()  # the old focals' points
    w_S_c[:, :, :2] *= (f_old / scene.focals)[:, None, None]
    sums = (found.sums @ np.swapaxes(w_S_c[scene.ends], 2, 3)).sum(axis=1)
    scene.w_S_pair = place_pairs(scene.w_S_pair, sums, found.squares, pull)
    scene.set_floor(float(found.costs.sum()) / found.weight)
    return value


def _alike(problem: Problem, focals: Array) -> NDArray[np.int64]:
    """(N,) a camera for each image: one for all of a size whose focals differ by less than their errors do."""
    camera = np.arange(len(focals))
    for shape in set(problem.shapes):
        its = np.array([image for image, other in enumerate(problem.shapes) if other == shape])
        if np.ptp(np.log(focals[its])) < SAME_CAMERA:
            camera[its] = its[0]
    return camera


def _workspace() -> Workspace:
    """One per thread."""
    if not hasattr(_local, "space"):
        _local.space = Workspace()
    space: Workspace = _local.space
    return space
