"""Poses of frames in a map that pointmaps carry, by corners whose depth is known."""

from __future__ import annotations

import numpy as np

from dust3r_ros.alignment.sparse_view import Focal
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pose import PnpResult, solve_pnp, solve_pnp_unknown_focal
from dust3r_ros.geometry.significance import by_chance
from dust3r_ros.localising import _MIN_INLIERS
from dust3r_ros.types import Array

_MAX_ERROR_PX = 4.0
_VAGUE = 0.1  # relative standard deviation of a focal that tells nothing


def locate_corners(
    points: Array, pixels: Array, focal: Focal, long_edge: int, config: MapperConfig, near: Array | None = None
) -> PnpResult | None:
    """Pose of a frame that sees ``points`` (N, 3) at ``pixels`` (N, 2) from its middle, NaN where nobody knows.

    None when as few agree as may by chance. A ``focal`` of which nothing is known is found with the pose;
    ``near`` (4, 4): a guess.
    """
    known = np.isfinite(points[:, 0])
    points, pixels = points[known], pixels[known]
    guessed = not focal.given and not np.isfinite(focal.std)
    try:
        if guessed:
            found = solve_pnp_unknown_focal(
                points,
                pixels,
                long_edge,
                long_edge,
                center=(0.0, 0.0),
                threshold_px=_MAX_ERROR_PX,
                min_inliers=max(config.track_min_inliers, _MIN_INLIERS),
                seed=config.seed,
            )
        else:
            found = solve_pnp(
                points,
                pixels,
                focal.value,
                (0.0, 0.0),
                threshold_px=_MAX_ERROR_PX,
                min_inliers=config.track_min_inliers,
                seed=config.seed,
                near=near,
            )
    except GeometryError:
        return None
    vague = guessed and not found.focal_std < _VAGUE * found.focal
    return None if vague or by_chance(found, points, pixels, _MAX_ERROR_PX) else found
