"""Whether turning on the spot alone explains how two views see the same points."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from dust3r_ros.geometry.pinhole import rays
from dust3r_ros.types import Array

_ROUNDS = 4
_SAMPLES = 300
_COARSE = 9


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
    focals = np.geomspace(low, high, _COARSE)
    errors = [_error(a, b, focal) for focal in focals]
    best, step = np.log(focals[int(np.argmin(errors))]), np.log(focals[1] / focals[0])
    finer = minimize_scalar(
        lambda log: _error(a, b, float(np.exp(log))), bounds=(best - step, best + step), method="bounded",
        options={"xatol": 2e-3},
    )  # fmt: skip
    return min(min(errors), float(finer.fun))


def _error(a: Array, b: Array, focal: float) -> float:
    ray_a, ray_b = rays(a, focal, (0.0, 0.0)), rays(b, focal, (0.0, 0.0))
    unit_a = ray_a / np.linalg.norm(ray_a, axis=1, keepdims=True)
    unit_b = ray_b / np.linalg.norm(ray_b, axis=1, keepdims=True)
    weight = np.ones(len(a))
    for _ in range(_ROUNDS):
        U, _, Vt = np.linalg.svd((unit_b * weight[:, None]).T @ unit_a)
        R = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
        turned = ray_a @ R.T
        z = np.where(turned[:, 2] > 1e-6, turned[:, 2], 1e-6)
        error = np.linalg.norm(focal * turned[:, :2] / z[:, None] - b, axis=1)
        weight = 1.0 / (1.0 + (error / max(float(np.median(error)), 1e-6)) ** 2)
    return float(np.percentile(error, 80))
