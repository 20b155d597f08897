"""Refining where a cloud lies before it is judged: iterative closest points."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.protocols import checks
from dust3r_ros.geometry.similarity import Similarity, weighted_similarity

_SETTLED = 1e-4  # relative fall of the mean distance


def refine_alignment(
    found: ArrayLike,
    reference: ArrayLike,
    *,
    max_distance: float,
    with_scale: bool = False,
    iterations: int = 50,
    points: int = 20_000,
    seed: int = 0,
) -> Similarity:
    """``reference_S_found`` that brings a cloud (M, 3), already close, onto the reference (N, 3).

    Point-to-point ICP (Besl and McKay, PAMI 1992): nearest neighbours no further than ``max_distance`` (the
    clouds' unit) pull, until their mean distance settles. At most ``points`` of the cloud take part, drawn by
    ``seed``. ``with_scale`` lets the scale go as well. Raises ``InputError``, and ``GeometryError`` where fewer
    than 3 are near.
    """
    a, b = checks.points("points", found, 3), checks.points("reference points", reference, 3)
    if not max_distance > 0:
        raise InputError(f"max_distance {max_distance} must be a positive length")
    if len(a) > points:
        a = a[np.random.default_rng(seed).choice(len(a), points, replace=False)]
    tree, best, before = cKDTree(b), Similarity.identity(), np.inf
    for _ in range(iterations):
        apart, index = tree.query(best.apply(a), distance_upper_bound=max_distance)
        near = np.isfinite(apart)
        if near.sum() < 3:
            raise GeometryError(
                f"{near.sum()} of {len(a)} points are within {max_distance:g} of the reference; ICP needs at least 3"
            )
        # What is out of reach counts as just out of reach, or shedding points would look like progress.
        mean = float(np.minimum(apart, max_distance).mean())
        if before - mean <= _SETTLED * before and np.isfinite(before):
            break
        before = mean
        best = weighted_similarity(a[near], b[index[near]], with_scale=with_scale)
    return best
