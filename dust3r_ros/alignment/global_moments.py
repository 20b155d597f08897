"""Global alignment from moments: the published objective without a gradient over pixels.

Pose graph from moments (``global_start``), then sweeps of closed steps over a few sampled pixels
(``sweeps``): depth along the ray, image, pair, each with weights of the unsquared norm, carried on by
``momentum``. The optimum of a few pixels is not that of many; what many say beyond the few is gathered in one
pass, and a few more sweeps over the few with that difference added end at the optimum of the many (the full
approximation scheme of Brandt, "Multi-level adaptive solutions", 1977, on two levels). All pixels are
passed once, for their depth (``pair_depths``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from dust3r_ros.alignment.global_start import GlobalStart, global_start
from dust3r_ros.alignment.momentum import Momentum
from dust3r_ros.alignment.pair_depths import full_depths
from dust3r_ros.alignment.pixel_block import BlockMaker, PixelBlock, plan_blocks, plan_missed, sights_of
from dust3r_ros.alignment.problem import Problem
from dust3r_ros.alignment.result import Alignment, EdgeReport
from dust3r_ros.alignment.scene import Scene
from dust3r_ros.alignment.sweeps import Statistics, gather, step
from dust3r_ros.types import Array32

SAMPLE_PIXELS, FINE_PIXELS = 300, 2000  # of an image
SWEEPS, CORRECTED_SWEEPS = 30, 4
# Sweeps end when the value falls by less than this part of itself.
SETTLED = 1e-4
_MIN_SAMPLE = 50  # confident pixels of a sight: what falls between the rows and columns is sampled, too


def align_moments(problem: Problem) -> Alignment:
    """Poses, focals and depths that minimise the published objective.

    What the problem gives stays, or is weighed by its deviation (``priors``); images of one camera share
    the focal. Without cameras, images of one size whose focals agree within 4 % (``scene.SAME_CAMERA``)
    count as one camera's, else each has its own. Two or more poses at different places, or depths, fix
    the scale. One pair alone is read off and not optimised. Pairs that contradict the others by far
    (``similarity_graph``) are switched off and reported.

    Raises ``GeometryError`` for a pair whose points determine no similarity and for an image that is
    first in no pair and finds no place in those where it is second.
    """
    begin = time.perf_counter()
    sights = sights_of(problem.pairs, len(problem.shapes))
    stride = _stride(problem, SAMPLE_PIXELS)
    sample = [make() for make in plan_blocks(problem.pairs, sights, problem.shapes, stride)]
    missed = plan_missed(problem.pairs, sights, problem.shapes, sample, _MIN_SAMPLE)
    sample += [make() for make in missed]
    start = global_start(problem, sample)
    scene = Scene.of(problem, start)
    depths: dict[int, Array32] = {}
    fine = plan_blocks(problem.pairs, sights, problem.shapes, min(stride, _stride(problem, FINE_PIXELS))) + missed
    if _needs_no_sweeps(problem):
        found = gather(scene, fine, depths)
    else:
        _sweep(scene, sample, depths)
        found = _correct(scene, sample, fine, depths)
    reports = _reports(problem, found, start)
    maps = full_depths(problem.pairs, sights, scene)
    return Alignment(scene.w_T_c, scene.focals, maps, time.perf_counter() - begin, reports, problem.pairs)


def _needs_no_sweeps(problem: Problem) -> bool:
    """Whether a pair stands for itself: focal, pose and depth can be read off it (DUSt3R, section 3.3)."""
    known = (problem.poses, problem.depths, problem.focal_std)
    return len(problem.pairs) == 1 and all(given is None for given in known)


def _stride(problem: Problem, pixels: int) -> int:
    """Every how manieth row and column to take for so many pixels of an image."""
    size = float(np.mean([height * width for height, width in problem.shapes]))
    return max(1, round((size / pixels) ** 0.5))


def _sweep(scene: Scene, sample: Sequence[PixelBlock], depths: dict[int, Array32]) -> None:
    """Sweeps over the sample until they settle."""
    momentum, value = Momentum(), np.inf
    for _ in range(SWEEPS):
        previous, value = value, step(scene, gather(scene, [block.itself for block in sample], depths))
        if previous - value < SETTLED * value:
            break
        scene.settle(depths)
        momentum.carry(scene, depths)


def _correct(
    scene: Scene, sample: Sequence[PixelBlock], fine: Sequence[BlockMaker], depths: dict[int, Array32]
) -> Statistics:
    """To where the many ``fine`` pixels settle, by sweeps over the sample; what the fine ones say on the way."""
    makers, momentum = [block.itself for block in sample], Momentum()
    part, whole = gather(scene, makers, {}), gather(scene, fine, {})
    factor = float(whole.weights.sum() / part.weights.sum())
    difference = whole.plus(part, -factor)
    step(scene, whole)
    for _ in range(CORRECTED_SWEEPS):
        step(scene, difference.plus(gather(scene, makers, depths), factor))
        momentum.carry(scene, depths)
    return whole


def _reports(problem: Problem, found: Statistics, start: GlobalStart) -> tuple[EdgeReport, ...]:
    off = start.switched_off
    residual = np.where(off, start.residual, found.costs / np.where(off, 1.0, found.weights))
    return tuple(
        EdgeReport(pair.first, pair.second, float(r), 0.0 if out else 1.0, bool(out))
        for pair, r, out in zip(problem.pairs, residual, off, strict=True)
    )
