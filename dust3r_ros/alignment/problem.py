"""The input of a global alignment, checked once at its door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.types import Array, Array32, PairPrediction

MIN_CONFIDENT = 3  # confident pixels of each view that a pair needs
_MAX_SHEAR = 1e-3  # how far a given rotation may be from orthogonal
_NAMED = 8  # images listed in a message at most


@dataclass(frozen=True, eq=False)
class Problem:
    """``pairs`` with finite points throughout, over ``shapes``: (H, W) of images 0 to N - 1.

    ``cameras`` (N,) int, ``focals`` (N,) pixels and ``poses`` (N, 4, 4), NaN where unknown; None for not given.
    """

    pairs: list[PairPrediction]
    shapes: list[tuple[int, int]]
    cameras: NDArray[np.int64] | None = None
    focals: Array | None = None
    poses: Array | None = None


def check_problem(
    pairs: Sequence[PairPrediction],
    cameras: ArrayLike | None = None,
    focals: ArrayLike | None = None,
    poses: ArrayLike | None = None,
) -> Problem:
    """The problem, or the reason why it is none.

    Points that are not finite become 0 where their confidence is 1. Raises ``InputError`` and
    ``GeometryError`` as ``alignment.align`` says.
    """
    pairs = [_clean(pair) for pair in pairs]
    shapes = image_shapes(pairs)
    _check_connected(pairs, len(shapes))
    for pair in pairs:
        _check_informative(pair)
    ids = _cameras(cameras, shapes)
    return Problem(pairs, shapes, ids, _focals(focals, ids, len(shapes)), _poses(poses, len(shapes)))


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
            + (f" but not {_listed(missing)}" if missing else "")
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
        members = [_listed(np.flatnonzero(part == index).tolist()) for index in range(min(parts, 3))]
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


def _cameras(cameras: ArrayLike | None, shapes: list[tuple[int, int]]) -> NDArray[np.int64] | None:
    if cameras is None:
        return None
    ids = np.asarray(cameras)
    if ids.shape != (len(shapes),) or ids.dtype.kind not in "iu":
        raise InputError(
            f"'cameras' is {ids.dtype} {ids.shape}; it must hold {len(shapes)} integers, one for each image"
        )
    for camera in np.unique(ids):
        sizes = {shapes[image] for image in np.flatnonzero(ids == camera)}
        if len(sizes) > 1:
            raise InputError(
                f"images of camera {camera} have sizes {sorted(sizes)} (H, W); a shared focal needs one size"
            )
    return ids.astype(np.int64)


def _focals(focals: ArrayLike | None, cameras: NDArray[np.int64] | None, images: int) -> Array | None:
    """The focals, where one is given for all images of its camera."""
    if focals is None:
        return None
    f = np.asarray(focals, dtype=np.float64)
    if f.shape != (images,):
        raise InputError(f"'focals' has shape {f.shape}; it must be ({images},), one for each image")
    if not np.all(np.isnan(f) | ((f > 0) & (f < np.inf))):
        raise InputError(f"'focals' has {f[~(f > 0) | np.isinf(f)][0]:g}; a focal must be positive, or NaN for unknown")
    for camera in [] if cameras is None else np.unique(cameras):
        given = np.unique(f[(cameras == camera) & ~np.isnan(f)])
        if len(given) > 1:
            raise InputError(f"'focals' has {_listed(given.tolist())} for camera {camera}; one camera has one focal")
        if len(given):
            f = np.where(cameras == camera, given[0], f)
    return f


def _poses(poses: ArrayLike | None, images: int) -> Array | None:
    if poses is None:
        return None
    T = np.asarray(poses, dtype=np.float64)
    if T.shape != (images, 4, 4):
        raise InputError(f"'poses' has shape {T.shape}; it must be ({images}, 4, 4), one for each image")
    for image, w_T_c in enumerate(T):
        if np.isnan(w_T_c).all():
            continue
        if not np.isfinite(w_T_c).all():
            raise InputError(f"the pose of image {image} is not finite; unknown poses must be NaN throughout")
        R, last = w_T_c[:3, :3], w_T_c[3]
        determinant = float(np.linalg.det(R))
        if np.abs(R @ R.T - np.eye(3)).max() > _MAX_SHEAR or determinant < 0 or not np.allclose(last, [0, 0, 0, 1]):
            raise InputError(
                f"the pose of image {image} is not a rigid motion: rotation with determinant {determinant:.4g}, "
                f"last row {last.tolist()}"
            )
    return T


def _listed(images: Sequence[int]) -> str:
    shown = ", ".join(str(image) for image in images[:_NAMED])
    return shown + (f", ... ({len(images)})" if len(images) > _NAMED else "")
