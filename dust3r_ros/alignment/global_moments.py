"""Global alignment from moments: the published objective without a gradient over pixels.

Pose graph from moments (``global_start``), then sweeps of closed steps over sampled pixels (``sweeps``):
depth along the ray, image, pair, each with weights of the unsquared norm. The optimum of a sample is not
that of all pixels; what all of them say beyond the sample is gathered in one pass, and a few more
sweeps over the sample with that difference added end at the optimum of all pixels (the full
approximation scheme of Brandt, "Multi-level adaptive solutions", 1977, on two levels).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.global_start import GlobalStart, global_start
from dust3r_ros.alignment.pair_depths import full_depths
from dust3r_ros.alignment.pixel_block import PixelBlock, Sight, plan_blocks, sights_of
from dust3r_ros.alignment.problem import Problem, image_shapes
from dust3r_ros.alignment.result import Alignment, EdgeReport
from dust3r_ros.alignment.sweeps import Scene, Statistics, gather, step
from dust3r_ros.types import Array, Array32, PairPrediction

SAMPLE_PIXELS = 500  # of an image
SWEEPS, CORRECTED_SWEEPS = 14, 5
# Steps of depth from the mean of what the sights say, where all pixels are passed once.
_FULL_ITERATIONS = 2
_MIN_SAMPLE = 50  # confident pixels of a sight; with fewer, more are sampled
_THREADS = min(4, os.cpu_count() or 1)


def align_moments(
    pairs: Sequence[PairPrediction],
    cameras: NDArray[np.int64] | None = None,
    focals: Array | None = None,
    poses: Array | None = None,
) -> Alignment:
    """Poses, focals and depths that minimise the published objective.

    ``pairs``, ``cameras``, ``focals`` and ``poses`` as ``alignment.problem.Problem`` holds them. Given focals
    and poses stay; images of one camera share the focal. Without ``cameras``, images of one size whose
    focals agree within 4 % (``sweeps.SAME_CAMERA``) count as one camera's, else each has its own.
    Two or more poses at different places fix the scale. Pairs that contradict the others by far
    (``similarity_graph``) are switched off and reported.

    Raises ``GeometryError`` for a pair whose points determine no similarity and for an image that is
    first in no pair and finds no place in those where it is second.
    """
    begin = time.perf_counter()
    problem = Problem(list(pairs), image_shapes(pairs), cameras, focals, poses)
    sights = sights_of(problem.pairs, len(problem.shapes))
    with ThreadPoolExecutor(_THREADS) as pool:
        sample = _sample(problem, sights)
        start = global_start(problem, sample)
        scene = Scene.of(problem, start)
        depths, reports = _refine(scene, problem, sights, sample, start, pool)
        depths = full_depths(problem.pairs, sights, scene, depths, pool)
    seconds = time.perf_counter() - begin
    return Alignment(scene.w_T_c, scene.focals, depths, seconds, reports, problem.pairs)


def _sample(problem: Problem, sights: Sequence[Sequence[Sight]]) -> list[PixelBlock]:
    """About ``SAMPLE_PIXELS`` pixels of every image; more where confident ones are rare."""
    size = float(np.mean([height * width for height, width in problem.shapes]))
    stride = max(1, round((size / SAMPLE_PIXELS) ** 0.5))
    while True:
        found = [make() for make in plan_blocks(problem.pairs, sights, problem.shapes, stride)]
        least = np.zeros((len(problem.pairs), 2), dtype=int)
        for block in found:
            there = block.views >= 0
            confident = np.count_nonzero(block.weights > 0, axis=2)
            np.add.at(least, (block.edges[there], block.views[there]), confident[there])
        if stride == 1 or least.min() >= _MIN_SAMPLE:
            return found
        stride //= 2


def _refine(
    scene: Scene,
    problem: Problem,
    sights: Sequence[Sequence[Sight]],
    sample: Sequence[PixelBlock],
    start: GlobalStart,
    pool: Executor,
) -> tuple[list[Array32], tuple[EdgeReport, ...]]:
    """The scene at the optimum of all pixels, by sweeps over the sample; depths before it, and the reports."""
    depths: dict[int, Array32] = {}
    makers = [block.itself for block in sample]
    for _ in range(SWEEPS):
        step(scene, gather(scene, makers, depths, pool))
    part = gather(scene, makers, depths, pool, 2)
    every = plan_blocks(problem.pairs, sights, problem.shapes, 1)
    full: dict[int, Array32] = {}
    whole = gather(scene, every, full, pool, _FULL_ITERATIONS)
    factor = sum(h * w for h, w in problem.shapes) / sum(block.pixels.shape[1] * len(block.images) for block in sample)
    reports = _reports(problem, whole, start, sum(_weight(block, len(problem.pairs)) for block in sample) * factor)
    difference = whole.plus(part, -factor)
    step(scene, whole)
    for _ in range(CORRECTED_SWEEPS):
        step(scene, difference.plus(gather(scene, makers, depths, pool), factor))
    maps = [np.empty(shape, np.float32) for shape in problem.shapes]
    for index, maker in enumerate(every):
        for image, depth in zip(maker.images, full[index], strict=True):
            maps[image][maker.rows] = depth.reshape(len(maker.rows), -1)
    return maps, reports


def _weight(block: PixelBlock, pairs: int) -> Array:
    """(E,) total weight."""
    weights = block.weights.sum(axis=2, dtype=np.float64)
    return np.bincount(block.edges.ravel(), weights.ravel(), pairs).astype(np.float64)


def _reports(problem: Problem, whole: Statistics, start: GlobalStart, weight: Array) -> tuple[EdgeReport, ...]:
    off = start.switched_off
    residual = np.where(off, start.residual, whole.costs / np.where(off, 1.0, weight))
    return tuple(
        EdgeReport(pair.first, pair.second, float(r), 0.0 if out else 1.0, bool(out))
        for pair, r, out in zip(problem.pairs, residual, off, strict=True)
    )
