"""Reconstruction: accuracy and completeness of a cloud against a reference, aligned by closest points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.protocols import rows
from dust3r_ros.geometry.similarity import Similarity, weighted_similarity
from dust3r_ros.types import Array

_SETTLED = 1e-4  # relative fall of the mean distance
_MOST, _ITERATIONS = 20_000, 50  # points that are aligned, and times at most


def refine_alignment(
    found: ArrayLike,
    reference: ArrayLike,
    *,
    max_distance: float,
    with_scale: bool = False,
) -> Similarity:
    """``reference_S_found`` that brings a cloud (M, 3), already close, onto the reference (N, 3).

    Point-to-point ICP (Besl and McKay, PAMI 1992): nearest neighbours within ``max_distance`` (the clouds' unit) are
    used, until their mean distance settles. Of a large cloud, a part is drawn. ``with_scale`` also estimates the scale.
    Raises ``InputError``, and ``GeometryError`` where fewer than 3 are near.
    """
    a, b = rows.points("points", found, 3), rows.points("reference points", reference, 3)
    if not max_distance > 0:
        raise InputError(f"max_distance {max_distance} must be a positive length")
    if len(a) > _MOST:
        a = a[np.random.default_rng(0).choice(len(a), _MOST, replace=False)]
    tree, best, before = cKDTree(b), Similarity.identity(), np.inf
    for _ in range(_ITERATIONS):
        apart, index = tree.query(best.apply(a), distance_upper_bound=max_distance)
        near = np.isfinite(apart)
        if near.sum() < 3:
            raise GeometryError(
                f"{near.sum()} of {len(a)} points are within {max_distance:g} of the reference; ICP needs at least 3"
            )
        # Points out of reach count as just out of reach, or losing points would look like progress.
        mean = float(np.minimum(apart, max_distance).mean())
        if before - mean <= _SETTLED * before and np.isfinite(before):
            break
        before = mean
        best = weighted_similarity(a[near], b[index[near]], with_scale=with_scale)
    return best


DTU_LIMIT = 20.0  # mm; distances from here on are left out
DTU_SPACING = 0.2  # mm between points of a thinned cloud
_FIRST_BATCH = 20_000


@dataclass(frozen=True)
class CloudErrors:
    """Lengths in the unit of the points. ``accuracy``: mean distance from the cloud to the reference, ``completeness``
    from the reference to the cloud, ``*_median`` their medians, over the points that count.
    """

    accuracy: float
    completeness: float
    accuracy_median: float
    completeness_median: float

    @property
    def overall(self) -> float:
        """Mean of accuracy and completeness, as in DTU's tables (half the chamfer distance)."""
        return (self.accuracy + self.completeness) / 2.0


@dataclass(frozen=True, eq=False)
class ObservedVolume:
    """Where DTU's reference can judge: ``seen`` (X, Y, Z) bool, voxel (i, j, k) centred at ``low`` + ``voxel``
    (i, j, k).

    ``low`` (3,) and ``voxel`` in the unit of the points. Points outside the volume are not judged.
    """

    seen: NDArray[np.bool_]
    low: Array
    voxel: float

    def contains(self, points: Array) -> NDArray[np.bool_]:
        """(N,) whether points (N, 3) are in a voxel that is seen."""
        index = np.round((points - self.low) / self.voxel).astype(np.int64)
        inside: NDArray[np.bool_] = np.all((index >= 0) & (index < self.seen.shape), axis=1)
        inside[inside] = self.seen[tuple(index[inside].T)]
        return inside


def distances(queries: ArrayLike, reference: ArrayLike, *, limit: float = np.inf) -> Array:
    """(M,) from each of ``queries`` (M, 3) to its nearest point of ``reference`` (N, 3), in their unit.

    Exact; from ``limit`` on they are infinite. Raises ``InputError``.
    """
    a, b = rows.points("points", queries), rows.points("reference points", reference)
    if not limit > 0:
        raise InputError(f"limit {limit} must be a positive length")
    return np.asarray(cKDTree(b).query(a, distance_upper_bound=limit, workers=-1)[0], dtype=np.float64)


def cloud_errors(found: ArrayLike, reference: ArrayLike, *, limit: float = np.inf) -> CloudErrors:
    """Accuracy and completeness of a cloud (M, 3) against the reference (N, 3), in one frame and unit.

    Distances of ``limit`` or more are left out of means and medians. Raises ``InputError`` for clouds that are empty
    or not finite, ``GeometryError`` where no distance is below the limit.
    """
    return _summary(distances(found, reference, limit=limit), distances(reference, found, limit=limit), limit)


def dtu_errors(
    found: ArrayLike,
    reference: ArrayLike,
    *,
    observed: ObservedVolume | None = None,
    plane: ArrayLike | None = None,
    spacing: float = DTU_SPACING,
) -> CloudErrors:
    """Accuracy, completeness and overall in mm by the protocol of DTU; clouds (M, 3), (N, 3) in mm in DTU's frame.

    The cloud is thinned to ``spacing`` (0: not thinned). Accuracy counts its points inside ``observed``; completeness
    counts reference points above the ground ``plane`` (4,), those with n x + d > 0. Distances of ``DTU_LIMIT`` and more
    are outliers and left out. None omits a restriction. Aanaes et al., "Large-scale data for multiple-view stereopsis",
    IJCV 2016, section 4; Jensen et al., CVPR 2014. Raises ``InputError`` for invalid arguments, ``GeometryError`` where
    nothing is left to judge.
    """
    cloud, true = rows.points("points", found), rows.points("reference points", reference)
    if spacing > 0:
        cloud = thinned(cloud, spacing)
    judged = np.ones(len(cloud), bool) if observed is None else observed.contains(cloud)
    above = np.ones(len(true), bool) if plane is None else _above(true, plane)
    for name, kept in (("points in the observed volume", judged), ("reference points above the plane", above)):
        if not kept.any():
            raise GeometryError(f"0 of {len(kept)} {name}; both clouds must be in the same frame and unit")
    there, back = (distances(*each, limit=DTU_LIMIT) for each in ((cloud[judged], true), (true[above], cloud)))
    return _summary(there, back, DTU_LIMIT)


def thinned(points: ArrayLike, spacing: float, seed: int = 0) -> Array:
    """A maximal subset of the points (N, 3), in random order, no two closer than ``spacing``.

    Points are taken one after another unless one already taken is closer than the spacing. Raises ``InputError``.
    """
    x = rows.points("points", points)
    if not (np.isfinite(spacing) and spacing > 0):
        raise InputError(f"spacing {spacing} must be a positive length")
    waiting = x[np.random.default_rng(seed).permutation(len(x))]
    kept = waiting[:0]
    size = _FIRST_BATCH
    while len(waiting):
        batch, waiting = waiting[:size], waiting[size:]
        if len(kept):
            batch = batch[cKDTree(kept).query(batch, distance_upper_bound=spacing)[0] >= spacing]
        kept = np.concatenate([kept, batch[_first_of_neighbours(batch, spacing)]])
        size *= 2
    return kept


def _first_of_neighbours(points: Array, spacing: float) -> NDArray[np.bool_]:
    """(N,) which points are taken, going through them in order."""
    taken = np.ones(len(points), bool)
    if len(points) < 2:
        return taken
    near = cKDTree(points).query_pairs(spacing, output_type="ndarray")
    near = near[np.linalg.norm(points[near[:, 0]] - points[near[:, 1]], axis=1) < spacing]
    if len(near) == 0:
        return taken
    near = near[np.lexsort((near[:, 0], near[:, 1]))]
    later, start = np.unique(near[:, 1], return_index=True)
    for index, earlier in zip(later, np.split(near[:, 0], start[1:]), strict=True):
        taken[index] = not taken[earlier].any()
    return taken


def _above(points: Array, plane: ArrayLike) -> NDArray[np.bool_]:
    p = np.asarray(plane, np.float64).ravel()
    if p.shape != (4,) or not np.isfinite(p).all() or not p[:3].any():
        raise InputError(f"plane {p.tolist()} must be four finite numbers (n, d) with a normal that is not 0")
    return points @ p[:3] + p[3] > 0


def _summary(to_reference: Array, to_found: Array, limit: float) -> CloudErrors:
    near, reached = to_reference[to_reference < limit], to_found[to_found < limit]
    if len(near) == 0 or len(reached) == 0:
        raise GeometryError(
            f"none of {len(to_reference)} points is within {limit:g} of the reference, and what is further is not "
            "counted: nothing is left; both must be in the same frame and unit"
        )
    return CloudErrors(float(near.mean()), float(reached.mean()), float(np.median(near)), float(np.median(reached)))
