"""From the pointmaps of image pairs to one world: global and incremental alignment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dust3r_ros.alignment.batch.problem import AlignmentProblem, check_problem, given_focals
from dust3r_ros.alignment.objective import Alignment, EdgeReport
from dust3r_ros.errors import BackendError, ConfigError, InputError
from dust3r_ros.types import PairPrediction

__all__ = ["Alignment", "EdgeReport", "Part", "align", "align_parts"]

METHODS = ("moments", "gradient")

# Arguments with a value for each image.
_PER_IMAGE = ("cameras", "focals", "focal_std", "poses", "pose_covariance", "depths", "depth_std")
_SHAPE_OF_ONE = {"focal_std": (), "pose_covariance": (6, 6), "depth_std": ()}  # of a value that holds for all images


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
    do not connect (``align_parts`` aligns each part) and for pairs without information.
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


@dataclass(frozen=True, eq=False)
class Part:
    """``images`` (K,), ascending: their numbers in the given pairs; image k of ``alignment`` is ``images[k]``.
    ``pairs``: positions of its pairs among the given ones, in the order of ``alignment.edges``.
    """

    images: tuple[int, ...]
    pairs: tuple[int, ...]
    alignment: Alignment


def align_parts(pairs: Sequence[PairPrediction], **known: Any) -> list[Part]:
    """Align every connected part of the pair graph in its own world and scale; the largest comes first.

    ``known``: arguments of ``align``, by image number. An image in no pair is in no part. Raises what
    ``align`` raises for a part, and ``InputError`` for no pairs.
    """
    if not pairs:
        raise InputError("an alignment needs at least one pair, not 0")
    known, found = _shared(known), []
    for own in _connected(pairs):
        number = {image: k for k, image in enumerate(own)}
        its = [position for position, pair in enumerate(pairs) if pair.first in number]
        renamed = [replace(p, first=number[p.first], second=number[p.second]) for p in (pairs[i] for i in its)]
        found.append(Part(tuple(own), tuple(its), align(renamed, **_of_images(known, own))))
    return found


def _connected(pairs: Sequence[PairPrediction]) -> list[list[int]]:
    """Images of every connected part, ascending; the largest part first."""
    first, second = (np.array([getattr(pair, name) for pair in pairs]) for name in ("first", "second"))
    images, index = np.unique(np.concatenate([first, second]), return_inverse=True)
    graph = coo_array((np.ones(len(pairs)), tuple(index.reshape(2, -1))), shape=(len(images),) * 2)
    count, label = connected_components(graph, directed=False)
    members = [images[label == part].tolist() for part in range(count)]
    return sorted(members, key=lambda images: (-len(images), images))


def _shared(known: dict[str, Any]) -> dict[str, Any]:
    """The arguments with each given focal at all images of its camera, which may be in several parts."""
    focals, cameras = known.get("focals"), known.get("cameras")
    if focals is None or cameras is None or np.shape(focals) != np.shape(cameras):
        return known
    return known | {"focals": given_focals(focals, np.asarray(cameras), len(focals))}


def _of_images(known: dict[str, Any], images: list[int]) -> dict[str, Any]:
    """The arguments restricted to some of the images."""
    chosen = {}
    for name, value in known.items():
        if name in _PER_IMAGE and value is not None and not _is_one(name, value):
            if len(value) <= max(images):
                raise InputError(f"'{name}' has {len(value)} entries; the pairs name image {max(images)}")
            value = [value[image] for image in images]
        chosen[name] = value
    return chosen


def _is_one(name: str, value: Any) -> bool:
    """Whether one value holds for all images."""
    return name in _SHAPE_OF_ONE and not isinstance(value, list | tuple) and np.shape(value) == _SHAPE_OF_ONE[name]
