"""Depth errors: mean relative error (Rel) and the share within a factor of 1.25 (delta 1.25)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.errors import GeometryError
from dust3r_ros.types import Array, Array32


@dataclass(frozen=True)
class DepthErrors:
    """``rel`` and ``delta`` in percent over ``pixels`` that have both depths."""

    rel: float
    delta: float
    pixels: int


def depth_errors(truth: Array | Array32, estimate: Array | Array32, *, median_aligned: bool = False) -> DepthErrors:
    """Errors of depth ``estimate`` (H, W) against ``truth`` (H, W), same unit; 0 = none in both.

    Rel = mean |d - d*| / d*, delta = share with max(d / d*, d* / d) < 1.25 (Eigen et al., 2014).
    ``median_aligned`` multiplies the estimate by median(d*) / median(d) first, as monocular depth
    is judged. Raises ``GeometryError`` when the shapes differ or no pixel has both.
    """
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
        delta=100.0 * float(np.mean(ratio < 1.25)),
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


def resample(depth: Array32, height: int, width: int) -> Array32:
    """Depth (H, W) as a camera of (``height``, ``width``) pixels sees it: the nearest value of each pixel's ray.

    Nearest, because a mean over a depth edge is a depth that nothing has. A pixel of the result
    covers the same part of the image as it does of the depth map.
    """
    rows = _nearest(depth.shape[0], height)
    columns = _nearest(depth.shape[1], width)
    return depth[rows[:, None], columns[None, :]]


def _nearest(native: int, working: int) -> np.ndarray:
    centers = (np.arange(working) + 0.5) * native / working - 0.5
    return np.clip(np.round(centers).astype(int), 0, native - 1)
