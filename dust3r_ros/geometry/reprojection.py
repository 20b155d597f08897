"""Reprojection errors of one camera: linearised, minimised, and what they say of the pose's certainty."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.rigid import pose, transform
from dust3r_ros.types import Array

_HUBER = 1.345  # standard deviations; 95 % efficient for normal errors
_MIN_EIGENVALUE = 1e-12  # of the normalised information matrix; below, a direction of the pose is free


def linearised(
    points: Array, pixels: Array, c_T_w: Array, focal: float, center: tuple[float, float], free_focal: bool
) -> tuple[Array, Array]:
    """Residuals (2N,) and Jacobian (2N, 6 or 7) over exp(xi) c_T_w, xi = (translation, rotation), and log focal."""
    camera = transform(c_T_w, points)
    z = camera[:, 2]
    x, y = camera[:, 0] / z, camera[:, 1] / z
    zero, one = np.zeros_like(z), np.ones_like(z)
    rows = [[one / z, zero, -x / z, -x * y, 1 + x * x, -y], [zero, one / z, -y / z, -1 - y * y, x * y, x]]
    if free_focal:
        rows = [[*rows[0], x], [*rows[1], y]]
    jacobian = focal * np.stack([np.stack(row, axis=-1) for row in rows], axis=1)
    residuals = focal * np.stack([x, y], axis=-1) + np.asarray(center) - pixels
    return residuals.ravel(), jacobian.reshape(len(z) * 2, -1)


def _moved(c_T_w: Array, focal: float, step: Array) -> tuple[Array, float]:
    delta = pose(Rotation.from_rotvec(step[3:6]).as_matrix(), step[:3])
    return delta @ c_T_w, focal * float(np.exp(step[6])) if len(step) > 6 else focal


def _huber_cost(residuals: Array, scale: float) -> float:
    size = np.abs(residuals) / scale
    return float(np.sum(np.where(size <= _HUBER, size**2, 2 * _HUBER * size - _HUBER**2)))


def _noise(residuals: Array) -> float:
    """Standard deviation of most residuals (median absolute deviation), pixels."""
    return max(1.4826 * float(np.median(np.abs(residuals))), 1e-6)


def minimise(
    points: Array, pixels: Array, c_T_w: Array, focal: float, center: tuple[float, float], free_focal: bool
) -> tuple[Array, float]:
    """Pose ``c_T_w`` and focal that minimise Huber's loss of the reprojection errors, from a start near by.

    ``points`` (N, 3) in the world, ``pixels`` (N, 2); the focal moves only if ``free_focal``.
    Levenberg-Marquardt with re-weighting; the loss turns linear at 1.345 standard deviations, taken
    from the median. Raises ``GeometryError`` where the points leave the pose free.
    """
    damping = 1e-4
    for _ in range(30):
        residuals, jacobian = linearised(points, pixels, c_T_w, focal, center, free_focal)
        scale = _noise(residuals)
        weights = np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(residuals), 1e-12))
        normal = (jacobian * weights[:, None]).T @ jacobian
        _check_information(normal, len(points))
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -jacobian.T @ (weights * residuals))
        moved = _moved(c_T_w, focal, step)
        if np.any(transform(moved[0], points)[:, 2] <= 0) or _huber_cost(
            linearised(points, pixels, *moved, center, free_focal)[0], scale
        ) > _huber_cost(residuals, scale):
            damping *= 10
        else:
            (c_T_w, focal), damping = moved, damping / 10
        if np.abs(jacobian @ step).max() < 1e-4 or damping > 1e8:  # no pixel moves any more
            break
    return c_T_w, focal


def covariance(
    points: Array, pixels: Array, c_T_w: Array, focal: float, center: tuple[float, float], free_focal: bool
) -> Array:
    """(6, 6), or (7, 7) with the focal (pixels) last: of a small motion of the camera in its own frame.

    A^-1 B A^-1 with A = sum of psi' J J^T and B = sum of psi^2 J J^T over the residuals (Huber,
    "Robust Statistics", 1981, section 7.6; White 1980): it holds for errors that differ from point
    to point, as long as they are independent. Raises ``GeometryError`` as ``minimise``.
    """
    residuals, jacobian = linearised(points, pixels, c_T_w, focal, center, free_focal)
    bound = _HUBER * _noise(residuals)
    influence = jacobian * np.clip(residuals, -bound, bound)[:, None]
    inner = jacobian[np.abs(residuals) <= bound]
    information = inner.T @ inner
    _check_information(information, len(points))
    inverse = np.linalg.inv(information)
    count, unknowns = jacobian.shape
    # exp(xi) c_T_w is w_T_c exp(-xi): the same covariance, and in the camera's frame already
    result = count / max(count - unknowns, 1) * inverse @ (influence.T @ influence) @ inverse
    if free_focal:
        result[6] *= focal
        result[:, 6] *= focal
    return result


def _check_information(normal: Array, count: int) -> None:
    size = np.sqrt(np.diag(normal))
    least = 0.0 if not np.all(size > 0) else float(np.linalg.eigvalsh(normal / np.outer(size, size))[0])
    if not least > _MIN_EIGENVALUE:
        raise GeometryError(
            f"{count} matches leave the pose free: the least eigenvalue of their normalised information is "
            f"{least:.2g}, it must be above {_MIN_EIGENVALUE:g}; points on one line or in one place do that."
        )
