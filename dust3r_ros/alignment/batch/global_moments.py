"""Global alignment from moments: the published objective without a gradient over pixels.

First a pose graph from moments (``global_start``), then sweeps of closed-form steps over a few sampled pixels
(``sweeps``): depth along the ray, image, pair, each with weights of the unsquared norm, accelerated by
momentum. The optimum over a few pixels is not that over many: one pass gathers what many pixels add, and a few
more sweeps over the few, with that difference added, end at the optimum of the many (the full approximation
scheme of Brandt, "Multi-level adaptive solutions", 1977, on two levels). One pass over all pixels sets their
depth: the robust middle, along the ray, of what all pairs say.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from dust3r_ros.alignment.batch.global_start import GlobalStart, global_start
from dust3r_ros.alignment.batch.pixel_block import (
    BlockMaker,
    Observation,
    PixelBlock,
    observations_of,
    plan_blocks,
    plan_missed,
    view_of,
    workspace,
)
from dust3r_ros.alignment.batch.problem import AlignmentProblem
from dust3r_ros.alignment.batch.ray_median import ray_median
from dust3r_ros.alignment.batch.sweeps import Momentum, Statistics, Unknowns, gather, step
from dust3r_ros.alignment.objective import Alignment, EdgeReport
from dust3r_ros.geometry.processes import each
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, Array32, PairPrediction

_PLANE = 140000  # numbers in a plane: fewer cost more in calls, more do not fit the cache
_ITERATIONS = 3


def full_depths(
    pairs: Sequence[PairPrediction], observations: Sequence[Sequence[Observation]], unknowns: Unknowns
) -> list[Array32]:
    """N maps (H, W) of the z that minimises, per pixel, sum_k w_k |z ray - y_k| over all observations of its image.

    y_k: the point of observation k in the camera frame; w_k: log confidence. With unit rays, y splits into its
    part a along the ray and q, the square of the part across: |.|^2 = (d - a)^2 + q, two numbers per observation and
    pixel for all iterations of reweighted least squares, started from the weighted mean of a. 0 where no active
    pair has information, or where the best point lies behind the camera. Given depth is kept, or counts with
    its deviation.
    """
    found: list[Array32] = []
    tasks: list[tuple[Any, ...]] = []
    known: dict[tuple[tuple[int, ...], float], Array32] = {}
    for image, its in enumerate(observations):
        counting = [observation for observation in its if unknowns.on[observation[0]]]
        depth = np.zeros(view_of(pairs, its[0])[1].shape, np.float32)
        found.append(depth)
        if not counting:
            continue
        views = [view_of(pairs, observation) for observation in counting]
        c_S_pair = invert(unknowns.w_T_c[image]) @ unknowns.w_S_pair[[edge for edge, _ in counting]]
        camera: tuple[tuple[int, ...], float] = depth.shape, float(unknowns.focals[image])
        if camera not in known:
            known[camera] = _rays(*camera)
        some = max(1, _PLANE // (len(counting) * len(depth[0])))
        given = unknowns.priors.depth_of(image)
        for low in range(0, len(depth), some):
            tasks.append((views, c_S_pair, known[camera], unknowns.floor, slice(low, low + some), depth, given))
    each(lambda task: _fill(*task), tasks)
    return found


def _fill(
    views: Sequence[tuple[Array32, Array32]],
    c_S_pair: Array,
    cameras_rays: Array32,
    floor: float,
    rows: slice,
    depth: Array32,
    given: tuple[Array32, Array32] | None,
) -> None:
    """Fill some rows of one image's depth."""
    target, rays = depth[rows], cameras_rays[:, rows].reshape(3, -1)
    pixels, count = target.size, len(views)
    planes = workspace().planes(6, count * pixels)
    points, weights, spare = np.split(planes, [3 * count * pixels, 4 * count * pixels])
    points, weights = points.reshape(count, 3, pixels), weights.reshape(count, pixels)
    moved = np.empty((*target.shape, 3), np.float32)
    G = np.ascontiguousarray(c_S_pair[:, :3], np.float32)
    for k, (X, C) in enumerate(views):
        cv2.transform(X[rows], G[k], dst=moved)
        cv2.split(moved, [plane.reshape(target.shape) for plane in points[k]])
        weights[k] = C[rows].ravel()
    cv2.log(weights, dst=weights)
    known = None
    if given is not None:
        z, square = (part[rows].ravel() for part in given)
        known = z / rays[2], square / np.square(rays[2])
    d = ray_median(points, rays, weights, floor, spare.reshape(2, count, pixels), _ITERATIONS, known)
    d *= rays[2]
    d[d < 0] = 0.0
    target[:] = d.reshape(target.shape)
    if given is not None:
        np.copyto(target, given[0][rows], where=given[1][rows] == 0)


def _rays(shape: tuple[int, ...], focal: float) -> Array32:
    """Unit rays (3, H, W) of an image."""
    sx = ((np.arange(shape[1]) - (shape[1] - 1) / 2) / focal).astype(np.float32)
    sy = ((np.arange(shape[0])[:, None] - (shape[0] - 1) / 2) / focal).astype(np.float32)
    inverse = 1 / np.sqrt(sx * sx + sy * sy + np.float32(1))
    return np.stack([sx * inverse, sy * inverse, inverse])


SAMPLE_PIXELS, FINE_PIXELS = 300, 2000  # of an image
SWEEPS, CORRECTED_SWEEPS = 30, 4
# Sweeps end when the value falls by less than this fraction of itself.
SETTLED = 1e-4
_MIN_SAMPLE = 50  # confident pixels of an observation; too few on the grid are topped up from between rows and columns


def align_moments(problem: AlignmentProblem) -> Alignment:
    """Poses, focals and depths that minimise the published objective.

    Given values stay, or are weighted by their deviation (``priors``); images of one camera share
    the focal. Without cameras, images of one size whose focals agree within 4 % (``sweeps.SAME_CAMERA``)
    count as one camera's, else each has its own. Two or more poses at different places, or depths, fix
    the scale. A single pair is read off, not optimised. Pairs that strongly contradict the others
    (``similarity_graph``) are switched off and reported.

    Raises ``GeometryError`` for a pair whose points determine no similarity and for an image that is
    first in no pair and cannot be placed by those where it is second.
    """
    begin = time.perf_counter()
    observations = observations_of(problem.pairs, len(problem.shapes))
    stride = _stride(problem, SAMPLE_PIXELS)
    sample = [make() for make in plan_blocks(problem.pairs, observations, problem.shapes, stride)]
    missed = plan_missed(problem.pairs, observations, problem.shapes, sample, _MIN_SAMPLE)
    sample += [make() for make in missed]
    start = global_start(problem, sample)
    unknowns = Unknowns.of(problem, start)
    depths: dict[int, Array32] = {}
    fine = plan_blocks(problem.pairs, observations, problem.shapes, min(stride, _stride(problem, FINE_PIXELS))) + missed
    if _needs_no_sweeps(problem):
        found = gather(unknowns, fine, depths)
    else:
        _sweep(unknowns, sample, depths)
        found = _correct(unknowns, sample, fine, depths)
    reports = _reports(problem, found, start)
    maps = full_depths(problem.pairs, observations, unknowns)
    return Alignment(unknowns.w_T_c, unknowns.focals, maps, time.perf_counter() - begin, reports, problem.pairs)


def _needs_no_sweeps(problem: AlignmentProblem) -> bool:
    """Whether there is a single pair, from which focal, pose and depth can be read off (DUSt3R, section 3.3)."""
    known = (problem.poses, problem.depths, problem.focal_std)
    return len(problem.pairs) == 1 and all(given is None for given in known)


def _stride(problem: AlignmentProblem, pixels: int) -> int:
    """The stride of rows and columns that takes about ``pixels`` of an image."""
    size = float(np.mean([height * width for height, width in problem.shapes]))
    return max(1, round((size / pixels) ** 0.5))


def _sweep(unknowns: Unknowns, sample: Sequence[PixelBlock], depths: dict[int, Array32]) -> None:
    """Sweep over the sample until it settles."""
    momentum, value = Momentum(), np.inf
    for _ in range(SWEEPS):
        previous, value = value, step(unknowns, gather(unknowns, [block.itself for block in sample], depths))
        if previous - value < SETTLED * value:
            break
        unknowns.settle(depths)
        momentum.carry(unknowns, depths)


def _correct(
    unknowns: Unknowns, sample: Sequence[PixelBlock], fine: Sequence[BlockMaker], depths: dict[int, Array32]
) -> Statistics:
    """Move to where the many ``fine`` pixels settle, by sweeps over the sample; returns the fine pixels' statistics."""
    makers, momentum = [block.itself for block in sample], Momentum()
    part, whole = gather(unknowns, makers, {}), gather(unknowns, fine, {})
    factor = float(whole.weights.sum() / part.weights.sum())
    difference = whole.plus(part, -factor)
    step(unknowns, whole)
    for _ in range(CORRECTED_SWEEPS):
        step(unknowns, difference.plus(gather(unknowns, makers, depths), factor))
        momentum.carry(unknowns, depths)
    return whole


def _reports(problem: AlignmentProblem, found: Statistics, start: GlobalStart) -> tuple[EdgeReport, ...]:
    off = start.switched_off
    residual = np.where(off, start.residual, found.costs / np.where(off, 1.0, found.weights))
    return tuple(
        EdgeReport(pair.first, pair.second, float(r), bool(out))
        for pair, r, out in zip(problem.pairs, residual, off, strict=True)
    )
