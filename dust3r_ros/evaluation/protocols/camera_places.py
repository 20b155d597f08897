"""Visual localisation: how far the places and directions of cameras are off, their medians and recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.protocols import checks
from dust3r_ros.evaluation.protocols.pose_pairs import rotation_angles
from dust3r_ros.types import Array

# (metres, degrees): what 7-Scenes counts, then the three of the long-term localisation benchmark.
THRESHOLDS = ((0.05, 5.0), (0.25, 2.0), (0.5, 5.0), (5.0, 10.0))


@dataclass(frozen=True)
class Localisation:
    """Over ``queries`` images: medians (infinite when at most half were found), ``recall`` {(m, deg): percent}
    within both thresholds, ``found`` percent that got a pose at all.
    """

    median_cm: float
    median_deg: float
    recall: dict[tuple[float, float], float]
    found: float
    queries: int


def place_errors(true: ArrayLike, found: Sequence[ArrayLike | None]) -> tuple[Array, Array]:
    """(metres (N,), degrees (N,)) of poses ``w_T_c``: distance of camera centres, angle between orientations.

    ``true`` (N, 4, 4) in metres; ``found`` N poses in the same frame, None for an image that was not found: both
    its errors are infinite. Exactly 0 for equal poses. Raises ``InputError``.
    """
    T = checks.poses("true poses", true)
    checks.same_count("poses", T, found)  # type: ignore[arg-type]
    metres, degrees = np.full((2, len(T)), np.inf)
    known = [index for index, pose in enumerate(found) if pose is not None]
    if known:
        F = checks.poses("found poses", np.array([found[index] for index in known], dtype=np.float64))
        metres[known] = np.linalg.norm(T[known, :3, 3] - F[:, :3, 3], axis=1)
        degrees[known] = rotation_angles(T[known, :3, :3], F[:, :3, :3])
    return metres, degrees


def localisation(
    metres: ArrayLike, degrees: ArrayLike, thresholds: Sequence[tuple[float, float]] = THRESHOLDS
) -> Localisation:
    """Medians over all images, those that were not found (infinite) among them, and recall at thresholds.

    Median cm and degrees as of Kendall et al., "PoseNet", ICCV 2015; recall within (m, deg), both, as of
    Shotton et al., CVPR 2013 (5 cm, 5 deg) and Sattler et al., CVPR 2018. Raises ``InputError``.
    """
    far, turned = checks.errors("position errors", metres), checks.errors("rotation errors", degrees)
    checks.same_count("errors of images", far, turned)
    for limit in thresholds:
        if not min(limit) > 0:
            raise InputError(f"threshold {limit} (m, deg) must be positive")
    return Localisation(
        median_cm=100.0 * _median(far),
        median_deg=_median(turned),
        recall={(m, deg): 100.0 * float(np.mean((far <= m) & (turned <= deg))) for m, deg in thresholds},
        found=100.0 * float(np.mean(np.isfinite(far))),
        queries=len(far),
    )


def _median(values: Array) -> float:
    """The median; the mean of the two in the middle is infinite where one is."""
    ordered = np.sort(values)
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    return float(middle.mean())
