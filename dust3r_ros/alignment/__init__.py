"""From pointmaps of pairs to one world: global alignment, the growing sparse map, depth and clouds."""

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
    """Poses, focals and depths of N images from predictions of their pairs.

    ``pairs`` name the images 0 to N - 1 and connect all of them. ``method``: "moments" (closed
    forms over 28 numbers a pair) or "gradient" (the published scheme: Adam over every pixel; needs
    torch). ``cameras`` (N,) integers: images of the same number share one focal.

    What is known is held: ``focals`` (N,) pixels, ``poses`` (N, 4, 4) ``w_T_c`` and ``depths``, N maps
    (H, W) of z in the camera in the unit of the poses, wherever they are finite (depths: positive); NaN or None
    says unknown. With "moments" it is weighed instead where its deviation is given: ``focal_std``, one
    number or (N,) pixels; ``pose_covariance`` (6, 6) or (N, 6, 6) of rotation vector (rad) and translation in the
    camera's own frame; ``depth_std``, one number, N numbers or N maps, in the unit of depth. 0 holds. A view of a
    pair counts as 16 independent measurements beside them (``priors.INDEPENDENT``). Poses at two places or
    depths fix the scale.

    Points without confidence (C = 1) may be anything. Raises ``ConfigError`` for an unknown method and for
    deviations or depths with "gradient", ``BackendError`` for "gradient" without torch, ``InputError``
    for arrays that are not what they should be (each says which, and its numbers), ``GeometryError`` for images
    that the pairs do not connect (``parts.align_parts`` aligns each part) and pairs that say nothing.
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
            f"alignment method 'gradient' knows no {' and no '.join(named)}; it holds focals and poses, "
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
