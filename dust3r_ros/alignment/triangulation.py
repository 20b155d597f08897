"""Points from rays of several views with known poses."""

from __future__ import annotations

import numpy as np

from dust3r_ros.alignment.sights import Summing
from dust3r_ros.types import Array

_ROUNDS = 4


def widest_angle(directions: Array, group: np.ndarray, count: int) -> Array:
    """(count,) degrees between the first of each group's unit directions (M, 3) and the one that differs most."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(count))
    nonempty = np.append(starts[1:], len(group)) > starts
    cosine = np.ones(count)
    if nonempty.any():
        first = order[np.minimum(starts, len(group) - 1)][group]
        apart = np.einsum("mi,mi->m", directions, directions[first])
        cosine[nonempty] = np.minimum.reduceat(apart[order], starts[nonempty])
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def triangulate(centers: Array, directions: Array, group: np.ndarray, count: int, noise: float) -> tuple[Array, Array]:
    """Points nearest to their rays, and the widest angle at which their rays meet.

    ``centers`` (M, 3) and unit ``directions`` (M, 3), both in w, belong to point ``group`` (M,) of
    ``count``; ``noise`` is the rays' angular error (radians). Returns points (count, 3), NaN where
    the rays say nothing, and angles (count,) in degrees: the angle between a point's first ray and
    the one that differs most from it. Least squares of the distances to the rays, re-weighted so
    that a ray that misses by much more than the noise (a wrong match) hardly pulls.
    """
    angles = widest_angle(directions, group, count)
    rays = Summing(group, count)
    d, c = np.ascontiguousarray(directions.T), np.ascontiguousarray(centers.T)
    across = np.eye(3)[:, :, None] - d[:, None] * d  # takes what is along a ray away
    # Sums over a point's rays of what fixes it and of where that puts it: (12, M).
    terms = np.concatenate([across.reshape(9, -1), c - d * np.einsum("im,im->m", d, c)])
    terms *= (angles > 1e-3)[group]
    weight = np.ones(len(group))
    points = np.full((3, count), np.nan)
    for _ in range(_ROUNDS if (np.bincount(group, minlength=count) > 2).any() else 1):
        sums = rays.sums(weight * terms)
        _solve_symmetric(sums[:9].reshape(3, 3, -1), sums[9:], points)
        offset = np.take(points, group, axis=1) - c
        far = np.maximum(np.einsum("im,im->m", offset, offset), 1e-12)
        miss = np.einsum("ijm,jm->im", across, offset)
        # A ray's distance to the point weighs by its length: what is measured is an angle.
        weight = 1.0 / (far + np.einsum("im,im->m", miss, miss) / noise**2)
        weight = np.where(np.isfinite(weight), weight, 0.0)
        weight /= np.maximum(rays.sums(weight), 1e-300)[group]
    return points.T.copy(), angles


def _solve_symmetric(A: Array, b: Array, x: Array) -> None:
    """x (3, P) with A x = b of symmetric A (3, 3, P), by cofactors; left as it is where A is singular."""
    inverse = np.empty_like(A)
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        (k, m), (n, o) = (((i + 1) % 3, (i + 2) % 3), ((j + 1) % 3, (j + 2) % 3))
        inverse[i, j] = inverse[j, i] = A[k, n] * A[m, o] - A[k, o] * A[m, n]
    determinant = np.einsum("ip,ip->p", A[0], inverse[0])
    good = determinant > 1e-18
    x[:, good] = np.einsum("ijp,jp->ip", inverse, b)[:, good] / determinant[good]
