"""From pointmaps of pairs to one world: global alignment, the growing sparse map, depth and clouds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from numpy.typing import ArrayLike

from dust3r_ros.alignment.problem import check_problem
from dust3r_ros.alignment.result import Alignment, EdgeReport
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
    poses: ArrayLike | None = None,
) -> Alignment:
    """Poses, focals and depths of N images from predictions of their pairs.

    ``pairs`` name the images 0 to N - 1 and connect all of them. ``method``: "moments" (closed
    forms over 28 numbers a pair) or "gradient" (the published scheme: Adam over every pixel; needs
    torch). ``cameras`` (N,) integers: images of the same number share one focal. ``focals`` (N,)
    pixels and ``poses`` (N, 4, 4) ``w_T_c`` are held where they are finite; NaN says unknown.

    Points without confidence (C = 1) may be anything. Raises ``ConfigError`` for an unknown method,
    ``BackendError`` for "gradient" without torch, ``InputError`` for arrays that are not what
    they should be (each says which, and its numbers), ``GeometryError`` for images that the pairs
    do not connect and pairs that say nothing.
    """
    if method not in METHODS:
        raise ConfigError(f"alignment method {method!r} is unknown; it must be one of {', '.join(METHODS)}")
    problem = check_problem(pairs, cameras, focals, poses)
    solve = _gradient() if method == "gradient" else _moments()
    return solve(problem.pairs, problem.cameras, problem.focals, problem.poses)


def _moments() -> Callable[..., Alignment]:
    from dust3r_ros.alignment.global_moments import align_moments

    return align_moments


def _gradient() -> Callable[..., Alignment]:
    try:
        from dust3r_ros.alignment.gradient import align_gradient
    except ImportError as error:
        raise BackendError(
            "alignment method 'gradient' needs torch, which is not installed; pip install 'dust3r_ros[network]' "
            "or use method 'moments'"
        ) from error
    return align_gradient
