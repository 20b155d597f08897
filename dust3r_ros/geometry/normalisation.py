"""The unit of length of a pair of pointmaps: mean distance of all valid points to the origin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import GeometryError
from dust3r_ros.types import Array


def norm_factor(
    points_first: NDArray[np.floating],
    points_second: NDArray[np.floating],
    valid_first: NDArray[np.bool_] | None = None,
    valid_second: NDArray[np.bool_] | None = None,
) -> Array:
    """z = mean of |X| over the valid points of both views, (..., 1, 1, 1): one for each pair.

    ``points_*`` (..., H, W, 3), both in the frame of the first camera, ``valid_*`` (..., H, W) (all
    valid by default). DUSt3R, eq. 3. Raises ``GeometryError`` for a pair with no valid point,
    with a valid one that is not finite, or with all of them at the origin.
    """
    total, count = np.zeros(points_first.shape[:-3]), np.zeros(points_first.shape[:-3])
    for points, valid in ((points_first, valid_first), (points_second, valid_second)):
        mask = np.ones(points.shape[:-1], bool) if valid is None else valid
        # masked before the norm: what is invalid may hold anything, NaN included
        distances = np.linalg.norm(np.where(mask[..., None], points, 0.0).astype(np.float64), axis=-1)
        total = total + distances.sum(axis=(-2, -1))
        count = count + mask.sum(axis=(-2, -1))
    bad = ~((count > 0) & np.isfinite(total) & (total > 0))
    if bad.any():
        raise GeometryError(
            f"{bad.sum()} of {bad.size} pairs have no scale: they hold {np.min(count[bad]):.0f} or more valid points, "
            f"whose distances add up to {np.min(total[bad]):.3g}; that sum must be positive and finite."
        )
    return (total / count)[..., None, None, None]


def normalise_pair(
    points_first: NDArray[np.floating],
    points_second: NDArray[np.floating],
    valid_first: NDArray[np.bool_] | None = None,
    valid_second: NDArray[np.bool_] | None = None,
) -> tuple[Array, Array, Array]:
    """Both pointmaps divided by their ``norm_factor``, and that factor; arguments and errors as there."""
    factor = norm_factor(points_first, points_second, valid_first, valid_second)
    return points_first / factor, points_second / factor, factor
