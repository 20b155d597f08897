"""Whether as many matches as agree with a model could do so by chance."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import gammaln

from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.types import Array

_POSE_SAMPLE = 3  # matches that determine a pose; one more if the focal is to be found, too


def log_false_alarms(matches: int, inliers: int, sample: int, chance: float) -> float:
    """Base 10 logarithm of how many models with ``inliers`` of ``matches`` unrelated matches are to be expected.

    Of all models that ``sample`` matches determine; another match agrees with one by ``chance`` (0 to 1).
    It is the number of false alarms of Moisan and Stival, "A probabilistic criterion to detect rigid
    point matches between two images", IJCV 2004. Infinite for ``inliers`` up to ``sample``.
    """
    if inliers <= sample or matches <= sample:
        return float("inf")
    models = np.log(matches - sample) + _log_choose(matches, inliers) + _log_choose(inliers, sample)
    return float((models + (inliers - sample) * np.log(chance)) / np.log(10.0))


def pose_log_false_alarms(found: PnpResult, points_world: Array, pixels: Array, threshold_px: float) -> float:
    """``log_false_alarms`` of a pose from 2D-3D matches (N, 3), (N, 2); pixels from the principal point.

    What chance does is told by the matches themselves: how often one's pixel is within ``threshold_px``
    of where another one's point is seen. Where all lie close together, that is often.
    """
    in_camera = transform(invert(found.w_T_c), points_world)
    expected = project(in_camera[in_camera[:, 2] > 0], found.focal, (0.0, 0.0))
    matches, inliers = len(pixels), int(found.inliers.sum())
    near = cKDTree(expected).count_neighbors(cKDTree(pixels), threshold_px) - inliers
    chance = max(int(near), 1) / max(matches * (matches - 1), 1)
    return log_false_alarms(matches, inliers, _POSE_SAMPLE + (found.focal_std > 0), chance)


def by_chance(found: PnpResult, points_world: Array, pixels: Array, threshold_px: float) -> bool:
    """Whether unrelated matches give such a pose in every image, or more of them."""
    return pose_log_false_alarms(found, points_world, pixels, threshold_px) >= 0.0


def _log_choose(n: int, k: int) -> float:
    return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
