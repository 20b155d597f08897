"""The input of a global alignment, checked once on entry: pairs, and what else is known of the scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.geometry.processes import each
from dust3r_ros.geometry.rigid import is_rotation
from dust3r_ros.types import Array, Array32, PairPrediction

_NAMED = 8  # largest number of images listed in a message


def given_cameras(cameras: ArrayLike | None, shapes: list[tuple[int, int]]) -> NDArray[np.int64] | None:
    """(N,) as int64."""
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
                f"images of camera {camera} have sizes {sorted(sizes)} (H, W); a shared focal needs images of one size"
            )
    return ids.astype(np.int64)


def given_focals(focals: ArrayLike | None, cameras: NDArray[np.int64] | None, images: int) -> Array | None:
    """(N,) focals; one given for any image of a camera holds for all of them."""
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
            raise InputError(f"'focals' has {listed(given.tolist())} for camera {camera}; one camera has one focal")
        if len(given):
            f = np.where(cameras == camera, given[0], f)
    return f


def given_poses(poses: ArrayLike | None, images: int) -> Array | None:
    """(N, 4, 4), NaN throughout where unknown."""
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
        if not is_rotation(R) or not np.allclose(last, [0, 0, 0, 1]):
            raise InputError(
                f"the pose of image {image} is not a rigid motion: rotation with determinant {np.linalg.det(R):.4g}, "
                f"last row {last.tolist()}"
            )
    return T


def given_depths(depths: Sequence[ArrayLike | None] | None, shapes: list[tuple[int, int]]) -> list[Array32] | None:
    """N maps (H, W), 0 where unknown."""
    if depths is None:
        return None
    if len(depths) != len(shapes):
        raise InputError(f"'depths' has {len(depths)} maps; it must have {len(shapes)}, one for each image, or None")
    found = []
    for image, (depth, shape) in enumerate(zip(depths, shapes, strict=True)):
        z = np.zeros(shape, np.float32) if depth is None else np.asarray(depth, np.float32)
        if z.shape != shape:
            raise InputError(f"the depth of image {image} has shape {z.shape}; it must be {shape}, as in its pairs")
        z = np.where(np.isnan(z), np.float32(0), z)
        if not (z.min() >= 0 and z.max() < np.inf):
            raise InputError(
                f"the depth of image {image} ranges from {z.min():g} to {z.max():g}; it must be positive, "
                "or 0 or NaN for unknown"
            )
        found.append(z)
    return found


def given_focal_std(std: ArrayLike | None, focals: Array | None) -> Array | None:
    """(N,) pixels, 0 where the focal is held or unknown."""
    if std is None:
        return None
    if focals is None:
        raise InputError("'focal_std' is given without 'focals'; it must come with them")
    s = np.asarray(std, np.float64)
    if s.shape not in ((), focals.shape):
        raise InputError(
            f"'focal_std' has shape {s.shape}; it must be one number or {focals.shape}, one for each image"
        )
    s = np.where(np.isnan(focals), 0.0, s)
    if not np.all((s >= 0) & (s < np.inf)):
        raise InputError(
            f"'focal_std' has {s[~((s >= 0) & (s < np.inf))][0]:g}; it must be 0 (held) or positive, finite"
        )
    return s if s.any() else None


def given_covariance(covariance: ArrayLike | None, poses: Array | None) -> Array | None:
    """(N, 6, 6), 0 throughout where the pose is held or unknown."""
    if covariance is None:
        return None
    if poses is None:
        raise InputError("'pose_covariance' is given without 'poses'; it must come with them")
    V, images = np.asarray(covariance, np.float64), len(poses)
    if V.shape not in ((6, 6), (images, 6, 6)):
        raise InputError(f"'pose_covariance' has shape {V.shape}; it must be (6, 6) or ({images}, 6, 6)")
    V = np.where(np.isfinite(poses[:, :1, :1]), V, 0.0)
    for image, one in enumerate(V):
        if not one.any():
            continue
        least = np.linalg.eigvalsh(one).min() if np.isfinite(one).all() and np.allclose(one, one.T) else np.nan
        if not least > 0:
            raise InputError(
                f"the covariance of the pose of image {image} has the least eigenvalue {least:g}; it must be "
                "symmetric and positive, or 0 throughout for a pose that is held"
            )
    return V if V.any() else None


def given_depth_std(
    std: ArrayLike | Sequence[ArrayLike | None] | None, depths: list[Array32] | None
) -> list[Array32] | None:
    """N maps (H, W), 0 where depth is held."""
    if std is None:
        return None
    if depths is None:
        raise InputError("'depth_std' is given without 'depths'; it must come with them")
    each = list(std) if isinstance(std, Sequence) else [std] * len(depths)
    if len(each) != len(depths):
        raise InputError(f"'depth_std' has {len(each)} entries; it must be one number or {len(depths)} maps or numbers")
    maps = zip(each, depths, strict=True)
    found = [_depth_deviation(image, one, depth.shape) for image, (one, depth) in enumerate(maps)]
    return found if any(s.any() for s in found) else None


def _depth_deviation(image: int, std: ArrayLike | None, shape: tuple[int, ...]) -> Array32:
    """A map of ``shape``, from one number or a map."""
    s = np.asarray(0.0 if std is None else std, np.float32)
    if s.shape not in ((), shape) or not (s.min() >= 0 and s.max() < np.inf):
        raise InputError(
            f"'depth_std' of image {image} has shape {s.shape} and values from {s.min():g} to {s.max():g}; it must "
            f"be one number or {shape}, 0 (held) or positive, finite"
        )
    return np.broadcast_to(s, shape)


def listed(images: Sequence[int]) -> str:
    """The first few, for a message."""
    shown = ", ".join(str(image) for image in images[:_NAMED])
    return shown + (f", ... ({len(images)})" if len(images) > _NAMED else "")


MIN_CONFIDENT = 3  # confident pixels that each view of a pair needs


@dataclass(frozen=True, eq=False)
class AlignmentProblem:
    """``pairs`` with finite points throughout, over ``shapes``: (H, W) of images 0 to N - 1.

    ``cameras`` (N,) int, ``focals`` (N,) pixels and ``poses`` (N, 4, 4), NaN where unknown, ``depths`` N maps
    (H, W), 0 where unknown; None for not given. ``focal_std`` (N,), ``pose_covariance`` (N, 6, 6) and ``depth_std``
    N maps: standard deviations and covariances, 0 for a held value; None if all are held.
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
        """Names of the arguments given with a deviation."""
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
) -> AlignmentProblem:
    """The checked problem, or an error that says what is wrong.

    Points that are not finite become 0 where their confidence is 1. Raises ``InputError`` and
    ``GeometryError`` as ``alignment.align`` says.
    """
    pairs = each(_clean, list(pairs))
    shapes = image_shapes(pairs)
    _check_connected(pairs, len(shapes))
    each(_check_informative, pairs)
    ids = given_cameras(cameras, shapes)
    f, T, z = given_focals(focals, ids, len(shapes)), given_poses(poses, len(shapes)), given_depths(depths, shapes)
    return AlignmentProblem(
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
    """(H, W) of images 0 to N - 1; raises ``InputError`` for gaps in the indices and contradictory sizes."""
    if not pairs:
        raise InputError("an alignment needs at least one pair, not 0")
    shapes: dict[int, tuple[int, int]] = {}
    for pair in pairs:
        if pair.first == pair.second:
            raise InputError(f"pair ({pair.first}, {pair.second}) joins an image with itself; a pair needs two images")
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
    """The pair in float32 with finite points; raises ``InputError`` for arrays that are not pointmaps."""
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
            "1 means unknown"
        )
    # One pass without a mask as large as the points; look closer only if it ends in NaN.
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
            + "; align each part separately"
        )


def _check_informative(pair: PairPrediction) -> None:
    views = (("first", pair.confidence_first), ("second", pair.confidence_second))
    for name, confidence in views:
        confident = int(np.count_nonzero(confidence > 1.0))
        if confident < MIN_CONFIDENT:
            raise GeometryError(
                f"pair ({pair.first}, {pair.second}) has no information: {confident} of {confidence.size} "
                f"pixels of its {name} view have confidence above 1; leave it out"
            )
