"""Two-view geometry from 2D matches: the essential matrix, pure rotation, focal from a known motion."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.compiled import LIBRARY
from dust3r_ros.geometry.pinhole import rays
from dust3r_ros.geometry.rigid import invert, pose
from dust3r_ros.types import Array

_ROUNDS = 2
_CONFIDENCE = 0.9999
_MATCHES = 15  # at least
_BAND = 3.0  # thresholds
_HUBER = 1.345  # standard deviations
_STEPS, _LITTLE = 20, 1e-6  # of the loss: a step that lowers it by less ends the descent


def essential_pose(
    pixels_a: NDArray[np.floating],
    pixels_b: NDArray[np.floating],
    focal_a: float,
    focal_b: float,
    center_a: tuple[float, float],
    center_b: tuple[float, float],
    *,
    threshold_px: float = 1.0,
    refine_matches: int = 2000,
    tries: int = 1000,
) -> tuple[Array, NDArray[np.bool_]]:
    """(``a_T_b`` (4, 4) with a translation of length 1, inliers (N,)) from matching pixels (N, 2), (N, 2).

    Nister's five points in RANSAC ("An efficient solution to the five-point relative pose problem",
    PAMI 2004), by OpenCV or, ten times as fast, by compiled code that also refines each model that is the
    best so far; then Sampson's distance with Huber's loss over the 5 degrees of freedom. Inliers
    are within ``threshold_px`` of their epipolar lines and in front of both cameras. ``refine_matches``
    bounds how many matches the refinement uses; 0 keeps RANSAC's pose. ``tries`` bounds RANSAC's samples,
    and with them its time. Raises ``GeometryError`` for fewer than 15 matches or inliers, and if rotation
    alone explains the matches, so that the direction of the translation is unknown: median parallax of
    the inliers under ``threshold_px``. The same matches give the same result.
    """
    a, b = np.asarray(pixels_a, dtype=np.float64), np.asarray(pixels_b, dtype=np.float64)
    if a.ndim != 2 or a.shape[1] != 2 or a.shape != b.shape:
        raise GeometryError(f"A relative pose needs pixels (N, 2) and (N, 2), not {a.shape} and {b.shape}.")
    finite = np.flatnonzero(np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1))
    if len(finite) < _MATCHES:
        raise GeometryError(f"A relative pose needs at least {_MATCHES} finite matches, not {len(finite)} of {len(a)}.")
    order = np.random.default_rng(0).permutation(finite)
    rays_a, rays_b = rays(a[order], focal_a, center_a), rays(b[order], focal_b, center_b)
    focal = float(np.sqrt(focal_a * focal_b))
    b_T_a, good = _estimated(rays_a, rays_b, focal, threshold_px, refine_matches, tries)
    inliers = np.zeros(len(a), bool)
    inliers[order[good]] = True
    return invert(b_T_a), inliers


def _estimated(
    rays_a: Array, rays_b: Array, focal: float, threshold_px: float, refine_matches: int, tries: int
) -> tuple[Array, NDArray[np.bool_]]:
    """``b_T_a`` and the matches that fit it."""
    search = _ransac if LIBRARY is None else _searched
    b_T_a, front = search(rays_a, rays_b, threshold_px / focal, tries)
    _require(front, len(rays_a), threshold_px)
    for _ in range(_ROUNDS if refine_matches else 0):
        # wider than the threshold, or the selection of matches would hold the first pose in place
        near = _fitting(b_T_a, rays_a, rays_b, _BAND * threshold_px / focal)
        _require(near, len(rays_a), _BAND * threshold_px)
        chosen = np.flatnonzero(near)[:refine_matches]
        b_T_a = _refined(b_T_a, rays_a[chosen], rays_b[chosen], focal)
    good = _fitting(b_T_a, rays_a, rays_b, threshold_px / focal)
    _require(good, len(rays_a), threshold_px)
    parallax = focal * _parallax(rays_a[good], rays_b[good])
    if parallax < threshold_px:
        raise GeometryError(
            f"The median parallax of {good.sum()} matches is {parallax:.2g} px; "
            f"the direction of a translation needs at least {threshold_px:g} px."
        )
    return b_T_a, good


def _require(inliers: NDArray[np.bool_], count: int, threshold_px: float) -> None:
    if inliers.sum() < _MATCHES:
        raise GeometryError(
            f"The best relative pose fits {inliers.sum()} of {count} matches within {threshold_px:g} px; "
            f"at least {_MATCHES} must fit."
        )


def _searched(rays_a: Array, rays_b: Array, threshold: float, tries: int) -> tuple[Array, NDArray[np.bool_]]:
    """``_ransac`` by the compiled loops, which draw from a generator of their own."""
    assert LIBRARY is not None
    motion, (a, b) = np.zeros(12), (np.ascontiguousarray(part, np.float64) for part in (rays_a, rays_b))
    limits = ctypes.c_double(threshold), ctypes.c_long(tries), ctypes.c_double(_CONFIDENCE), ctypes.c_ulonglong(1)
    if not LIBRARY.search_motion(ctypes.c_long(len(a)), a.ctypes, b.ctypes, *limits, motion.ctypes):
        return np.eye(4), np.zeros(len(a), bool)
    b_T_a = pose(motion[:9].reshape(3, 3), motion[9:])
    return b_T_a, _fitting(b_T_a, rays_a, rays_b, threshold)


def _ransac(rays_a: Array, rays_b: Array, threshold: float, tries: int) -> tuple[Array, NDArray[np.bool_]]:
    """``b_T_a`` and which matches fit it from in front of both cameras."""
    a, b, eye = np.ascontiguousarray(rays_a[:, :2]), np.ascontiguousarray(rays_b[:, :2]), np.eye(3)
    best, front = np.eye(4), np.zeros(len(a), bool)
    try:
        E, fits = cv2.findEssentialMat(
            a, b, eye, method=cv2.RANSAC, prob=_CONFIDENCE, threshold=threshold, maxIters=tries
        )
        for candidate in () if E is None else np.reshape(E, (-1, 3, 3)):
            # far points count: the default limit of 50 baselines would drop them
            _, R, t, mask, _ = cv2.recoverPose(candidate, a, b, eye, distanceThresh=1e6, mask=fits.copy())
            kept = np.ravel(mask) > 0
            if kept.sum() > front.sum():
                best, front = pose(R, t), kept
    except cv2.error as error:
        raise GeometryError(f"No relative pose for {len(a)} matches: OpenCV says {error.err}.") from error
    return best, front


def epipolar_distances(b_T_a: Array, rays_a: Array, rays_b: Array) -> Array:
    """First-order distances (N,) to the epipolar geometry (Sampson's, Hartley and Zisserman, eq. 11.9), at focal 1."""
    E = np.cross(b_T_a[:3, 3], b_T_a[:3, :3], axisb=0, axisc=0)
    lines_b, lines_a = rays_a @ E.T, rays_b @ E
    slopes = np.sum(lines_b[:, :2] ** 2, axis=1) + np.sum(lines_a[:, :2] ** 2, axis=1)
    return np.abs(np.sum(rays_b * lines_b, axis=1)) / np.sqrt(np.maximum(slopes, 1e-24))


def _fitting(b_T_a: Array, rays_a: Array, rays_b: Array, threshold: float) -> NDArray[np.bool_]:
    """Which matches are near their epipolar lines and in front: from z_b b = z_a R a + t, times R a and times b."""
    turned, t = rays_a @ b_T_a[:3, :3].T, b_T_a[:3, 3]
    normal = np.cross(turned, rays_b)
    depth_a = np.sum(np.cross(rays_b, t) * normal, axis=1)
    depth_b = np.sum(np.cross(turned, t) * normal, axis=1)
    return (epipolar_distances(b_T_a, rays_a, rays_b) < threshold) & (depth_a > 0) & (depth_b > 0)


def _refined(b_T_a: Array, rays_a: Array, rays_b: Array, focal: float) -> Array:
    """Minimise Huber's loss of Sampson's distance, pixels, over rotation (3) and direction of translation (2).

    Levenberg-Marquardt with reweighting. The denominator of a residual changes too slowly to matter in its derivative.
    """
    if LIBRARY is None:
        return _plainly_refined(b_T_a, rays_a, rays_b, focal)
    motion = np.concatenate([b_T_a[:3, :3].ravel(), b_T_a[:3, 3]])
    a, b = (np.ascontiguousarray(part, np.float64) for part in (rays_a, rays_b))
    LIBRARY.refine_motion(ctypes.c_long(len(a)), a.ctypes, b.ctypes, ctypes.c_double(focal), motion.ctypes)
    return pose(motion[:9].reshape(3, 3), motion[9:])


def _plainly_refined(b_T_a: Array, rays_a: Array, rays_b: Array, focal: float) -> Array:
    error, slope = _sloped(b_T_a, rays_a, rays_b, focal)
    width = _HUBER * max(1.4826 * float(np.median(np.abs(error))), 1e-6)
    damping, cost = 1e-4, _huber(error, width)
    for _ in range(_STEPS):
        weighted = slope.T * np.minimum(1.0, width / np.maximum(np.abs(error), 1e-12))
        normal = weighted @ slope
        try:
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)) + 1e-12 * np.eye(5), -weighted @ error)
        except np.linalg.LinAlgError:
            break
        trial = _moved(b_T_a, step)
        error_then, slope_then = _sloped(trial, rays_a, rays_b, focal)
        cost_then = _huber(error_then, width)
        if not cost_then < cost:
            damping *= 10.0
            if damping > 1e6:
                break
            continue
        gain, damping = (cost - cost_then) / cost, damping / 10.0
        b_T_a, error, slope, cost = trial, error_then, slope_then, cost_then
        if gain < _LITTLE:
            break
    return b_T_a


def _huber(error: Array, width: float) -> float:
    size = np.abs(error)
    within = np.minimum(size, width)
    return float(np.sum(within * (size - 0.5 * within)))


def _moved(b_T_a: Array, step: Array) -> Array:
    """``b_T_a`` after a rotation (3) from the left and a step (2) of the translation direction across itself."""
    t = b_T_a[:3, 3] + step[3:] @ _across(b_T_a[:3, 3])
    return pose(cv2.Rodrigues(step[:3])[0] @ b_T_a[:3, :3], t / np.linalg.norm(t))


def _across(t: Array) -> Array:
    """(2, 3) directions in which a unit vector can move."""
    first = np.cross(t, np.eye(3)[np.argmin(np.abs(t))])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(t, first)])


def _sloped(b_T_a: Array, rays_a: Array, rays_b: Array, focal: float) -> tuple[Array, Array]:
    """Sampson's distances (N,), pixels, and their derivatives (N, 5) by the steps of ``_moved``."""
    R, t = b_T_a[:3, :3], b_T_a[:3, 3]
    E = np.cross(t, R, axisb=0, axisc=0)
    lines_b, lines_a = rays_a @ E.T, rays_b @ E
    slopes = np.sum(lines_b[:, :2] ** 2, axis=1) + np.sum(lines_a[:, :2] ** 2, axis=1)
    scale = focal / np.sqrt(np.maximum(slopes, 1e-24))
    turned, normal = rays_a @ R.T, np.cross(rays_b, t)  # b . (t x Ra) is (b x t) . Ra, and (Ra x b) . t
    by_turn = np.cross(turned, normal)
    by_shift = np.cross(turned, rays_b) @ _across(t).T
    error = np.sum(rays_b * lines_b, axis=1)
    return scale * error, scale[:, None] * np.hstack([by_turn, by_shift])


def _parallax(rays_a: Array, rays_b: Array) -> float:
    """Median shift of the matches that the best rotation alone leaves, focal 1."""
    a, b = (r / np.linalg.norm(r, axis=1, keepdims=True) for r in (rays_a, rays_b))
    shifts = np.ones(len(a))
    for _ in range(5):  # least sum of shifts, not of their squares: outliers along the epipolar lines are still present
        shifts = np.linalg.norm(b - a @ _turn(a, b / np.maximum(shifts, 1e-6)[:, None]).T, axis=1)
    return float(np.median(shifts))


def _turn(a: Array, b: Array) -> Array:
    """The rotation (3, 3) that takes unit rays ``a`` (N, 3) closest to ``b`` (N, 3), whose lengths are weights."""
    U, _, Vt = np.linalg.svd(b.T @ a)
    return np.asarray((U * [1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt)


_TURNING_ROUNDS = 4
_SAMPLES = 300
_FOCALS, _FINER = 9, 3  # focals tried at once, and rounds of refinement around the best
_OFF_CENTRE_PX = 6.0  # a larger error is not due to the lens
_DOUBT = 1.8  # a lens off its centre is to explain views nearly twice as well as a little parallax is explained by it
_PER_DECADE = 0.5  # deviation of the log focal, if the range of focals is that wide
_USUAL_LENS = (0.1, 0.1, 0.2)  # standard deviations of the centre, and of the distortion at the border
_LENS_STEPS = 12


def turning_error(a: Array, b: Array, low: float, high: float) -> float:
    """How well a pure rotation, with any focal in [low, high], takes offsets ``a`` (N, 2) to ``b`` (N, 2), pixels.

    Both are relative to the centre of one camera's images. Returns the 80th percentile of the error for the best
    focal and rotation (Wahba's problem by SVD, reweighted against wrong matches), or, if this is small, 1.8 times that
    for the best principal point and radial distortion too, which explain a little parallax as well. A small error means
    no parallax between the views, so no information on depth or translation.
    """
    if len(a) < 3:
        return float("inf")
    keep = np.linspace(0, len(a) - 1, min(len(a), _SAMPLES)).astype(int)
    a, b = a[keep], b[keep]
    focals, least, focal = np.geomspace(low, high, _FOCALS), float("inf"), low
    for _ in range(1 + _FINER):
        errors = _errors(a, b, focals)
        best, step = focals[np.argmin(errors)], focals[1] / focals[0]
        if errors.min() < least:
            least, focal = float(errors.min()), best
        focals = np.geomspace(best / step, best * step, _FOCALS)
    if least >= _OFF_CENTRE_PX:
        return least
    return min(least, _DOUBT * _real_lens_error(a, b, focal, _PER_DECADE * float(np.log10(high / low))))


def _real_lens_error(a: Array, b: Array, focal: float, focal_std: float) -> float:
    """80th percentile of the error with the best principal point, radial distortion, focal and rotation near a focal,
    whose logarithm has a standard deviation.

    A camera that turns by 10 degrees about a principal point 20 pixels off the centre looks as if it had moved by a
    pixel or two.
    """
    extent = float(max(np.abs(a).max(), np.abs(b).max(), 1.0))

    def ideal(seen: Array, x: Array) -> Array:
        """Pinhole offsets (N, 2)."""
        offset = seen - x[4:6] * extent
        return np.asarray(offset * (1.0 + x[6] * np.sum(offset**2, axis=1, keepdims=True) / extent**2))

    def errors(x: Array) -> Array:
        """(N, 2)"""
        f = focal * np.exp(x[3])
        turned = np.insert(ideal(a, x) / f, 2, 1.0, axis=1) @ cv2.Rodrigues(x[:3])[0].T
        return np.asarray(f * turned[:, :2] / np.maximum(turned[:, 2:], 1e-6) - ideal(b, x))

    def residuals(x: Array) -> Array:
        return np.concatenate([errors(x).ravel(), x[3:] / deviations])

    start, deviations = np.zeros(7), np.array([max(focal_std, 1e-3), *_USUAL_LENS])
    unit_a, unit_b = (rays(offsets, focal, (0.0, 0.0)) for offsets in (a, b))
    unit_a, unit_b = (ray / np.linalg.norm(ray, axis=1, keepdims=True) for ray in (unit_a, unit_b))
    start[:3] = cv2.Rodrigues(_turn(unit_a, unit_b))[0].ravel()
    found = least_squares(residuals, start, loss="soft_l1", f_scale=0.5, max_nfev=_LENS_STEPS)
    return float(np.percentile(np.linalg.norm(errors(found.x), axis=1), 80))


def _errors(a: Array, b: Array, focals: Array) -> Array:
    """80th percentiles (F,) with each of ``focals`` (F,)."""
    ray_a, ray_b = (np.insert(offsets / focals[:, None, None], 2, 1.0, axis=2) for offsets in (a, b))
    unit_a, unit_b = (ray / np.linalg.norm(ray, axis=2, keepdims=True) for ray in (ray_a, ray_b))
    weight = np.ones((len(focals), len(a)))
    for _ in range(_TURNING_ROUNDS):
        U, _, Vt = np.linalg.svd((unit_b * weight[..., None]).transpose(0, 2, 1) @ unit_a)
        U[..., 2] *= np.linalg.det(U @ Vt)[:, None]
        turned = ray_a @ (U @ Vt).transpose(0, 2, 1)
        seen = focals[:, None, None] * turned[..., :2] / np.maximum(turned[..., 2:], 1e-6)
        error = np.linalg.norm(seen - b, axis=2)
        weight = 1.0 / (1.0 + (error / np.maximum(np.median(error, axis=1, keepdims=True), 1e-6)) ** 2)
    return np.asarray(np.percentile(error, 80, axis=1))


_LOW, _HIGH, _TRIED = 0.4, 4.0, 60  # multiples of the long edge
_STEP = 1e-3  # step of the log focal, for derivatives
_FEWEST = 20  # matches


@dataclass(frozen=True)
class MotionFocal:
    """``focal`` in pixels, ``std`` of its logarithm."""

    focal: float
    std: float


def focal_from_motion(
    a: Array, b: Array, b_T_a: Array, long_edge: float, *, threshold_px: float, motion_px: float = 0.7
) -> MotionFocal:
    """The focal at which matches ``a``, ``b`` (N, 2), pixels from the principal point, lie on their epipolar lines.

    ``b_T_a`` (4, 4): the motion, at any scale. Focals from 0.4 to 4 times ``long_edge``, evenly spaced in log,
    are tried; the best one is refined by Gauss-Newton on the matches within ``threshold_px``. The error is
    Sampson's (Hartley and Zisserman, "Multiple View Geometry", eq. 11.9). ``motion_px``: by how much errors of
    the motion may shift all of them together. If the motion does not determine the focal (no rotation, and a central
    epipole), ``std`` is large. Raises ``GeometryError`` for too few matches and for a motion without translation.
    """
    if len(a) < _FEWEST:
        raise GeometryError(f"a focal needs {_FEWEST} matches, not {len(a)}")
    if not np.linalg.norm(b_T_a[:3, 3]) > 0:
        raise GeometryError("the motion has no translation; without one there are no epipolar lines")
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
    return MotionFocal(float(np.exp(log_focal)), np.hypot(noise, motion_px) / max(strength, 1e-9))


def sampson(a: Array, b: Array, b_T_a: Array, focal: float) -> Array:
    """Signed Sampson errors (N,), pixels, of matches (N, 2) under a motion and a focal."""
    t = b_T_a[:3, 3]
    E = np.array([[0.0, -t[2], t[1]], [t[2], 0.0, -t[0]], [-t[1], t[0], 0.0]]) @ b_T_a[:3, :3]
    x, y = rays(a, focal, (0.0, 0.0)), rays(b, focal, (0.0, 0.0))
    line_b, line_a = x @ E.T, y @ E
    size = np.sqrt(np.sum(line_b[:, :2] ** 2, axis=1) + np.sum(line_a[:, :2] ** 2, axis=1))
    return focal * np.sum(y * line_b, axis=1) / np.maximum(size, 1e-12)


def _linearised(a: Array, b: Array, b_T_a: Array, log_focal: float) -> tuple[Array, Array]:
    """Errors (N,) and their derivatives with respect to the log focal."""
    below, above = (sampson(a, b, b_T_a, float(np.exp(log_focal + sign * _STEP))) for sign in (-1, 1))
    return (below + above) / 2, (above - below) / (2 * _STEP)
