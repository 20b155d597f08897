"""Reprojection errors of one camera: linearised, minimised, and the pose covariance they imply."""

from __future__ import annotations

import ctypes

import cv2
import numpy as np

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.compiled import LIBRARY
from dust3r_ros.geometry.rigid import invert, pose
from dust3r_ros.types import Array

_HUBER = 1.345  # standard deviations; 95 % efficient for normal errors
_CONVERGED = 0.01  # standard deviations of the pose
_SETTLED = 0.1  # the same in live tracking, where the next image follows soon
_MOST_STEPS = 30
_STILL_PX = 1e-4
_MIN_EIGENVALUE = 1e-12  # of the normalised information matrix; below, a direction of the pose is free


class _Given(ctypes.Structure):
    """Matches and a start in the library's layout; ``moved`` (4, 4): the pose that it finds.

    ``kept``: the arrays it points to.
    """

    kept: object
    moved: Array
    _fields_ = [
        *((name, ctypes.c_long) for name in ("count", "unknowns")),
        *((name, ctypes.c_void_p) for name in ("points", "pixels", "std", "pose")),
        ("center", ctypes.c_double * 2),
    ]

    @classmethod
    def of(
        cls,
        points: Array,
        pixels: Array,
        c_T_w: Array,
        center: tuple[float, float],
        unknowns: int,
        std: Array | None = None,
    ) -> _Given:
        moved = c_T_w.astype(np.float64, order="C")
        parts = points, pixels, std, moved
        kept = [None if part is None else np.ascontiguousarray(part, np.float64) for part in parts]
        given = cls(len(points), unknowns, *(None if part is None else part.ctypes.data for part in kept), center)
        given.kept, given.moved = kept, moved
        return given


def _linearised(
    points: Array, pixels: Array, c_T_w: Array, focal: float, center: tuple[float, float], free_focal: bool
) -> tuple[Array, Array]:
    """Residuals (2N,) and Jacobian (2N, 6 or 7) over exp(xi) c_T_w, xi = (translation, rotation), and log focal.

    All residuals in x come first, then those in y.
    """
    X, Y, z = c_T_w[:3, :3] @ points.T + c_T_w[:3, 3:]
    inverse = 1.0 / z
    x, y = X * inverse, Y * inverse
    J = np.zeros((7 if free_focal else 6, 2, len(z)))
    J[0, 0] = J[1, 1] = inverse
    J[2, 0], J[2, 1] = -x * inverse, -y * inverse
    J[4, 1] = J[3, 0] = x * y
    J[3] *= -1.0
    J[4, 0], J[3, 1] = 1.0 + x * x, -1.0 - y * y
    J[5, 0], J[5, 1] = -y, x
    if free_focal:
        J[6, 0], J[6, 1] = x, y
    J *= focal
    residuals = focal * np.stack([x, y]) + np.asarray(center)[:, None] - pixels.T
    return residuals.ravel(), J.reshape(len(J), -1).T


def _moved(c_T_w: Array, focal: float, step: Array) -> tuple[Array, float]:
    delta = pose(cv2.Rodrigues(step[3:6])[0], step[:3])
    return delta @ c_T_w, focal * float(np.exp(step[6])) if len(step) > 6 else focal


def _huber_cost(residuals: Array, scale: float) -> float:
    size = np.abs(residuals) / scale
    within = np.minimum(size, _HUBER)
    return float(np.sum(within * (2.0 * size - within)))


def _weights(residuals: Array, scale: float | Array) -> Array:
    return np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(residuals), 1e-12))


def _noise(residuals: Array) -> float:
    """Standard deviation of most residuals (median absolute deviation), pixels."""
    return max(1.4826 * float(np.median(np.abs(residuals))), 1e-6)


def minimise(
    points: Array,
    pixels: Array,
    c_T_w: Array,
    focal: float,
    center: tuple[float, float],
    free_focal: bool,
    std: Array | None = None,
) -> tuple[Array, float]:
    """Pose ``c_T_w`` and focal that minimise Huber's loss of the reprojection errors, from a nearby start.

    ``points`` (N, 3) in the world, ``pixels`` (N, 2); the focal moves only if ``free_focal``. ``std`` (N,): how
    uncertain the pixels are, relative to each other; None: all alike.
    Levenberg-Marquardt with reweighting; the loss turns linear at 1.345 standard deviations, estimated
    from the median. It ends when a step is a hundredth of the pose's uncertainty. Raises ``GeometryError``
    if the points leave the pose free.
    """
    if LIBRARY is None:
        return _minimised(points, pixels, c_T_w, focal, center, free_focal, std)
    given, length = _Given.of(points, pixels, c_T_w, center, 6 + free_focal, std), ctypes.c_double(focal)
    limits = ctypes.c_double(_CONVERGED), ctypes.c_long(_MOST_STEPS)
    if not LIBRARY.minimise_pose(ctypes.byref(given), ctypes.byref(length), *limits):
        raise GeometryError(f"{len(points)} matches leave the pose free; they must not be on one line or in one place")
    return given.moved, length.value


def settle(
    points: Array, pixels: Array, c_T_w: Array, focal: float, gates_px: tuple[float, float], fewest: float
) -> Array:
    """``c_T_w`` that minimises Huber's loss of the reprojection errors below the second gate, from a close start.

    Matches as for ``minimise``, pixels from the principal point. Gauss-Newton that selects the matches below the gate
    at each step, with the first gate at the first step. It ends when a step is small against the pose's uncertainty.
    Raises ``GeometryError`` if that takes too many steps, or if fewer than ``fewest`` matches are below the gate.
    """
    if LIBRARY is None:
        settled = _settled(points, pixels, c_T_w, focal, gates_px, fewest)
    else:
        given, gates = _Given.of(points, pixels, c_T_w, (0.0, 0.0), 6), (ctypes.c_double * 2)(*gates_px)
        limits = *map(ctypes.c_double, (fewest, _SETTLED)), ctypes.c_long(_MOST_STEPS)
        found = LIBRARY.settle_pose(ctypes.byref(given), ctypes.c_double(focal), gates, *limits)
        settled = given.moved if found else None
    if settled is None:
        raise GeometryError(
            f"a guess of a pose does not lead to a pose that fits {fewest:g} of {len(points)} matches "
            f"within {_MOST_STEPS} steps; a better guess is needed"
        )
    return settled


def _minimised(
    points: Array,
    pixels: Array,
    c_T_w: Array,
    focal: float,
    center: tuple[float, float],
    free_focal: bool,
    std: Array | None,
) -> tuple[Array, float]:
    damping, unit = 1e-4, np.ones(2 * len(points)) if std is None else np.tile(std, 2)

    def linearised(c_T_w: Array, focal: float) -> tuple[Array, Array]:
        residuals, jacobian = _linearised(points, pixels, c_T_w, focal, center, free_focal)
        return residuals / unit, jacobian / unit[:, None]

    residuals, jacobian = linearised(c_T_w, focal)
    for _ in range(_MOST_STEPS):
        scale = _noise(residuals)
        weighted = jacobian.T * _weights(residuals, scale)
        normal = weighted @ jacobian
        _check_information(normal, len(points))
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -weighted @ residuals)
        moved = _moved(c_T_w, focal, step)
        after, slopes = linearised(*moved)
        near = np.abs(after - residuals).max() < _STILL_PX
        if np.any(points @ moved[0][2, :3] + moved[0][2, 3] <= 0) or (
            _huber_cost(after, scale) > _huber_cost(residuals, scale)
        ):
            damping *= 10
        else:
            (c_T_w, focal), damping = moved, damping / 10
            residuals, jacobian = after, slopes
            near |= step @ normal @ step < (_CONVERGED * scale) ** 2
        if near or damping > 1e8:
            break
    return c_T_w, focal


def minimise_held(
    points: Array,
    pixels: Array,
    std: Array,
    origins: Array,
    c_T_w: Array,
    focal: float,
    center_std: float,
    depth_std: float,
) -> tuple[Array, Array]:
    """``c_T_w`` near a start whose position is known to ``center_std`` in each direction, and its covariance (6, 6).

    Matches as for ``minimise``, pixels from the principal point, each uncertain by ``std`` (N,) pixels. ``origins``
    (N, 3): from where points of unknown depth were seen, NaN for the others; those may all be farther away or nearer
    alike, by ``depth_std`` (log), and so make no position certain. Gauss-Newton with Huber's loss; the covariance is
    that of a small motion of the camera in its own frame, if these deviations are right. Points behind the camera say
    nothing. Raises ``GeometryError`` if the points leave the rotation free.
    """
    held, start, farther = np.diag([center_std**-2.0] * 3 + [0.0] * 3 + [depth_std**-2.0]), invert(c_T_w)[:3, 3], 0.0
    ways = np.nan_to_num(points - origins)
    for _ in range(_MOST_STEPS):
        now = points + np.expm1(farther) * ways
        ahead = now @ c_T_w[2, :3] + c_T_w[2, 3] > 0
        residuals, jacobian = _linearised(now[ahead], pixels[ahead], c_T_w, focal, (0.0, 0.0), False)
        growth = np.exp(farther) * ways[ahead] @ c_T_w[:3, :3].T  # moves a point as a step of the camera would
        along = np.einsum("nci,ni->cn", jacobian[:, :3].reshape(2, -1, 3).transpose(1, 0, 2), growth).ravel()
        jacobian, each = np.column_stack([jacobian, along]), np.tile(std[ahead], 2)
        weighted = jacobian.T * (_weights(residuals, each) / each**2)
        normal = weighted @ jacobian + held
        _check_information(normal, int(np.count_nonzero(ahead)))
        strayed = c_T_w[:3, :3] @ start + c_T_w[:3, 3]  # where the start is, seen from the camera
        step = -np.linalg.solve(normal, weighted @ residuals + held @ np.concatenate([strayed, np.zeros(3), [farther]]))
        c_T_w, _ = _moved(c_T_w, focal, step[:6])
        farther += float(step[6])
        if step @ normal @ step < _SETTLED**2:
            break
    loose = np.tile(np.isfinite(origins[ahead, 0]), 2)
    jacobian[loose, :3] = 0.0
    weighted[:3, loose] = 0.0
    return c_T_w, np.linalg.inv((weighted @ jacobian + held)[:6, :6])


def _settled(
    points: Array, pixels: Array, c_T_w: Array, focal: float, gates_px: tuple[float, float], fewest: float
) -> Array | None:
    for at in range(_MOST_STEPS):
        residuals, jacobian = _linearised(points, pixels, c_T_w, focal, (0.0, 0.0), False)
        ahead = points @ c_T_w[2, :3] + c_T_w[2, 3] > 0
        near = ahead & (np.hypot(*residuals.reshape(2, -1)) < gates_px[min(at, 1)])
        if np.count_nonzero(near) < fewest:
            return None
        both = np.tile(near, 2)
        residuals, jacobian = residuals[both], jacobian[both]
        scale = _noise(residuals)
        weighted = jacobian.T * _weights(residuals, scale)
        normal = weighted @ jacobian
        solved, found = cv2.solve(normal, -(weighted @ residuals)[:, None], flags=cv2.DECOMP_CHOLESKY)
        if not solved:
            return None
        step = found.ravel()
        c_T_w, _ = _moved(c_T_w, focal, step)
        if at and step @ normal @ step < (_SETTLED * scale) ** 2:
            return c_T_w
    return None


def covariance(
    points: Array, pixels: Array, c_T_w: Array, focal: float, center: tuple[float, float], free_focal: bool
) -> Array:
    """(6, 6), or (7, 7) with the focal (pixels) last: covariance of a small motion of the camera in its own frame.

    A^-1 B A^-1 with A = sum of psi' J J^T and B = sum of psi^2 J J^T over the residuals (Huber,
    "Robust Statistics", 1981, section 7.6; White 1980): it holds for errors that differ from point
    to point, as long as they are independent. Raises ``GeometryError`` as ``minimise``.
    """
    residuals, jacobian = _linearised(points, pixels, c_T_w, focal, center, free_focal)
    bound = _HUBER * _noise(residuals)
    influence = jacobian * np.clip(residuals, -bound, bound)[:, None]
    inner = jacobian[np.abs(residuals) <= bound]
    information = inner.T @ inner
    _check_information(information, len(points))
    inverse = np.linalg.inv(information)
    count, unknowns = jacobian.shape
    # exp(xi) c_T_w is w_T_c exp(-xi): the same covariance, already in the camera's frame
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
