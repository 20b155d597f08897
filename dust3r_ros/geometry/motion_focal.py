"""Focal length of a camera whose motion is known, from matches of two of its images: one unknown, no structure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import rays
from dust3r_ros.types import Array

_LOW, _HIGH, _TRIED = 0.4, 4.0, 60  # parts of the long edge
_STEP = 1e-3  # of the log focal, for derivatives
_FEWEST = 20  # matches


@dataclass(frozen=True)
class MotionFocal:
    """``focal`` in pixels, ``std`` of its logarithm, ``share`` of the matches that agree with motion and focal."""

    focal: float
    std: float
    share: float


def focal_from_motion(
    a: Array, b: Array, b_T_a: Array, long_edge: float, *, threshold_px: float, motion_px: float = 0.7
) -> MotionFocal:
    """The focal at which matches ``a``, ``b`` (N, 2), pixels from the principal point, lie on their epipolar lines.

    ``b_T_a`` (4, 4): the motion; its length does not count. Focals from 0.4 to 4 times ``long_edge``, evenly in log,
    are tried, the best one is refined by Gauss-Newton on the matches within ``threshold_px``. The error is
    Sampson's (Hartley and Zisserman, "Multiple View Geometry", eq. 11.9). ``motion_px``: by how much errors of
    the motion may shift all of them together. Where the motion does not tell a focal (no turn, and the epipole in the
    middle), ``std`` is large. Raises ``GeometryError`` for too few matches and for a motion without translation.
    """
    if len(a) < _FEWEST:
        raise GeometryError(f"a focal needs {_FEWEST} matches, not {len(a)}")
    if not np.linalg.norm(b_T_a[:3, 3]) > 0:
        raise GeometryError("a motion without translation has no epipolar lines")
    tried = long_edge * np.geomspace(_LOW, _HIGH, _TRIED)
    costs = [float(np.minimum(np.abs(sampson(a, b, b_T_a, f)), threshold_px).mean()) for f in tried]
    log_focal = float(np.log(tried[int(np.argmin(costs))]))
    for _ in range(10):
        errors, slope = _linearised(a, b, b_T_a, log_focal)
        near = np.abs(errors) < threshold_px
        step = -float(slope[near] @ errors[near]) / max(float(slope[near] @ slope[near]), 1e-12)
        log_focal += float(np.clip(step, -0.1, 0.1))
        if abs(step) < 1e-6:
            break
    log_focal = float(np.clip(log_focal, np.log(_LOW * long_edge), np.log(_HIGH * long_edge)))
    errors, slope = _linearised(a, b, b_T_a, log_focal)
    near = np.abs(errors) < threshold_px
    strength = float(np.sqrt(np.mean(slope[near] ** 2))) if near.any() else 0.0
    noise = float(np.sqrt(np.mean(errors[near] ** 2) / max(near.sum(), 1))) if near.any() else threshold_px
    return MotionFocal(float(np.exp(log_focal)), np.hypot(noise, motion_px) / max(strength, 1e-9), float(near.mean()))


def sampson(a: Array, b: Array, b_T_a: Array, focal: float) -> Array:
    """Signed Sampson errors (N,), pixels, of matches (N, 2) under a motion and a focal."""
    t = b_T_a[:3, 3]
    E = np.array([[0.0, -t[2], t[1]], [t[2], 0.0, -t[0]], [-t[1], t[0], 0.0]]) @ b_T_a[:3, :3]
    x, y = rays(a, focal, (0.0, 0.0)), rays(b, focal, (0.0, 0.0))
    line_b, line_a = x @ E.T, y @ E
    size = np.sqrt(np.sum(line_b[:, :2] ** 2, axis=1) + np.sum(line_a[:, :2] ** 2, axis=1))
    return focal * np.sum(y * line_b, axis=1) / np.maximum(size, 1e-12)


def _linearised(a: Array, b: Array, b_T_a: Array, log_focal: float) -> tuple[Array, Array]:
    """Errors (N,) and their derivatives by the log focal."""
    below, above = (sampson(a, b, b_T_a, float(np.exp(log_focal + sign * _STEP))) for sign in (-1, 1))
    return (below + above) / 2, (above - below) / (2 * _STEP)
