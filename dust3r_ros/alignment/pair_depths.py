"""Depth of every pixel once poses are known: the robust middle, along its ray, of what all pairs say."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

import cv2
import numpy as np

from dust3r_ros.alignment.pixel_block import Sight, view_of
from dust3r_ros.alignment.sweeps import Scene
from dust3r_ros.alignment.workspace import OVERSTEP
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, Array32, PairPrediction

_PLANE = 140000  # numbers in a plane: fewer cost more in calls, more leave the cache
_ITERATIONS = 2
_TINY = np.float32(1e-30)


def full_depths(
    pairs: Sequence[PairPrediction],
    sights: Sequence[Sequence[Sight]],
    scene: Scene,
    depths: Sequence[Array32],
    pool: Executor,
) -> list[Array32]:
    """N maps (H, W) of the z that minimises, pixel by pixel, sum_k w_k |z ray - y_k| over the sights of its image.

    y_k: what sight k says, in the camera's frame; w_k: log confidence. With unit rays, y splits into its
    part a along the ray and q, the square of that across: |.|^2 = (d - a)^2 + q, two numbers a sight and
    pixel for all iterations of re-weighted least squares, from ``depths``. 0 where no pair that counts
    says anything, or where the best point lies behind the camera.
    """
    found, tasks = [], []
    for image, its in enumerate(sights):
        counting = [sight for sight in its if scene.on[sight[0]]]
        start, depth = depths[image], np.zeros_like(depths[image])
        found.append(depth)
        if not counting:
            continue
        c_S_pair = invert(scene.w_T_c[image]) @ scene.w_S_pair[[edge for edge, _ in counting]]
        some = max(1, _PLANE // (len(counting) * depth.shape[1]))
        for low in range(0, len(depth), some):
            rows = slice(low, low + some)
            tasks.append((pairs, counting, c_S_pair, float(scene.focals[image]), scene.floor, rows, start, depth))
    for _ in pool.map(lambda task: _fill(*task), tasks):
        pass
    return found


def _fill(
    pairs: Sequence[PairPrediction],
    sights: Sequence[Sight],
    c_S_pair: Array,
    focal: float,
    floor: float,
    rows: slice,
    start: Array32,
    depth: Array32,
) -> None:
    """Some rows of one image's depth."""
    height, width = depth.shape
    target = depth[rows]
    sx = ((np.arange(width) - (width - 1) / 2) / focal).astype(np.float32)
    sy = ((np.arange(height)[rows, None] - (height - 1) / 2) / focal).astype(np.float32)
    length = np.sqrt(sx * sx + sy * sy + np.float32(1))
    ray = np.stack([sx / length, sy / length, 1 / length])
    planes = np.empty((3, len(sights), *target.shape), np.float32)
    weight = np.empty(planes.shape[1:], np.float32)
    moved = np.empty((*target.shape, 3), np.float32)
    G = np.ascontiguousarray(c_S_pair[:, :3], np.float32)
    for k, sight in enumerate(sights):
        X, C = view_of(pairs, sight)
        cv2.transform(X[rows], G[k], dst=moved)
        cv2.split(moved, list(planes[:, k]))
        weight[k] = C[rows]
    along, across = _split(planes, ray)
    np.log(weight, out=weight)
    known = np.einsum("khw->hw", weight) > 0
    d = start[rows] * length
    pull = planes[2]
    for _ in range(_ITERATIONS):
        np.subtract(along, d, out=pull)
        np.multiply(pull, pull, out=pull)
        pull += across
        np.sqrt(pull, out=pull)
        np.maximum(pull, np.float32(floor), out=pull)
        np.divide(weight, pull, out=pull)
        best = np.einsum("khw,khw->hw", pull, along) / np.maximum(np.einsum("khw->hw", pull), _TINY)
        d += OVERSTEP * (best - d)
    np.divide(d, length, out=target)
    target[~(known & (target > 0))] = 0.0


def _split(planes: Array32, ray: Array32) -> tuple[Array32, Array32]:
    """Parts of points (3, K, h, w) along unit rays (3, h, w) and the squares of those across; overwrites the points."""
    along, across = planes[0] * ray[0], np.empty_like(planes[0])
    for axis in (1, 2):
        np.multiply(planes[axis], ray[axis], out=across)
        along += across
    np.multiply(planes, planes, out=planes)
    np.multiply(along, along, out=across)
    np.subtract(planes[0], across, out=across)
    across += planes[1]
    across += planes[2]
    return along, np.maximum(across, np.float32(0), out=across)
