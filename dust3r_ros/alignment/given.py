"""What is given of a scene beside its pairs, checked: cameras, focals, poses, depths, and how well they are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dust3r_ros.errors import InputError
from dust3r_ros.types import Array, Array32

_MAX_SHEAR = 1e-3  # how far a given rotation may be from orthogonal
_NAMED = 8  # images listed in a message at most


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
                f"images of camera {camera} have sizes {sorted(sizes)} (H, W); a shared focal needs one size"
            )
    return ids.astype(np.int64)


def given_focals(focals: ArrayLike | None, cameras: NDArray[np.int64] | None, images: int) -> Array | None:
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
        determinant = float(np.linalg.det(R))
        if np.abs(R @ R.T - np.eye(3)).max() > _MAX_SHEAR or determinant < 0 or not np.allclose(last, [0, 0, 0, 1]):
            raise InputError(
                f"the pose of image {image} is not a rigid motion: rotation with determinant {determinant:.4g}, "
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
            raise InputError(f"the depth of image {image} has shape {z.shape}; its pairs say {shape}")
        z = np.where(np.isnan(z), np.float32(0), z)
        if not (z.min() >= 0 and z.max() < np.inf):
            raise InputError(
                f"the depth of image {image} goes from {z.min():g} to {z.max():g}; it must be positive, "
                "or 0 or NaN for unknown"
            )
        found.append(z)
    return found


def given_focal_std(std: ArrayLike | None, focals: Array | None) -> Array | None:
    """(N,) pixels, 0 where the focal is held or unknown."""
    if std is None:
        return None
    if focals is None:
        raise InputError("'focal_std' says how well focals are known, but no 'focals' are given")
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
        raise InputError("'pose_covariance' says how well poses are known, but no 'poses' are given")
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
        raise InputError("'depth_std' says how well depths are known, but no 'depths' are given")
    each = list(std) if isinstance(std, Sequence) else [std] * len(depths)
    if len(each) != len(depths):
        raise InputError(f"'depth_std' has {len(each)} entries; it must be one number or {len(depths)} maps or numbers")
    found = []
    for image, (one, depth) in enumerate(zip(each, depths, strict=True)):
        s = np.asarray(0.0 if one is None else one, np.float32)
        if s.shape not in ((), depth.shape) or not (s.min() >= 0 and s.max() < np.inf):
            raise InputError(
                f"'depth_std' of image {image} has shape {s.shape} and values from {s.min():g} to {s.max():g}; it must "
                f"be one number or {depth.shape}, 0 (held) or positive, finite"
            )
        found.append(np.broadcast_to(s, depth.shape))
    return found if any(s.any() for s in found) else None


def listed(images: Sequence[int]) -> str:
    """The first of them, for a message."""
    shown = ", ".join(str(image) for image in images[:_NAMED])
    return shown + (f", ... ({len(images)})" if len(images) > _NAMED else "")
