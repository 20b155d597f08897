"""Prior knowledge with its deviation, as terms in an alignment's steps.

The published objective is not a likelihood: a view of a pair counts as ``INDEPENDENT`` measurements of the mean
residual, however many pixels it has, because their errors are correlated. Priors are weighted against that by
their covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dust3r_ros.alignment.batch.pixel_block import PixelBlock
from dust3r_ros.alignment.batch.problem import AlignmentProblem
from dust3r_ros.alignment.similarity_graph import PosePrior
from dust3r_ros.types import Array, Array32

INDEPENDENT = 16.0
_NO_DEVIATION = np.float32(1e15)  # for unknown depth; its square fits a float32


@dataclass(frozen=True, eq=False)
class Priors:
    """``poses``: the soft ones. ``focals`` (N,) pixels, ``focal_information`` (N,) of their logs, 0 where there is
    no prior. ``depths`` and ``deviations``: N maps (H, W), 0 for unknown and for held.
    """

    poses: PosePrior | None
    focals: Array
    focal_information: Array
    depths: list[Array32] | None
    deviations: list[Array32] | None

    @classmethod
    def of(cls, problem: AlignmentProblem, camera: NDArray[np.int64]) -> Priors:
        """The priors of a problem; images of one ``camera`` (N,) share one focal and one prior on it."""
        focals, information = np.ones(len(problem.shapes)), np.zeros(len(problem.shapes))
        if problem.focals is not None and problem.focal_std is not None:
            soft = problem.focal_std > 0
            focals = np.where(soft, problem.focals, 1.0)
            shared = np.bincount(camera, soft)[camera]
            information[soft] = np.square(focals / np.where(soft, problem.focal_std, 1.0))[soft] / shared[soft]
        return cls(soft_poses(problem), focals, information, problem.depths, problem.depth_std)

    def equations(self, w_T_c: Array, focals: Array, unit: float) -> Array:
        """(N, 7, 8) as in ``sweeps.image_equations``; ``unit``: cost of one independent measurement."""
        added = np.zeros((len(focals), 7, 8))
        added[:, 6, 6] = unit * self.focal_information
        added[:, 6, 7] = unit * self.focal_information * np.log(self.focals / focals)
        if self.poses is not None:
            at = self.poses.keyframes
            r, J = pose_residuals(w_T_c[at], self.poses.w_T_c)
            JtL = unit * np.swapaxes(J, 1, 2) @ np.linalg.inv(self.poses.covariance)
            added[at, :6, :6] += JtL @ J
            added[at, :6, 7] -= np.einsum("kij,kj->ki", JtL, r)
        return added

    def depths_of(self, block: PixelBlock) -> tuple[Array32, Array32] | None:
        """(B, P) depth and squared deviation of a block's pixels, huge where unknown; None without depth priors."""
        if self.depths is None:
            return None
        depth, square = [], []
        for image in block.images:
            z, s = self.depth_of(int(image)) or (np.empty(0), np.empty(0))
            u, v = block.at(z.shape)
            depth.append(z[v, u])
            square.append(s[v, u])
        return np.stack(depth), np.stack(square)

    def depth_of(self, image: int) -> tuple[Array32, Array32] | None:
        """(H, W) depth and squared deviation of an image, huge where unknown; None without depth priors."""
        if self.depths is None:
            return None
        z = self.depths[image]
        deviation = np.zeros_like(z) if self.deviations is None else self.deviations[image]
        return z, np.square(np.where(z > 0, deviation, _NO_DEVIATION)).astype(np.float32)


def soft_poses(problem: AlignmentProblem) -> PosePrior | None:
    """The poses given with a covariance."""
    if problem.poses is None or problem.pose_covariance is None:
        return None
    soft = np.flatnonzero(problem.pose_covariance[:, 0, 0] > 0)
    return PosePrior(soft, problem.poses[soft], problem.pose_covariance[soft], INDEPENDENT)


def held_poses(problem: AlignmentProblem) -> NDArray[np.bool_]:
    """(N,) which poses are given without a covariance."""
    if problem.poses is None:
        return np.zeros(len(problem.shapes), bool)
    known = np.isfinite(problem.poses[:, 0, 0])
    return known if problem.pose_covariance is None else known & (problem.pose_covariance[:, 0, 0] == 0)


def held_focals(problem: AlignmentProblem) -> NDArray[np.bool_]:
    """(N,) which focals are given without a deviation."""
    if problem.focals is None:
        return np.zeros(len(problem.shapes), bool)
    known = np.isfinite(problem.focals)
    return known if problem.focal_std is None else known & (problem.focal_std == 0)


def pose_residuals(w_T_c: Array, given: Array) -> tuple[Array, Array]:
    """(K, 6) rotation vector and translation of poses (K, 4, 4) in the frames of the given ones, and Jacobians
    (K, 6, 6) with respect to increments in the poses' own frames.
    """
    R, back = w_T_c[:, :3, :3], np.swapaxes(given[:, :3, :3], 1, 2)
    turn = Rotation.from_matrix(back @ R).as_rotvec()
    shift = np.einsum("kij,kj->ki", back, w_T_c[:, :3, 3] - given[:, :3, 3])
    J = np.zeros((len(R), 6, 6))
    J[:, :3, :3], J[:, 3:, 3:] = np.eye(3), back @ R
    return np.concatenate([turn, shift], axis=1), J


def gauge(prior: PosePrior, w_T_c: Array, scale: bool) -> tuple[float, Array, Array]:
    """The change of world, x' = s R x + t, under which poses (N, 4, 4) fit their prior best: (s, R, t).

    One least-squares step from nearby; what the prior leaves open does not move (least norm). ``scale``: whether the
    scale may change.
    """
    own = w_T_c[prior.keyframes]
    r, _ = pose_residuals(own, prior.w_T_c)
    t, back = own[:, :3, 3], np.swapaxes(prior.w_T_c[:, :3, :3], 1, 2)
    J = np.zeros((len(own), 6, 7))
    J[:, :3, :3] = np.swapaxes(own[:, :3, :3], 1, 2)
    cross = np.zeros((len(own), 3, 3))
    cross[:, [2, 0, 1], [1, 2, 0]], cross[:, [1, 2, 0], [2, 0, 1]] = t, -t
    J[:, 3:, :3], J[:, 3:, 3:6] = -back @ cross, back
    J[:, 3:, 6] = np.einsum("kij,kj->ki", back, t) if scale else 0.0
    root = np.swapaxes(np.linalg.cholesky(np.linalg.inv(prior.covariance)), 1, 2)
    xi = -np.linalg.lstsq((root @ J).reshape(-1, 7), (root @ r[..., None]).ravel(), rcond=1e-9)[0]
    return float(np.exp(xi[6])), Rotation.from_rotvec(xi[:3]).as_matrix(), np.asarray(xi[3:6], np.float64)
