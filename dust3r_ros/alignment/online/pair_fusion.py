"""One depth map per keyframe from what all its pairs say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.types import Array, Array32

_ROUNDS = 3
_PER_SIGMA = np.float32(1.0 / 0.05)  # estimates whose logs differ by more than a few sigmas pull less
_TINY = np.float32(1e-12)
_BLOCK = 49152  # numbers of a kind that are worked on at a time: they stay in the cache


def fuse_depths(depths: Sequence[Array32], confidences: Sequence[Array32]) -> tuple[Array32, Array32]:
    """Robust weighted mean of log depth: (depth (H, W), 0 where nothing is known; confidence (H, W) >= 1).

    ``depths`` (H, W) in one unit, ``confidences`` (H, W) >= 1, weighing by their logarithm;
    iteratively re-weighted (Cauchy), from the most confident. Confidence adds up over estimates
    that agree: 1 + sum of (C - 1) times the robust weight.
    """
    pixels, some = depths[0].size, max(_BLOCK // len(depths), 1024)
    fused, confidence = np.empty((2, *depths[0].shape), dtype=np.float32)
    rows = [(depth.reshape(-1), sure.reshape(-1)) for depth, sure in zip(depths, confidences, strict=True)]
    # The system hands out memory page by page, which costs more than the arithmetic: once for all blocks.
    work = np.empty((5, len(rows), min(some, pixels)), dtype=np.float32)
    for start in range(0, pixels, some):
        part = slice(start, min(start + some, pixels))
        block = work[:, :, : part.stop - start]
        for row, (depth, sure) in enumerate(rows):
            block[0, row], block[1, row] = depth[part], sure[part]
        fused.reshape(-1)[part], confidence.reshape(-1)[part] = _fused(*block)
    return fused, confidence


def _fused(logs: Array32, gain: Array32, weight: Array32, off: Array32, pull: Array32) -> tuple[Array32, Array32]:
    """(P,) and (P,) of depth ``logs`` and confidence ``gain``, (K, P), which like the rest are overwritten."""
    np.fmax(gain, np.float32(1.0), out=gain)
    gain -= np.float32(1.0)
    gain *= np.greater(logs, 0.0, out=off)
    np.log1p(gain, out=weight)
    np.log(np.fmax(logs, _TINY, out=logs), out=logs)
    logs *= _PER_SIGMA
    most = weight.max(axis=0)
    np.equal(weight, most, out=off)
    center = np.einsum("kp,kp->p", off, logs) / off.sum(axis=0)
    for _ in range(_ROUNDS if len(logs) > 1 else 0):
        np.subtract(logs, center, out=off)
        off *= off
        off += np.float32(1.0)
        np.divide(weight, off, out=pull)
        center = np.einsum("kp,kp->p", pull, logs) / np.maximum(pull.sum(axis=0), _TINY)
    if len(logs) > 1:
        gain /= off
    return np.exp(center / _PER_SIGMA) * (most > 0), np.float32(1.0) + gain.sum(axis=0)


def robust_scale(reference: Array | Array32, depth: Array | Array32, weight: Array | Array32) -> float:
    """The factor that takes ``depth`` (N,) to ``reference`` (N,): weighted median of the ratio; NaN for none."""
    keep = (reference > 0) & (depth > 0) & (weight > 0)
    if not keep.any():
        return float("nan")
    logs, weight = np.log(reference[keep] / depth[keep]), weight[keep]
    order = np.argsort(logs, kind="stable")
    cumulative = np.cumsum(weight[order])
    return float(np.exp(logs[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])]))
