"""The focal length from a pointmap: square pixels, known principal point (the image centre by default)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import center_of, pixel_grid
from dust3r_ros.types import Array

_GROUPS = 10

# Least and largest focal in multiples of the focal for a 60 degree view over the long edge:
# 98 and 19 degrees.
FOCAL_LIMITS = (0.5, 3.5)


def reference_focal(height: int, width: int) -> float:
    """Focal (pixels) at which the long edge spans 60 degrees."""
    return max(height, width) / (2 * math.tan(math.radians(30)))


def estimate_focal(
    points: NDArray[np.floating],
    confidence: NDArray[np.floating] | None = None,
    *,
    center: tuple[float, float] | None = None,
    limits: tuple[float, float] | None = FOCAL_LIMITS,
    iterations: int = 10,
) -> float:
    """Focal f (pixels) minimising sum_p log(C_p) * |(u, v) - f * (x, y) / z|, clipped to ``limits``.

    ``points`` (H, W, 3) in the camera's own frame, ``confidence`` C (H, W) >= 1 (without it, all pixels
    weigh the same), (u, v) relative to ``center`` (cx, cy). ``limits`` are multiples of
    ``reference_focal``, None for none. Pixels that are not finite or have z = 0 are left out.
    Weiszfeld's iteration: a least-squares start, then ``iterations`` steps of least squares
    weighted by one over the residual (DUSt3R, section 3.3). Raises ``GeometryError`` if no pixel
    determines the focal or if the best one is not positive (a mirrored pointmap).
    """
    pixels, slopes, weights = _observations(points, confidence, center)
    along, square = np.sum(pixels * slopes, axis=1), np.sum(slopes * slopes, axis=1)
    step, total = weights, weights @ square
    if not total > 0:
        raise GeometryError(
            f"No focal: none of {points[..., 0].size} pixels has confidence, depth and a ray off the axis."
        )
    focal = float(step @ along / total)
    for _ in range(iterations):
        residuals = np.linalg.norm(pixels - focal * slopes, axis=1)
        step = weights / np.maximum(residuals, 1e-8)
        focal = float(step @ along / (step @ square))
    return _clipped(focal, points.shape[0], points.shape[1], limits)


def pooled_focal(focals: ArrayLike, weights: ArrayLike) -> tuple[float, float]:
    """(focal, standard deviation) of one camera, pixels, from the focals (N,) of its images.

    The focal is exp of the mean of logs weighted by ``weights`` (N,). The deviation is that of this mean, from the
    scatter of up to ten groups of consecutive images, because neighbours err alike; it is infinite for a single image.
    Focals that are not positive and finite or have no weight are left out; raises ``GeometryError`` if none is left.
    """
    f, w = np.asarray(focals, dtype=np.float64).ravel(), np.asarray(weights, dtype=np.float64).ravel()
    if f.shape != w.shape:
        raise GeometryError(f"{f.size} focals need as many weights, not {w.size}.")
    kept = np.isfinite(f) & (f > 0) & np.isfinite(w) & (w > 0)
    if not kept.any():
        raise GeometryError(f"None of {f.size} focals is positive and finite with positive weight.")
    logs, w = np.log(f[kept]), w[kept] / w[kept].sum()
    mean = float(w @ logs)
    focal, groups = math.exp(mean), min(len(logs), _GROUPS)
    if groups < 2:
        return focal, math.inf
    starts = np.arange(groups) * len(logs) // groups
    group, shift = np.add.reduceat(w, starts), np.add.reduceat(w * (mean - logs), starts)
    concentration = float(group @ group)  # one over the effective number of groups
    if concentration >= 1.0:
        return focal, math.inf
    return focal, focal * math.sqrt(float(shift @ shift) / (1.0 - concentration))


def _observations(
    points: NDArray[np.floating], confidence: NDArray[np.floating] | None, center: tuple[float, float] | None
) -> tuple[Array, Array, Array]:
    """Centred pixels (N, 2), slopes (x, y) / z (N, 2) and weights (N,) of the usable pixels."""
    if points.ndim != 3 or points.shape[2] != 3 or points.size == 0:
        raise GeometryError(f"A focal needs a pointmap of shape (H, W, 3), not {points.shape}.")
    if confidence is not None and confidence.shape != points.shape[:2]:
        raise GeometryError(f"A pointmap {points.shape} needs confidence {points.shape[:2]}, not {confidence.shape}.")
    height, width = points.shape[:2]
    pixels = (pixel_grid(height, width) - np.asarray(center or center_of(height, width))).reshape(-1, 2)
    xyz = points.reshape(-1, 3).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        slopes = xyz[:, :2] / xyz[:, 2:]
    usable = np.isfinite(slopes).all(axis=1)
    weights = np.ones(len(xyz))
    if confidence is not None:
        weights = np.log(np.maximum(confidence.reshape(-1).astype(np.float64), 1.0))
        usable &= np.isfinite(weights)
    return pixels[usable], slopes[usable], weights[usable]


def _clipped(focal: float, height: int, width: int, limits: tuple[float, float] | None) -> float:
    if not (math.isfinite(focal) and focal > 0):
        raise GeometryError(
            f"The best focal of a {width}x{height} pointmap is {focal:.3g} pixels; it must be positive."
        )
    if limits is None:
        return focal
    base = reference_focal(height, width)
    return min(max(focal, limits[0] * base), limits[1] * base)
