"""Whether turning on the spot alone explains how two views see the same points."""

from __future__ import annotations

import numpy as np

from dust3r_ros.types import Array

_ROUNDS = 4
_SAMPLES = 300
_FOCALS, _FINER = 9, 3  # tried at once, and how often more closely around the best


def turning_error(a: Array, b: Array, low: float, high: float) -> float:
    """How well a pure rotation, with any focal in [low, high], takes offsets ``a`` (N, 2) to ``b`` (N, 2), pixels.

    Both are from the principal point of one camera. Returns the 80th percentile of the error for the
    focal and rotation that fit best (Wahba's problem by SVD, re-weighted against wrong matches). A
    small one says that the views hold no parallax, so nothing about depth or translation.
    """
    if len(a) < 3:
        return float("inf")
    keep = np.linspace(0, len(a) - 1, min(len(a), _SAMPLES)).astype(int)
    a, b = a[keep], b[keep]
    focals, least = np.geomspace(low, high, _FOCALS), float("inf")
    for _ in range(1 + _FINER):
        errors = _errors(a, b, focals)
        least = min(least, float(errors.min()))
        best, step = focals[np.argmin(errors)], focals[1] / focals[0]
        focals = np.geomspace(best / step, best * step, _FOCALS)
    return least


def _errors(a: Array, b: Array, focals: Array) -> Array:
    """80th percentiles (F,) with each of ``focals`` (F,)."""
    ray_a, ray_b = (np.insert(offsets / focals[:, None, None], 2, 1.0, axis=2) for offsets in (a, b))
    unit_a, unit_b = (ray / np.linalg.norm(ray, axis=2, keepdims=True) for ray in (ray_a, ray_b))
    weight = np.ones((len(focals), len(a)))
    for _ in range(_ROUNDS):
        U, _, Vt = np.linalg.svd((unit_b * weight[..., None]).transpose(0, 2, 1) @ unit_a)
        U[..., 2] *= np.linalg.det(U @ Vt)[:, None]
        turned = ray_a @ (U @ Vt).transpose(0, 2, 1)
        seen = focals[:, None, None] * turned[..., :2] / np.maximum(turned[..., 2:], 1e-6)
        error = np.linalg.norm(seen - b, axis=2)
        weight = 1.0 / (1.0 + (error / np.maximum(np.median(error, axis=1, keepdims=True), 1e-6)) ** 2)
    return np.asarray(np.percentile(error, 80, axis=1))
