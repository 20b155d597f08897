"""From the pointmaps of image pairs to one world: global and incremental alignment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from numpy.typing import ArrayLike

from dust3r_ros.alignment.batch.problem import AlignmentProblem, check_problem
from dust3r_ros.alignment.objective import Alignment, EdgeReport
from dust3r_ros.errors import BackendError, ConfigError
from dust3r_ros.types import PairPrediction

__all__ = ["Alignment", "EdgeReport", "align"]

METHODS = ("moments", "gradient")


def align(
    pairs: Sequence[PairPrediction],
    *,
    method: str = "moments",
    cameras: ArrayLike | None = None,
    focals: ArrayLike | None = None,
    focal_std: ArrayLike | None = None,
    poses: ArrayLike | None = None,
    pose_covariance: ArrayLike | None = None,
    depths: Sequence[ArrayLike | None] | None = None,
    depth_std: ArrayLike | Sequence[ArrayLike | None] | None = None,
) -> Alignment:
    """Poses, focals and depths of N images from the predictions of their pairs.

    ``pairs`` name the images 0 to N - 1 and must connect them all. ``method``: "moments" (closed
    forms over 28 numbers a pair) or "gradient" (the published scheme: Adam over every pixel; needs
    torch). ``cameras`` (N,) integers: images of the same number share one focal.

    Known values are held fixed: ``focals`` (N,) pixels, ``poses`` (N, 4, 4) ``w_T_c`` and ``depths``, N maps
    (H, W) of z in the camera in the unit of the poses, wherever they are finite (depths: positive); NaN or None
    means unknown. With "moments" a value given with a deviation is weighted instead: ``focal_std``, one
    number or (N,) pixels; ``pose_covariance`` (6, 6) or (N, 6, 6) of rotation vector (rad) and translation in the
    camera's own frame; ``depth_std``, one number, N numbers or N maps, in the unit of depth. A deviation of 0 holds
    the value. Against these, a view of a pair counts as 16 independent measurements (``priors.INDEPENDENT``). Poses
    at two places, or depths, fix the scale.

    Points without confidence (C = 1) may be anything. Raises ``ConfigError`` for an unknown method and for
    deviations or depths with "gradient", ``BackendError`` for "gradient" without torch, ``InputError``
    for malformed arrays (the message names the array and its values), ``GeometryError`` for images that the pairs
    do not connect (``components.align_parts`` aligns each part) and for pairs without information.
    """
    if method not in METHODS:
        raise ConfigError(f"alignment method {method!r} is unknown; it must be one of {', '.join(METHODS)}")
    problem = check_problem(
        pairs,
        cameras,
        focals,
        poses,
        depths,
        focal_std=focal_std,
        pose_covariance=pose_covariance,
        depth_std=depth_std,
    )
    solve = _gradient(problem) if method == "gradient" else _moments()
    return solve(problem)


def _moments() -> Callable[[AlignmentProblem], Alignment]:
    from dust3r_ros.alignment.batch.global_moments import align_moments

    return align_moments


def _gradient(problem: AlignmentProblem) -> Callable[[AlignmentProblem], Alignment]:
    named = problem.soft + ["depths"] * (problem.depths is not None)
    if named:
        raise ConfigError(
            f"alignment method 'gradient' does not accept {' or '.join(named)}; it holds focals and poses, "
            "method 'moments' takes all of it"
        )
    try:
        from dust3r_ros.alignment.batch.gradient import align_gradient
    except ImportError as error:
        raise BackendError(
            "alignment method 'gradient' needs torch, which is not installed; pip install 'dust3r_ros[network]' "
            "or use method 'moments'"
        ) from error
    return lambda problem: align_gradient(problem.pairs, problem.cameras, problem.focals, problem.poses)
