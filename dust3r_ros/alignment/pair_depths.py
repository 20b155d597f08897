"""Depth of every pixel once poses are known: the robust middle, along its ray, of what all pairs say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from dust3r_ros.alignment.pixel_block import Sight, view_of
from dust3r_ros.alignment.ray_middle import ray_middle
from dust3r_ros.alignment.scene import Scene
from dust3r_ros.alignment.thread_pool import each
from dust3r_ros.alignment.workspace import workspace
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, Array32, PairPrediction

_PLANE = 140000  # numbers in a plane: fewer cost more in calls, more leave the cache
_ITERATIONS = 3


def full_depths(pairs: Sequence[PairPrediction], sights: Sequence[Sequence[Sight]], scene: Scene) -> list[Array32]:
    """N maps (H, W) of the z that minimises, pixel by pixel, sum_k w_k |z ray - y_k| over the sights of its image.

    y_k: what sight k says, in the camera's frame; w_k: log confidence. With unit rays, y splits into its
    part a along the ray and q, the square of that across: |.|^2 = (d - a)^2 + q, two numbers a sight and
    pixel for all iterations of re-weighted least squares, from the weighted mean of a. 0 where no pair
    that counts says anything, or where the best point lies behind the camera. Given depth is kept, or
    counts with its deviation.
    """
    found: list[Array32] = []
    tasks: list[tuple[Any, ...]] = []
    known: dict[tuple[tuple[int, ...], float], Array32] = {}
    for image, its in enumerate(sights):
        counting = [sight for sight in its if scene.on[sight[0]]]
        depth = np.zeros(view_of(pairs, its[0])[1].shape, np.float32)
        found.append(depth)
        if not counting:
            continue
        views = [view_of(pairs, sight) for sight in counting]
        c_S_pair = invert(scene.w_T_c[image]) @ scene.w_S_pair[[edge for edge, _ in counting]]
        camera: tuple[tuple[int, ...], float] = depth.shape, float(scene.focals[image])
        if camera not in known:
            known[camera] = _rays(*camera)
        some = max(1, _PLANE // (len(counting) * len(depth[0])))
        given = scene.priors.depth_of(image)
        for low in range(0, len(depth), some):
            tasks.append((views, c_S_pair, known[camera], scene.floor, slice(low, low + some), depth, given))
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
    """Some rows of one image's depth."""
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
    d = ray_middle(points, rays, weights, floor, spare.reshape(2, count, pixels), _ITERATIONS, known)
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
