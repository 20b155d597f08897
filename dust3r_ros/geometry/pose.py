"""Camera pose from 2D-3D matches: PnP with RANSAC and robust refinement, focal known or not.

Also judges whether the inliers could agree by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from scipy.special import gammaln

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.essential import essential_pose
from dust3r_ros.geometry.pinhole import center_of, project
from dust3r_ros.geometry.reprojection import covariance, minimise, minimise_held, settle
from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.types import Array

_POSE_SAMPLE = 3  # matches that determine a pose; one more for an unknown focal


def log_false_alarms(matches: int, inliers: int, sample: int, chance: float) -> float:
    """Base 10 logarithm of the expected number of models with ``inliers`` among ``matches`` unrelated matches.

    It counts all models that ``sample`` matches determine; another match agrees with one with probability ``chance``.
    This is the number of false alarms of Moisan and Stival, "A probabilistic criterion to detect rigid
    point matches between two images", IJCV 2004. Infinite for ``inliers`` up to ``sample``.
    """
    if inliers <= sample or matches <= sample:
        return float("inf")
    models = np.log(matches - sample) + _log_choose(matches, inliers) + _log_choose(inliers, sample)
    return float((models + (inliers - sample) * np.log(chance)) / np.log(10.0))


def pose_log_false_alarms(found: PnpResult, points_world: Array, pixels: Array, threshold_px: float) -> float:
    """``log_false_alarms`` of a pose from 2D-3D matches (N, 3), (N, 2); pixels from the principal point.

    The chance is measured on the matches themselves: how often the pixel of one is within ``threshold_px`` of
    the projected point of another. That is often if all lie close together.
    """
    in_camera = transform(invert(found.w_T_c), points_world)
    expected = project(in_camera[in_camera[:, 2] > 0], found.focal, (0.0, 0.0))
    matches, inliers = len(pixels), int(found.inliers.sum())
    near = cKDTree(expected).count_neighbors(cKDTree(pixels), threshold_px) - inliers
    chance = max(int(near), 1) / max(matches * (matches - 1), 1)
    return log_false_alarms(matches, inliers, _POSE_SAMPLE + (found.focal_std > 0), chance)


def by_chance(found: PnpResult, points_world: Array, pixels: Array, threshold_px: float) -> bool:
    """Whether unrelated matches would give at least one such pose per image."""
    return pose_log_false_alarms(found, points_world, pixels, threshold_px) >= 0.0


def _log_choose(n: int, k: int) -> float:
    return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))


__all__ = ["PnpResult", "essential_pose", "refine_pose", "solve_pnp", "solve_pnp_unknown_focal"]

_RANSAC_POINTS = 4000  # a subset this large suffices to find the pose; every point votes afterwards
_RANSAC_ITERATIONS = 300
_FAR = 100.0  # median distances from the centre
_NEAR, _MOST = 4.0, 0.6  # thresholds within which a guess must have this share of the matches
_ALIGNED = 4  # times that directions are weighed
_MIN_THICKNESS = 1e-6  # thickness of a set of points relative to its length; below, it is a line


@dataclass(frozen=True, eq=False)
class PnpResult:
    """Pose ``w_T_c`` (4, 4) of a camera in the world of its points.

    ``inliers`` (N,) bool: in front of the camera and within the threshold. ``covariance`` (6, 6) of a
    small motion of the camera in its own frame (x, y, z in the world's unit, rotation about x, y,
    z in radians), from the residuals, for errors independent between points. ``rms_px``: of the
    inliers' reprojection errors. ``focal``: pixels, given or found; ``focal_std`` 0 if given.
    """

    w_T_c: Array
    inliers: NDArray[np.bool_]
    covariance: Array
    rms_px: float
    focal: float
    focal_std: float = 0.0

    def relative_std(self, points: NDArray[np.floating]) -> float:
        """Standard deviation of the position relative to the median depth of the inliers among ``points`` (N, 3)."""
        depth = float(np.median(transform(invert(self.w_T_c), np.asarray(points, np.float64)[self.inliers])[:, 2]))
        return float(np.sqrt(np.trace(self.covariance[:3, :3]))) / depth


def solve_pnp(
    points_world: NDArray[np.floating],
    pixels: NDArray[np.floating],
    focal: float,
    center: tuple[float, float],
    *,
    threshold_px: float = 5.0,
    min_inliers: int = 12,
    seed: int = 0,
    near: Array | None = None,
) -> PnpResult:
    """Pose of a camera with known ``focal`` and principal point ``center`` (pixels) from 2D-3D matches.

    ``points_world`` (N, 3), ``pixels`` (N, 2). RANSAC over P3P, then Levenberg-Marquardt on the
    inliers with Huber's loss. The same ``seed`` gives the same result. Matches that are not
    finite are no inliers. ``near`` (4, 4) ``w_T_c``: a guess; if most matches fit it after refinement, RANSAC is
    skipped. Raises ``GeometryError`` for fewer than ``min_inliers`` (4 at least)
    matches or inliers, and for points that leave the pose free (on one line, all in one place).
    """
    matches = _Matches.of(points_world, pixels, center, threshold_px, max(min_inliers, 4), seed)
    found = None if near is None else matches.guessed(near, focal)
    if found is not None:
        return found
    return matches.refined(matches.ransac(focal), focal, free_focal=False)


def refine_pose(
    points_world: Array, pixels: Array, focal: float, near: Array, *, threshold_px: float, min_inliers: int
) -> PnpResult | None:
    """Pose close to a good guess ``near`` (4, 4) ``w_T_c``, in a third of the time of ``solve_pnp``.

    ``points_world`` (N, 3) and ``pixels`` (N, 2) from the principal point, all finite. None if a few steps do not reach
    a pose that fits most matches.
    """
    enough = max(min_inliers, _MOST * len(points_world))
    try:
        c_T_w = settle(points_world, pixels, invert(near), focal, (_NEAR * threshold_px, threshold_px), enough)
        errors = np.linalg.norm(project(transform(c_T_w, points_world), focal, (0.0, 0.0)) - pixels, axis=1)
        inliers = errors < threshold_px
        if inliers.sum() < enough:
            return None
        points, seen = points_world[inliers], pixels[inliers]
        certainty = covariance(points, seen, c_T_w, focal, (0.0, 0.0), free_focal=False)
    except GeometryError:
        return None
    return PnpResult(invert(c_T_w), inliers, certainty, float(np.sqrt(np.mean(errors[inliers] ** 2))), focal)


_GUESSED = 0.7  # relative standard deviation of a depth that is a guess
# By which such landmarks are off in the middle: from there on, they do not say where a camera looks, or prove nothing.
_TOO_FAR_PX, _PROVES_PX = 150.0, 10.0


def turned_pose(
    points: Array,
    pixels: Array,
    placed: NDArray[np.bool_],
    focal: float,
    near: Array,
    seen_from: Array,
    center_std: float,
    *,
    threshold_px: float,
    min_inliers: int,
) -> PnpResult | None:
    """Pose of a camera at about ``near`` (4, 4), ``w_T_c``, that sees landmarks of which few or none are ``placed``.

    The depth of the others among ``points`` (N, 3) is a guess: they lie in the directions in which they were seen from
    ``seen_from`` (3,) or (N, 3). As long as the camera is not far from there, they say where it looks, and hardly where
    it is: that is as in ``near``, which is known to ``center_std`` in each direction, as far as placed ones do not say
    it.
    Pixels (N, 2) from the principal point. None if most do not agree.
    """
    depths = np.linalg.norm(points - near[:3, 3], axis=1)
    moved = np.linalg.norm(near[:3, 3] - seen_from, axis=-1) + center_std
    std = np.where(placed, 1.0, np.hypot(1.0, _GUESSED * focal * moved / np.maximum(depths, 1e-12)))
    enough = max(min_inliers, _MOST * len(points))
    if len(points) < enough or np.median(std) > _TOO_FAR_PX:
        return None
    c_R_w = _aligned(points - near[:3, 3], np.column_stack([pixels / focal, np.ones(len(pixels))]), std)
    try:
        start = pose(c_R_w, -c_R_w @ near[:3, 3])
        origins = np.where(placed[:, None], np.nan, seen_from)
        c_T_w, certainty = minimise_held(points, pixels, std, origins, start, focal, center_std, _GUESSED)
    except GeometryError:
        return None
    errors = np.nan_to_num(
        np.linalg.norm(project(transform(c_T_w, points), focal, (0.0, 0.0)) - pixels, axis=1), nan=np.inf
    )
    inliers = errors < threshold_px * np.minimum(std, _PROVES_PX)
    if inliers.sum() < enough:
        return None
    found = PnpResult(invert(c_T_w), inliers, certainty, float(np.sqrt(np.mean(errors[inliers] ** 2))), focal)
    return None if by_chance(found, points, pixels, threshold_px * min(float(np.median(std)), _PROVES_PX)) else found


def _aligned(world: Array, camera: Array, std: Array) -> Array:
    """The rotation (3, 3) that takes directions (N, 3) to those that most are seen in, uncertain by ``std`` (N,)."""
    a, b = (some / np.linalg.norm(some, axis=1, keepdims=True) for some in (world, camera))
    weights = 1.0 / std
    for _ in range(_ALIGNED):
        turn = Rotation.align_vectors(b, a, weights)[0].as_matrix()
        off = np.linalg.norm(a @ turn.T - b, axis=1) / std
        weights = 1.0 / (std * (1.0 + (off / max(float(np.median(off)), 1e-12)) ** 2))
    return np.asarray(turn)


def solve_pnp_unknown_focal(
    points_world: NDArray[np.floating],
    pixels: NDArray[np.floating],
    width: int,
    height: int,
    *,
    center: tuple[float, float] | None = None,
    threshold_px: float = 5.0,
    min_inliers: int = 12,
    seed: int = 0,
    refine_focal: bool = True,
    guess: float | None = None,
) -> PnpResult:
    """Pose and focal from 2D-3D matches: the focal with most inliers, refined together with the pose.

    Tries 21 focals spaced evenly in log from half to three times the long edge of
    the image (``width`` x ``height``), ``center`` by default its centre; the smallest wins a tie.
    ``refine_focal=False`` keeps the best candidate. ``guess``: if most matches fit this focal after refinement,
    no others are tried. The rest as in ``solve_pnp``.
    """
    middle = center or center_of(height, width)
    matches = _Matches.of(points_world, pixels, middle, threshold_px, max(min_inliers, 4), seed)
    found = None if guess is None else matches.with_focal(guess)
    if found is not None:
        return found
    focals = max(width, height) * np.geomspace(0.5, 3.0, 21)
    return matches.refined(*_best_candidate(matches, focals), free_focal=refine_focal)


MIN_INLIERS = 25  # pose and focal together fit more by chance than a pose alone


def pose_and_focal(
    points: Array,
    pixels: Array,
    long_edge: int,
    seed: int,
    max_error_px: float,
    min_inliers: int = MIN_INLIERS,
    guess: float | None = None,
) -> PnpResult:
    """Pose and focal of a frame that sees ``points`` (N, 3) at ``pixels`` (N, 2) from its centre.

    Raises ``GeometryError`` if too few agree, or no more than by chance.
    """
    found = solve_pnp_unknown_focal(
        points,
        pixels,
        long_edge,
        long_edge,
        center=(0.0, 0.0),
        threshold_px=max_error_px,
        min_inliers=min_inliers,
        seed=seed,
        guess=guess,
    )
    if by_chance(found, points, pixels, max_error_px):
        raise GeometryError(f"{found.inliers.sum()} of {len(points)} matches agree, which chance does as well")
    return found


def _best_candidate(matches: _Matches, focals: Array) -> tuple[Array, float]:
    """``c_T_w`` and the tried focal that fits most matches; the first wins a tie."""
    best, most = None, 0
    for focal in focals:
        try:
            c_T_w = matches.ransac(float(focal))
        except GeometryError:
            continue
        count = int(matches.inliers(c_T_w, float(focal)).sum())
        if count > most:
            best, most = (c_T_w, float(focal)), count
    if best is None:
        raise GeometryError(
            f"No pose for any of {len(focals)} focals has {matches.min_inliers} of {len(matches.points)} matches "
            f"within {matches.threshold_px:g} px."
        )
    return best


@dataclass(frozen=True, eq=False)
class _Matches:
    """The finite matches of one problem; ``center_world`` (3,) is subtracted: OpenCV's RANSAC works in float32."""

    points: Array
    pixels: Array
    finite: NDArray[np.bool_]
    center_world: Array
    center: tuple[float, float]
    threshold_px: float
    min_inliers: int
    seed: int

    @classmethod
    def of(
        cls,
        points: NDArray[np.floating],
        pixels: NDArray[np.floating],
        center: tuple[float, float],
        threshold_px: float,
        min_inliers: int,
        seed: int,
    ) -> _Matches:
        xyz, uv = np.asarray(points, dtype=np.float64), np.asarray(pixels, dtype=np.float64)
        if xyz.ndim != 2 or xyz.shape[1] != 3 or uv.shape != (len(xyz), 2):
            raise GeometryError(f"PnP needs points (N, 3) and pixels (N, 2), not {xyz.shape} and {uv.shape}.")
        finite: NDArray[np.bool_] = np.all(np.isfinite(np.hstack([xyz, uv])), axis=1)
        if finite.sum() < min_inliers:
            raise GeometryError(f"PnP needs at least {min_inliers} finite matches, not {finite.sum()} of {len(xyz)}.")
        singular = np.linalg.svd(np.cov(xyz[finite].T), compute_uv=False) ** 0.5
        if not singular[1] > _MIN_THICKNESS * singular[0]:
            raise GeometryError(
                f"PnP needs points that are not on one line; these {finite.sum()} extend by {singular[0]:.3g}, "
                f"{singular[1]:.3g} and {singular[2]:.3g} along their principal axes."
            )
        shift = np.median(xyz[finite], axis=0)
        return cls(xyz[finite] - shift, uv[finite], finite, shift, center, threshold_px, min_inliers, seed)

    def errors(self, c_T_w: Array, focal: float) -> Array:
        """Reprojection errors (N,), pixels; infinite behind the camera."""
        found = project(transform(c_T_w, self.points), focal, self.center)
        return np.nan_to_num(np.linalg.norm(found - self.pixels, axis=1), nan=np.inf)

    def inliers(self, c_T_w: Array, focal: float) -> NDArray[np.bool_]:
        """Which matches fit; raises ``GeometryError`` for too few."""
        inliers = self.errors(c_T_w, focal) < self.threshold_px
        if inliers.sum() < self.min_inliers:
            raise GeometryError(
                f"PnP with focal {focal:.4g} fits {inliers.sum()} of {len(inliers)} matches within "
                f"{self.threshold_px:g} px; at least {self.min_inliers} must fit."
            )
        return inliers

    def ransac(self, focal: float) -> Array:
        """``c_T_w`` (4, 4) that fits most matches, polished in closed form (SQPnP)."""
        draw = np.random.default_rng(self.seed).permutation(len(self.points))[:_RANSAC_POINTS]
        points, rays = self.points[draw], (self.pixels[draw] - np.asarray(self.center)) / focal
        spread = float(np.median(np.linalg.norm(points, axis=1))) or 1.0  # a few may be very far away
        points, eye = points / spread, np.eye(3)
        try:
            _, _, _, chosen = cv2.solvePnPRansac(
                points, rays, eye, None, iterationsCount=_RANSAC_ITERATIONS,
                reprojectionError=self.threshold_px / focal, confidence=0.9999, flags=cv2.SOLVEPNP_P3P,
            )  # fmt: skip
            found = chosen is not None and len(chosen) >= 4
            if found:
                index = np.ravel(chosen)
                near = index[np.linalg.norm(points[index], axis=1) < _FAR]  # SQPnP weights points by distance
                index = near if len(near) >= 4 else index
                found, rvec, tvec = cv2.solvePnP(points[index], rays[index], eye, None, flags=cv2.SOLVEPNP_SQPNP)
        except cv2.error:
            found = False
        if not found:
            raise GeometryError(
                f"PnP with focal {focal:.4g} finds no pose for {len(self.points)} matches; "
                f"at least {self.min_inliers} must fit one within {self.threshold_px:g} px."
            )
        c_T_w = pose(Rotation.from_rotvec(np.ravel(rvec)).as_matrix(), np.ravel(tvec) * spread)
        self.inliers(c_T_w, focal)
        return c_T_w

    def with_focal(self, guess: float) -> PnpResult | None:
        """Pose and focal refined from a guess of the focal alone; None if most matches do not fit."""
        try:
            found = self.refined(self.ransac(guess), guess, free_focal=True)
        except GeometryError:
            return None
        return found if found.inliers.sum() >= _MOST * len(self.points) else None

    def guessed(self, near: Array, focal: float) -> PnpResult | None:
        """The result of refining a guess; None if most matches do not fit."""
        c_T_w = invert(near)
        c_T_w[:3, 3] += c_T_w[:3, :3] @ self.center_world
        close = self.errors(c_T_w, focal) < _NEAR * self.threshold_px
        enough = max(self.min_inliers, _MOST * len(self.points))
        if close.sum() < enough:
            return None
        try:
            c_T_w, _ = minimise(self.points[close], self.pixels[close], c_T_w, focal, self.center, False)
            found = self.refined(c_T_w, focal, free_focal=False)
        except GeometryError:
            return None
        return found if found.inliers.sum() >= enough else None

    def refined(self, c_T_w: Array, focal: float, free_focal: bool) -> PnpResult:
        """The result of refining on the inliers, twice, because the first refinement changes them."""
        chosen = None
        for _ in range(2):
            inliers = self.inliers(c_T_w, focal)
            if chosen is not None and np.array_equal(inliers, chosen):
                break
            chosen = inliers
            points, pixels = self.points[inliers], self.pixels[inliers]
            c_T_w, focal = minimise(points, pixels, c_T_w, focal, self.center, free_focal)
        cov = covariance(points, pixels, c_T_w, focal, self.center, free_focal)
        inliers = self.inliers(c_T_w, focal)
        mask = np.zeros(len(self.finite), bool)
        mask[np.flatnonzero(self.finite)[inliers]] = True
        w_T_c = invert(c_T_w)
        w_T_c[:3, 3] += self.center_world
        rms = float(np.sqrt(np.mean(self.errors(c_T_w, focal)[inliers] ** 2)))
        deviation = float(np.sqrt(cov[6, 6])) if free_focal else 0.0
        return PnpResult(w_T_c, mask, cov[:6, :6], rms, focal, deviation)
