"""Trajectory errors: ATE after alignment and RPE, computed by evo (extra ``eval``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dust3r_ros.errors import BackendError, GeometryError
from dust3r_ros.types import Array, StampedPose

if TYPE_CHECKING:
    from evo.core.trajectory import PoseTrajectory3D

# An alignment of fewer poses fits almost anything.
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
    ate_max: float
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

    Poses match when their stamps differ by at most ``tolerance_s``. ``scale`` estimates it too
    (Sim3); False aligns by a rigid motion (SE3). Raises ``GeometryError`` for fewer than three
    matches, a truth that stands still or an estimate that determines no alignment, and
    ``BackendError`` where evo is not installed.
    """
    try:
        from evo import EvoException
        from evo.core import metrics, sync
    except ImportError as error:
        raise BackendError("trajectory errors need the package evo: pip install 'dust3r_ros[eval]'") from error
    if min(len(truth), len(estimate)) < MIN_MATCHES:
        raise GeometryError(f"{len(estimate)} poses against {len(truth)} true ones; at least {MIN_MATCHES} are needed")
    for name, poses in (("true", truth), ("estimated", estimate)):
        broken = sum(not np.isfinite(pose.w_T_c).all() for pose in poses)
        if broken:
            raise GeometryError(f"{broken} of {len(poses)} {name} poses are not finite; leave out what is not known")
    try:
        reference, moved = sync.associate_trajectories(_evo(truth), _evo(estimate), max_diff=tolerance_s)
        _check(reference, moved)
        rotation, translation, factor = moved.align(reference, correct_scale=scale)
    except (EvoException, np.linalg.LinAlgError) as error:
        raise GeometryError(f"the trajectory cannot be aligned to the truth: {error}") from error
    if not np.isfinite(factor) or factor <= 0:
        raise GeometryError(f"the trajectory cannot be aligned to the truth: scale {factor}")
    ape = metrics.APE(metrics.PoseRelation.translation_part)
    ape.process_data((reference, moved))
    steps = [
        metrics.RPE(relation, delta=1, delta_unit=metrics.Unit.frames, all_pairs=False)
        for relation in (metrics.PoseRelation.translation_part, metrics.PoseRelation.rotation_angle_deg)
    ]
    for step in steps:
        step.process_data((reference, moved))
    distances = np.asarray(ape.error, dtype=np.float64)
    return TrajectoryErrors(
        matches=len(distances),
        path=float(reference.path_length),
        ate=_rms(distances),
        ate_median=float(np.median(distances)),
        ate_max=float(distances.max()),
        rpe=_rms(np.asarray(steps[0].error)),
        rpe_deg=_rms(np.asarray(steps[1].error)),
        scale=float(factor),
        rotation=np.asarray(rotation, dtype=np.float64),
        translation=np.asarray(translation, dtype=np.float64),
    )


def _check(reference: PoseTrajectory3D, moved: PoseTrajectory3D) -> None:
    if reference.num_poses < MIN_MATCHES:
        raise GeometryError(f"{reference.num_poses} poses match the truth by stamp; at least {MIN_MATCHES} are needed")
    if reference.path_length <= 0.0:
        raise GeometryError("the true camera stands still; there is no trajectory to compare with")
    if moved.path_length <= 0.0:
        raise GeometryError("the estimated camera stands still while the true one moves")


def _evo(poses: Sequence[StampedPose]) -> PoseTrajectory3D:
    from evo.core.trajectory import PoseTrajectory3D

    ordered = sorted(poses, key=lambda pose: pose.stamp_ns)
    return PoseTrajectory3D(
        poses_se3=[np.array(pose.w_T_c) for pose in ordered],
        timestamps=np.array([pose.stamp_ns * 1e-9 for pose in ordered]),
    )


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
