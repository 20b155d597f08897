"""Errors against truth: trajectories (ATE after alignment and RPE, by evo), depth (Rel and shares within a factor)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dust3r_ros.errors import BackendError, GeometryError, InputError
from dust3r_ros.geometry.lens import raw_pixels
from dust3r_ros.geometry.pinhole import center_of, pixel_grid, rays
from dust3r_ros.types import Array, Array32, Camera, Keyframe, StampedPose

if TYPE_CHECKING:
    from evo.core.metrics import APE, RPE
    from evo.core.trajectory import PoseTrajectory3D


@dataclass(frozen=True)
class DepthErrors:
    """``rel`` and ``delta`` in percent over the ``pixels`` that have both depths."""

    rel: float
    delta: float
    pixels: int


def depth_errors(
    truth: Array | Array32, estimate: Array | Array32, *, median_aligned: bool = False, factor: float = 1.25
) -> DepthErrors:
    """Errors of depth ``estimate`` (H, W) against ``truth`` (H, W), same unit; 0 = none in both.

    Rel = mean |d - d*| / d*, delta = share with max(d / d*, d* / d) < factor (Eigen et al., 2014).
    ``median_aligned`` multiplies the estimate by median(d*) / median(d) first, as monocular depth
    is judged. ``factor`` 1.03 makes delta the inlier ratio tau of multi-view depth (Schroeppel et al., 3DV 2022).
    Raises ``GeometryError`` when the shapes differ or no pixel has both, ``InputError`` for a factor not above 1.
    """
    if not factor > 1.0:
        raise InputError(f"factor {factor} of the depth inliers must be above 1")
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
        delta=100.0 * float(np.mean(ratio < factor)),
        pixels=int(both.sum()),
    )


def mean_errors(errors: Iterable[DepthErrors]) -> DepthErrors | None:
    """Mean over images with equal weights, as in the literature; None without images."""
    parts: Sequence[DepthErrors] = list(errors)
    if not parts:
        return None
    return DepthErrors(
        rel=float(np.mean([part.rel for part in parts])),
        delta=float(np.mean([part.delta for part in parts])),
        pixels=sum(part.pixels for part in parts),
    )


def resample(depth: Array32, keyframe: Keyframe, camera: Camera) -> Array32:
    """A depth map of the images of ``camera``, resampled to the pixels (H, W) of a keyframe's rectified image.

    Nearest value at each pixel's ray: a mean across a depth edge is the depth of nothing. 0 where the camera does
    not see the ray. The depth map may differ in size from the images; both cover the same field of view.
    """
    height, width = keyframe.depth.shape
    x = rays(pixel_grid(height, width), keyframe.focal, center_of(height, width))[..., :2]
    seen = raw_pixels(camera.calibration, x.reshape(-1, 2)).reshape(x.shape)
    size = np.array([depth.shape[1], depth.shape[0]])
    at = np.round(np.nan_to_num((seen + 0.5) * size / [camera.width, camera.height] - 0.5, nan=-1.0)).astype(int)
    inside = np.all((at >= 0) & (at < size), axis=-1)
    columns, rows = np.moveaxis(np.clip(at, 0, size - 1), -1, 0)
    return np.where(inside, depth[rows, columns], np.float32(0.0))


# Fewer poses can be aligned with almost anything.
MIN_MATCHES = 3


@dataclass(frozen=True, eq=False)
class TrajectoryErrors:
    """How far an estimate is from the truth, in the truth's unit of length (m where it is metric).

    ``scale``, ``rotation`` (3, 3) and ``translation`` (3,) take the estimate to the truth:
    x_truth = scale * rotation @ x + translation. ``ate`` is the root mean square distance after
    that, ``ate_percent`` the same in percent of ``path`` (length of the truth over the matched
    poses). ``rpe`` and ``rpe_deg`` are root mean squares over neighbouring matched poses.
    """

    matches: int
    path: float
    ate: float
    ate_median: float
    rpe: float
    rpe_deg: float
    scale: float
    rotation: Array
    translation: Array

    @property
    def ate_percent(self) -> float:
        """``ate`` in percent of ``path``."""
        return 100.0 * self.ate / self.path

    def to_truth(self, points: Array) -> Array:
        """Points (..., 3) of the estimate's world in the truth's."""
        return self.scale * points @ self.rotation.T + self.translation


def trajectory_errors(
    truth: Sequence[StampedPose], estimate: Sequence[StampedPose], *, scale: bool = True, tolerance_s: float = 0.01
) -> TrajectoryErrors:
    """Errors of ``estimate`` against ``truth`` after the least-squares alignment (Umeyama 1991).

    Poses match when their stamps differ by at most ``tolerance_s``. ``scale``: align by a Sim3,
    else by a rigid motion (SE3). Raises ``GeometryError`` for fewer than three
    matches, a truth that stands still or an estimate that determines no alignment, and
    ``BackendError`` where evo is not installed.
    """
    try:
        from evo.core import metrics
    except ImportError as error:
        raise BackendError("trajectory errors need the package evo: pip install 'dust3r_ros[eval]'") from error
    _check_poses(truth, estimate)
    pair, (rotation, translation, factor) = _aligned(truth, estimate, scale, tolerance_s)
    distances = _measured(metrics.APE(metrics.PoseRelation.translation_part), pair)
    shifts, turns = (
        _measured(metrics.RPE(relation, delta=1, delta_unit=metrics.Unit.frames, all_pairs=False), pair)
        for relation in (metrics.PoseRelation.translation_part, metrics.PoseRelation.rotation_angle_deg)
    )
    return TrajectoryErrors(
        matches=len(distances),
        path=float(pair[0].path_length),
        ate=_rms(distances),
        ate_median=float(np.median(distances)),
        rpe=_rms(shifts),
        rpe_deg=_rms(turns),
        scale=float(factor),
        rotation=np.asarray(rotation, dtype=np.float64),
        translation=np.asarray(translation, dtype=np.float64),
    )


def _check_poses(truth: Sequence[StampedPose], estimate: Sequence[StampedPose]) -> None:
    """Raises ``GeometryError`` for too few poses, or poses that are not finite."""
    if min(len(truth), len(estimate)) < MIN_MATCHES:
        raise GeometryError(f"{len(estimate)} poses against {len(truth)} true ones; at least {MIN_MATCHES} are needed")
    for name, poses in (("true", truth), ("estimated", estimate)):
        broken = sum(not np.isfinite(pose.w_T_c).all() for pose in poses)
        if broken:
            raise GeometryError(f"{broken} of {len(poses)} {name} poses are not finite; leave out unknown poses")


def _aligned(
    truth: Sequence[StampedPose], estimate: Sequence[StampedPose], scale: bool, tolerance_s: float
) -> tuple[tuple[PoseTrajectory3D, PoseTrajectory3D], tuple[Array, Array, float]]:
    """Truth and aligned estimate at their common stamps, and the rotation, translation and scale of the alignment."""
    from evo import EvoException
    from evo.core import sync

    try:
        reference, moved = sync.associate_trajectories(_evo(truth), _evo(estimate), max_diff=tolerance_s)
        _check(reference, moved)
        rotation, translation, factor = moved.align(reference, correct_scale=scale)
    except (EvoException, np.linalg.LinAlgError) as error:
        raise GeometryError(f"the trajectory cannot be aligned to the truth: {error}") from error
    if not np.isfinite(factor) or factor <= 0:
        raise GeometryError(f"the trajectory cannot be aligned to the truth: scale {factor}")
    return (reference, moved), (rotation, translation, factor)


def _check(reference: PoseTrajectory3D, moved: PoseTrajectory3D) -> None:
    if reference.num_poses < MIN_MATCHES:
        raise GeometryError(f"{reference.num_poses} poses match the truth by stamp; at least {MIN_MATCHES} are needed")
    if reference.path_length <= 0.0:
        raise GeometryError("the true camera stands still; there is no trajectory to compare with")
    if moved.path_length <= 0.0:
        raise GeometryError("the estimated camera stands still while the true one moves")


def _measured(metric: APE | RPE, pair: tuple[PoseTrajectory3D, PoseTrajectory3D]) -> Array:
    """Errors (N,) of all poses, or steps, by a metric of evo."""
    metric.process_data(pair)
    return np.asarray(metric.error, dtype=np.float64)


def _evo(poses: Sequence[StampedPose]) -> PoseTrajectory3D:
    from evo.core.trajectory import PoseTrajectory3D

    ordered = sorted(poses, key=lambda pose: pose.stamp_ns)
    return PoseTrajectory3D(
        poses_se3=[np.array(pose.w_T_c) for pose in ordered],
        timestamps=np.array([pose.stamp_ns * 1e-9 for pose in ordered]),
    )


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
