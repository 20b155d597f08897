"""Depth errors: mean relative error (Rel) and the share within a factor (delta 1.25, tau 1.03)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.geometry.pinhole import center_of, pixel_grid, rays
from dust3r_ros.types import Array, Array32, Camera, Keyframe


@dataclass(frozen=True)
class DepthErrors:
    """``rel`` and ``delta`` in percent over ``pixels`` that have both depths."""

    rel: float
    delta: float
    pixels: int


def depth_errors(
    truth: Array | Array32, estimate: Array | Array32, *, median_aligned: bool = False, factor: float = 1.25
) -> DepthErrors:
    """Errors of depth ``estimate`` (H, W) against ``truth`` (H, W), same unit; 0 = none in both.

    Rel = mean |d - d*| / d*, delta = share with max(d / d*, d* / d) < factor (Eigen et al., 2014).
    ``median_aligned`` multiplies the estimate by median(d*) / median(d) first, as monocular depth
    is judged. ``factor`` 1.03 makes delta the inlier ratio tau of multi-view depth (Schroeppel et al., 3DV 2022).
    Raises ``GeometryError`` when the shapes differ or no pixel has both, ``InputError`` for a factor not above 1.
    """
    if not factor > 1.0:
        raise InputError(f"factor {factor} of the depth inliers must be above 1")
    if truth.shape != estimate.shape:
        raise GeometryError(f"depth of shape {estimate.shape} cannot be compared with truth of shape {truth.shape}")
    both = (truth > 0) & (estimate > 0) & np.isfinite(truth) & np.isfinite(estimate)
    if not both.any():
        raise GeometryError("no pixel has both true and estimated depth")
    true = truth[both].astype(np.float64)
    found = estimate[both].astype(np.float64)
    if median_aligned:
        found *= np.median(true) / np.median(found)
    ratio = np.maximum(found / true, true / found)
    return DepthErrors(
        rel=100.0 * float(np.mean(np.abs(found - true) / true)),
        delta=100.0 * float(np.mean(ratio < factor)),
        pixels=int(both.sum()),
    )


def mean_errors(errors: Iterable[DepthErrors]) -> DepthErrors | None:
    """Mean over images, each counting the same, as the literature averages; None of none."""
    parts: Sequence[DepthErrors] = list(errors)
    if not parts:
        return None
    return DepthErrors(
        rel=float(np.mean([part.rel for part in parts])),
        delta=float(np.mean([part.delta for part in parts])),
        pixels=sum(part.pixels for part in parts),
    )


def resample(depth: Array32, keyframe: Keyframe, camera: Camera) -> Array32:
    """A depth map that belongs to the images of ``camera``, for the pixels (H, W) of a keyframe's rectified one.

    The nearest value of each pixel's ray, because a mean over a depth edge is a depth that nothing has; 0 where
    the camera does not see the ray. The depth map may be of another size than the images: both cover the same.
    """
    height, width = keyframe.depth.shape
    x = rays(pixel_grid(height, width), keyframe.focal, center_of(height, width))[..., :2]
    square = np.sum(x**2, axis=-1, keepdims=True)
    k1, k2, k3 = camera.distortion
    seen = camera.focal * x * (1.0 + square * (k1 + square * (k2 + square * k3))) + camera.center
    size = np.array([depth.shape[1], depth.shape[0]])
    at = np.round((seen + 0.5) * size / [camera.width, camera.height] - 0.5).astype(int)
    inside = np.all((at >= 0) & (at < size), axis=-1)
    columns, rows = np.moveaxis(np.clip(at, 0, size - 1), -1, 0)
    return np.where(inside, depth[rows, columns], np.float32(0.0))
