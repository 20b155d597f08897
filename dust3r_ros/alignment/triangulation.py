"""Points from rays of several views with known poses."""

from __future__ import annotations

import numpy as np

from dust3r_ros.types import Array

_ROUNDS = 4


def widest_angle(directions: Array, group: np.ndarray, count: int) -> Array:
    """(count,) degrees between the first of each group's unit directions (M, 3) and the one that differs most."""
    first = np.full(count, -1)
    first[group[::-1]] = np.arange(len(group))[::-1]
    cosine = np.ones(count)
    np.minimum.at(cosine, group, np.einsum("mi,mi->m", directions, directions[first[group]]))
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def triangulate(centers: Array, directions: Array, group: np.ndarray, count: int, noise: float) -> tuple[Array, Array]:
    """Points nearest to their rays, and the widest angle at which their rays meet.

    ``centers`` (M, 3) and unit ``directions`` (M, 3), both in w, belong to point ``group`` (M,) of
    ``count``; ``noise`` is the rays' angular error (radians). Returns points (count, 3), NaN where
    the rays say nothing, and angles (count,) in degrees: the angle between a point's first ray and
    the one that differs most from it. Least squares of the distances to the rays, re-weighted so
    that a ray that misses by much more than the noise (a wrong match) hardly pulls.
    """
    projector = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    angles = widest_angle(directions, group, count)
    solvable = (angles > 1e-3)[group]
    weight = np.ones(len(group))
    points = np.full((count, 3), np.nan)
    shared = np.bincount(group, minlength=count)
    for _ in range(_ROUNDS if (shared > 2).any() else 1):
        A, b = np.zeros((count, 3, 3)), np.zeros((count, 3))
        weighted = weight[:, None, None] * projector
        np.add.at(A, group[solvable], weighted[solvable])
        np.add.at(b, group[solvable], np.einsum("mij,mj->mi", weighted, centers)[solvable])
        good = np.linalg.det(A) > 1e-18
        points[good] = np.linalg.solve(A[good], b[good][..., None])[..., 0]
        offset = points[group] - centers
        miss = np.linalg.norm(np.einsum("mij,mj->mi", projector, offset), axis=1)
        angle = miss / np.maximum(np.linalg.norm(offset, axis=1), 1e-12)
        # A ray's distance to the point weighs by its length: what is measured is an angle.
        weight = 1.0 / np.maximum(np.sum(offset**2, axis=1), 1e-12) / (1.0 + (angle / noise) ** 2)
        weight = np.where(np.isfinite(weight), weight, 0.0)
        total = np.bincount(group, weight, count)[group]
        weight = weight / np.maximum(total, 1e-300)
    return points, angles
