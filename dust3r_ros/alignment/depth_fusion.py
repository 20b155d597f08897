"""One depth map per keyframe from what all its pairs say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.types import Array, Array32

_ROUNDS = 3
_LOG_SIGMA = 0.05  # estimates that differ by more than a few of these pull less


def fuse_depths(depths: Sequence[Array32], confidences: Sequence[Array32]) -> tuple[Array32, Array32]:
    """Robust weighted mean of log depth: (depth (H, W), 0 where nothing is known; confidence (H, W) >= 1).

    ``depths`` (H, W) in one unit, ``confidences`` (H, W) >= 1, weighing by their logarithm;
    iteratively re-weighted (Cauchy), from the weighted median. Confidence adds up over estimates
    that agree: 1 + sum of (C - 1) times the robust weight.
    """
    depth = np.stack(depths)
    gain = np.where(depth > 0, np.stack(confidences) - 1.0, 0.0).astype(np.float32)
    weight = np.log1p(gain)
    known = weight.max(axis=0) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        log_depth = np.where(weight > 0, np.log(np.maximum(depth, 1e-12)), 0.0)
    center = np.take_along_axis(log_depth, weight.argmax(axis=0)[None], axis=0)[0]
    robust = np.ones_like(weight)
    for _ in range(_ROUNDS if len(depth) > 1 else 0):
        robust = 1.0 / (1.0 + ((log_depth - center) / _LOG_SIGMA) ** 2)
        total = (robust * weight).sum(axis=0)
        center = np.where(known, (robust * weight * log_depth).sum(axis=0) / np.maximum(total, 1e-12), 0.0)
    confidence = 1.0 + (robust * gain).sum(axis=0)
    return np.where(known, np.exp(center), 0.0).astype(np.float32), np.where(known, confidence, 1.0).astype(np.float32)


def robust_scale(reference: Array | Array32, depth: Array | Array32, weight: Array | Array32) -> float:
    """The factor that takes ``depth`` (N,) to ``reference`` (N,): weighted median of the ratio; NaN for none."""
    keep = (reference > 0) & (depth > 0) & (weight > 0)
    if not keep.any():
        return float("nan")
    logs, weight = np.log(reference[keep] / depth[keep]), weight[keep]
    order = np.argsort(logs, kind="stable")
    cumulative = np.cumsum(weight[order])
    return float(np.exp(logs[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])]))
