"""The input of a global alignment, checked once at its door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dust3r_ros.alignment.given import (
    given_cameras,
    given_covariance,
    given_depth_std,
    given_depths,
    given_focal_std,
    given_focals,
    given_poses,
    listed,
)
from dust3r_ros.alignment.thread_pool import each
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.types import Array, Array32, PairPrediction

MIN_CONFIDENT = 3  # confident pixels of each view that a pair needs


@dataclass(frozen=True, eq=False)
class Problem:
    """``pairs`` with finite points throughout, over ``shapes``: (H, W) of images 0 to N - 1.

    ``cameras`` (N,) int, ``focals`` (N,) pixels and ``poses`` (N, 4, 4), NaN where unknown, ``depths`` N maps
    (H, W), 0 where unknown; None for not given. ``focal_std`` (N,), ``pose_covariance`` (N, 6, 6) and ``depth_std``
    N maps: how well each is known, 0 for what is held; None where all of them are.
    """

    pairs: list[PairPrediction]
    shapes: list[tuple[int, int]]
    cameras: NDArray[np.int64] | None = None
    focals: Array | None = None
    poses: Array | None = None
    depths: list[Array32] | None = None
    focal_std: Array | None = None
    pose_covariance: Array | None = None
    depth_std: list[Array32] | None = None

    @property
    def soft(self) -> list[str]:
        """Names of what is given with a deviation."""
        return [name for name in ("focal_std", "pose_covariance", "depth_std") if getattr(self, name) is not None]


def check_problem(
    pairs: Sequence[PairPrediction],
    cameras: ArrayLike | None = None,
    focals: ArrayLike | None = None,
    poses: ArrayLike | None = None,
    depths: Sequence[ArrayLike | None] | None = None,
    *,
    focal_std: ArrayLike | None = None,
    pose_covariance: ArrayLike | None = None,
    depth_std: ArrayLike | Sequence[ArrayLike | None] | None = None,
) -> Problem:
    """The problem, or the reason why it is none.

    Points that are not finite become 0 where their confidence is 1. Raises ``InputError`` and
    ``GeometryError`` as ``alignment.align`` says.
    """
    pairs = each(_clean, list(pairs))
    shapes = image_shapes(pairs)
    _check_connected(pairs, len(shapes))
    each(_check_informative, pairs)
    ids = given_cameras(cameras, shapes)
    f, T, z = given_focals(focals, ids, len(shapes)), given_poses(poses, len(shapes)), given_depths(depths, shapes)
    return Problem(
        pairs,
        shapes,
        ids,
        f,
        T,
        z,
        given_focal_std(focal_std, f),
        given_covariance(pose_covariance, T),
        given_depth_std(depth_std, z),
    )


def image_shapes(pairs: Sequence[PairPrediction]) -> list[tuple[int, int]]:
    """(H, W) of images 0 to N - 1; raises ``InputError`` for indices that leave gaps and sizes that contradict."""
    if not pairs:
        raise InputError("an alignment needs at least one pair of two images, not 0 pairs")
    shapes: dict[int, tuple[int, int]] = {}
    for pair in pairs:
        if pair.first == pair.second:
            raise InputError(f"pair ({pair.first}, {pair.second}) is one image with itself; an alignment needs two")
        views = ((pair.first, pair.confidence_first), (pair.second, pair.confidence_second))
        for image, confidence in views:
            height, width = confidence.shape
            if shapes.setdefault(image, (height, width)) != (height, width):
                raise InputError(
                    f"image {image} is {width}x{height} in pair ({pair.first}, {pair.second}) and "
                    f"{shapes[image][1]}x{shapes[image][0]} in another; it must have one size"
                )
    missing = sorted(set(range(max(shapes) + 1)) - set(shapes))
    if missing or min(shapes) < 0:
        raise InputError(
            f"the pairs name {len(shapes)} images from {min(shapes)} to {max(shapes)}"
            + (f" but not {listed(missing)}" if missing else "")
            + "; images must be numbered from 0 without gaps"
        )
    return [shapes[image] for image in range(len(shapes))]


def _clean(pair: PairPrediction) -> PairPrediction:
    """The pair in float32 with finite points; raises ``InputError`` for arrays that are no pointmaps."""
    name = f"pair ({pair.first}, {pair.second})"
    first = _clean_view(f"{name}, first view,", pair.points_first, pair.confidence_first)
    second = _clean_view(f"{name}, second view,", pair.points_second, pair.confidence_second)
    return replace(
        pair,
        first=int(pair.first),
        second=int(pair.second),
        points_first=first[0],
        confidence_first=first[1],
        points_second=second[0],
        confidence_second=second[1],
    )


def _clean_view(name: str, points: ArrayLike, confidence: ArrayLike) -> tuple[Array32, Array32]:
    X, C = np.asarray(points, np.float32), np.asarray(confidence, np.float32)
    if X.ndim != 3 or X.shape[2] != 3 or C.shape != X.shape[:2] or C.size == 0:
        raise InputError(f"{name} has points {X.shape} and confidence {C.shape}; they must be (H, W, 3) and (H, W)")
    if not C.min() >= 1.0 or not C.max() < np.inf:
        bad = ~(np.isfinite(C) & (C >= 1.0))
        raise InputError(
            f"{name} has {bad.sum()} of {C.size} confidences below 1 or not finite, such as {C[bad][0]:g}; "
            "1 says that nothing is known"
        )
    # One pass without a mask as large as the points; only where it ends in no number, look closer.
    if not np.isfinite(np.dot(X.ravel(), X.ravel())):
        broken = np.logical_not(np.all(np.isfinite(X), axis=2, keepdims=True))
        confident = np.count_nonzero(broken[..., 0] & (C > 1.0))
        if confident:
            raise InputError(
                f"{name} has {confident} of {C.size} points that are not finite but have confidence "
                "above 1; points without a value need confidence 1"
            )
        X = np.where(broken, np.float32(0), X)
    return X, C


def _check_connected(pairs: Sequence[PairPrediction], images: int) -> None:
    first, second = ([getattr(pair, name) for pair in pairs] for name in ("first", "second"))
    graph = coo_array((np.ones(len(pairs)), (first, second)), shape=(images, images))
    parts, part = connected_components(graph, directed=False)
    if parts > 1:
        members = [listed(np.flatnonzero(part == index).tolist()) for index in range(min(parts, 3))]
        raise GeometryError(
            f"{len(pairs)} pairs leave {images} images in {parts} parts without a pair between them: "
            + " | ".join(members)
            + (" | ..." if parts > 3 else "")
            + "; align each part for itself"
        )


def _check_informative(pair: PairPrediction) -> None:
    views = (("first", pair.confidence_first), ("second", pair.confidence_second))
    for name, confidence in views:
        confident = int(np.count_nonzero(confidence > 1.0))
        if confident < MIN_CONFIDENT:
            raise GeometryError(
                f"pair ({pair.first}, {pair.second}) says nothing: {confident} of {confidence.size} pixels of its "
                f"{name} view have confidence above 1; leave it out"
            )
