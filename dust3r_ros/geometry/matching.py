"""Matches between two sets of 3D points: reciprocal nearest neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dust3r_ros.errors import GeometryError
from dust3r_ros.types import Array

Indices = NDArray[np.intp]


def nearest(points: NDArray[np.floating], queries: NDArray[np.floating]) -> Indices:
    """For each of ``queries`` (M, 3) the index (M,) of its nearest neighbour in ``points`` (N, 3), all finite.

    Raises ``GeometryError`` where ``points`` is empty.
    """
    if len(points) == 0:
        raise GeometryError(f"The nearest neighbours of {len(queries)} points need at least 1 point to choose from.")
    return np.asarray(cKDTree(points).query(queries)[1], dtype=np.intp)


def reciprocal_matches(
    first: NDArray[np.floating], second: NDArray[np.floating], max_distance: float = np.inf
) -> tuple[Indices, Indices]:
    """Index pairs (K,), (K,) of ``first`` (N, 3) and ``second`` (M, 3) that are each other's nearest neighbour.

    DUSt3R, section 3.3 ("point matching"). Sorted by the index in ``second``. Points that are not
    finite match nothing; pairs further apart than ``max_distance`` (the points' unit) are dropped;
    no points, no matches.
    """
    of_first = np.flatnonzero(np.isfinite(first).all(axis=1))
    of_second = np.flatnonzero(np.isfinite(second).all(axis=1))
    if len(of_first) == 0 or len(of_second) == 0:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    a, b = first[of_first], second[of_second]
    forward = nearest(a, b)
    # Only points of a that were chosen can be half of a reciprocal pair: ask back for those alone.
    chosen, inverse = np.unique(forward, return_inverse=True)
    kept = nearest(b, a[chosen])[inverse] == np.arange(len(b))
    if np.isfinite(max_distance):
        kept &= np.linalg.norm(a[forward] - b, axis=1) <= max_distance
    return of_first[forward[kept]], of_second[kept]


def match_pointmaps(
    points_first: NDArray[np.floating],
    points_second: NDArray[np.floating],
    valid_first: NDArray[np.bool_] | None = None,
    valid_second: NDArray[np.bool_] | None = None,
    max_distance: float = np.inf,
) -> tuple[Array, Array]:
    """Matching pixels (K, 2), (K, 2), each (u, v), of two pointmaps (H, W, 3), (H', W', 3) in one frame.

    ``valid_*`` (H, W) select the pixels that may match, all of them by default.
    """
    pixels, points = [], []
    for pointmap, valid in ((points_first, valid_first), (points_second, valid_second)):
        rows, columns = np.nonzero(np.ones(pointmap.shape[:2], bool) if valid is None else valid)
        pixels.append(np.stack([columns, rows], axis=-1).astype(np.float64))
        points.append(pointmap[rows, columns])
    index_first, index_second = reciprocal_matches(points[0], points[1], max_distance)
    return pixels[0][index_first], pixels[1][index_second]
