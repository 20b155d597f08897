"""Alternating closed steps towards the published objective: depth of sampled pixels, images, pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.moments import scale_of
from dust3r_ros.alignment.pixel_block import PixelBlock
from dust3r_ros.alignment.placement import image_equations, move_images, place_pairs
from dust3r_ros.alignment.scene import Scene
from dust3r_ros.alignment.thread_pool import each
from dust3r_ros.alignment.workspace import points_at, workspace
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, Array32


@dataclass(frozen=True, eq=False)
class Statistics:
    """All that one step for images and pairs takes from the pixels.

    ``costs`` (E,): sums of w |r|; ``equations`` (N, 7, 8) of ``image_equations``; ``sums`` (E, 2, 4, 4) and
    ``squares`` (E,): what places the pairs, by view, with points in the frames of the
    cameras; ``weights`` (E,): sums of w.
    """

    costs: Array
    equations: Array
    sums: Array
    squares: Array
    weights: Array

    def plus(self, other: Statistics, factor: float = 1.0) -> Statistics:
        """This and ``factor`` times the other."""
        return Statistics(
            self.costs + factor * other.costs,
            self.equations + factor * other.equations,
            self.sums + factor * other.sums,
            self.squares + factor * other.squares,
            self.weights + factor * other.weights,
        )


def gather(scene: Scene, makers: Sequence[Callable[[], PixelBlock]], depths: dict[int, Array32]) -> Statistics:
    """One pass over blocks; ``depths`` (by position of the block) take a step, or the first where there are none."""
    tasks = [(scene, make, depths.get(index)) for index, make in enumerate(makers)]
    parts = each(_pass, tasks)
    pairs, images = len(scene.w_S_pair), len(scene.w_T_c)
    costs, weights, sums = np.zeros(2 * pairs), np.zeros(2 * pairs), np.zeros((2 * pairs, 5, 4))
    equations = np.zeros((images, 7, 8))
    for index, part in enumerate(parts):
        depths[index] = part.depth
        costs[part.rows] += part.costs
        weights[part.rows] += part.weights
        equations[part.images] += part.equations
        sums[part.rows] += part.sums
    return Statistics(
        costs.reshape(pairs, 2).sum(axis=1),
        equations,
        sums[:, :4].reshape(pairs, 2, 4, 4),
        sums[:, 4, 3].reshape(pairs, 2).sum(axis=1),
        weights.reshape(pairs, 2).sum(axis=1),
    )


class _Part(NamedTuple):
    """What a block gives; ``rows``: the sights, as 2 * pair + view."""

    images: NDArray[np.int64]
    rows: NDArray[np.int64]
    depth: Array32
    costs: Array
    equations: Array
    sums: Array
    weights: Array


def _pass(task: tuple[Scene, Callable[[], PixelBlock], Array32 | None]) -> _Part:
    scene, make, depth = task
    block = make()
    block.switch(scene.on)
    slopes = block.slopes(scene.focals)
    c_S_pair = invert(scene.w_T_c[block.images])[:, None] @ scene.w_S_pair[block.edges]
    space = workspace()
    known = scene.priors.depths_of(block)
    seen = space.weigh(block, c_S_pair, slopes, depth, scene.floor, known)
    sums = space.sums(block, points_at(slopes, seen.depth))
    equations = image_equations(seen.total, seen.mean, slopes, seen.depth, seen.along)
    there = block.views >= 0
    rows = 2 * block.edges[there] + block.views[there]
    weights = block.weights.sum(axis=2)[there]
    return _Part(block.images, rows, seen.depth, seen.cost[there], equations, sums[there], weights)


def step(scene: Scene, found: Statistics) -> float:
    """All images, then all pairs, by closed forms; returns the value before: costs at mean log scale 0."""
    value = float(found.costs.sum() * np.exp(-np.log(scale_of(scene.w_S_pair)).mean()))
    w_T_old, f_old = scene.w_T_c, scene.focals
    equations = found.equations + scene.priors.equations(w_T_old, f_old, scene.unit(float(found.costs.sum())))
    scene.w_T_c, focals = move_images(w_T_old, f_old, equations, scene.camera, scene.held_pose, scene.held_focal)
    scene.focals = np.where(scene.held_focal, f_old, np.clip(focals, *scene.focal_limits))
    # The derivative of the mean log scale: without it the value would fall with the size of the pairs.
    pull = found.costs.sum() / max(1, np.count_nonzero(scene.on))
    w_S_c = scene.w_T_c.copy()  # the old focals' points
    w_S_c[:, :, :2] *= (f_old / scene.focals)[:, None, None]
    sums = (found.sums @ np.swapaxes(w_S_c[scene.ends], 2, 3)).sum(axis=1)
    scene.w_S_pair = place_pairs(scene.w_S_pair, sums, found.squares, pull)
    scene.set_floor(float(found.costs.sum() / found.weights.sum()))
    return value
