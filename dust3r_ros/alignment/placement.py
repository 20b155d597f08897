"""Closed steps of the alignment from moments: a pair onto the scene, and an image under its pixels' mean points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dust3r_ros.types import Array, Array32

_DAMPING = 1e-7
_MAX_LOG_FOCAL = 0.3


def place_pairs(w_S_pair: Array, sums: Array, squares: Array, pull: float) -> Array:
    """The similarities (E, 4, 4) minimising sum_p w_p |point_p - S X_p|^2 / 2 - ``pull`` * log scale, from near.

    ``sums`` (E, 4, 4) of w [X, 1] [point, 1]^T, ``squares`` (E,) of w |X|^2. Rotation by one Newton
    step from ``w_S_pair``, scale and translation in closed form for it (Umeyama, PAMI 1991; the pull
    is what holds the mean log scale). A pair without weight stays where it is.
    """
    total = sums[:, 3, 3]
    used = total > 0
    safe = np.where(used, total, 1.0)
    mean_x, mean_y = sums[:, :3, 3] / safe[:, None], sums[:, 3, :3] / safe[:, None]
    cross = np.swapaxes(sums[:, :3, :3], 1, 2) / safe[:, None, None] - mean_y[:, :, None] * mean_x[:, None]
    square = squares / safe - np.sum(mean_x * mean_x, axis=1)
    linear = w_S_pair[:, :3, :3]
    scale = np.cbrt(np.linalg.det(linear))
    rotation = linear / scale[:, None, None]
    # R exp(v) raises tr(R^T cross): with B = R^T cross, (tr(B) I - sym(B)) v = vee(B - B^T).
    B = np.swapaxes(rotation, 1, 2) @ cross
    twist = np.stack([B[:, 2, 1] - B[:, 1, 2], B[:, 0, 2] - B[:, 2, 0], B[:, 1, 0] - B[:, 0, 1]], axis=1)
    along = np.trace(B, axis1=1, axis2=2)
    normal = along[:, None, None] * np.eye(3) - (B + np.swapaxes(B, 1, 2)) / 2
    usable = used & (along > 0) & (square > 0)
    normal[~usable] = np.eye(3)
    turn = np.linalg.solve(normal, twist[..., None])[..., 0]
    turn /= np.maximum(1.0, np.linalg.norm(turn, axis=1, keepdims=True))
    rotation = rotation @ Rotation.from_rotvec(turn).as_matrix()
    along = np.einsum("eij,eij->e", rotation, cross)
    usable &= along > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = (along + np.sqrt(along**2 + 4 * square * pull / safe)) / (2 * square)
    placed = np.zeros_like(w_S_pair)
    placed[:, :3, :3] = scale[:, None, None] * rotation
    placed[:, :3, 3] = mean_y - np.einsum("eij,ej->ei", placed[:, :3, :3], mean_x)
    placed[:, 3, 3] = 1.0
    return np.where(usable[:, None, None], placed, w_S_pair)


def image_equations(
    total: Array32, mean: Array32, slopes: Array32, depth: Array32, known: Array32 | None = None
) -> Array:
    """Normal equations (B, 7, 8), matrix and right side, of images under their pixels' mean points.

    ``total`` (B, P) weights, ``mean`` (B, 3, P) camera frame, ``slopes`` (B, 2, P) = pixel / focal, ``depth``
    (B, P). Unknowns: rotation vector and translation of the camera in its own frame, log focal.
    Depth along the rays is eliminated; what it cannot mend is the part across: l = (x, y) - slopes z, in the metric
    I - s s^T / (1 + |s|^2). Where depth is known, the part along the ray counts with weight ``known`` (B, P).
    """
    sx, sy = slopes[:, 0], slopes[:, 1]
    x, y = depth * sx, depth * sy
    J = np.empty((len(depth), 2, 8, depth.shape[1]), np.float32)
    J[:, 0, 0], J[:, 0, 1], J[:, 0, 2] = -sx * y, depth + sx * x, -y
    J[:, 1, 0], J[:, 1, 1], J[:, 1, 2] = -depth - sy * y, sy * x, x
    J[:, :, 3:5] = np.eye(2, dtype=np.float32)[..., None]
    J[:, :, 5] = -slopes
    J[:, 0, 6], J[:, 1, 6] = -x, -y
    J[:, :, 7] = mean[:, :2] - slopes * mean[:, 2:]
    MJ = J[:, :, :7] * slopes[:, :, None]
    along = MJ.sum(axis=1)
    along /= (1 + np.square(slopes).sum(axis=1))[:, None]
    np.multiply(along[:, None], slopes[:, :, None], out=MJ)
    np.subtract(J[:, :, :7], MJ, out=MJ)
    MJ *= total[:, None, None]
    equations = (MJ @ np.swapaxes(J, 2, 3)).sum(axis=1, dtype=np.float64)
    return equations if known is None else equations + _along_equations(known, mean, slopes, depth)


def _along_equations(weight: Array32, mean: Array32, slopes: Array32, depth: Array32) -> Array:
    """(B, 7, 8) of the distances along the rays; turning about the camera does not change them."""
    square = np.square(slopes).sum(axis=1)
    length = np.sqrt(1 + square)
    J = np.zeros((len(depth), 8, depth.shape[1]), np.float32)
    J[:, 3:5], J[:, 5], J[:, 6] = slopes / length[:, None], 1 / length, -depth * square / length
    J[:, 7] = (np.einsum("bap,bap->bp", mean[:, :2], slopes) + mean[:, 2]) / length - depth * length
    return np.einsum("bip,bjp->bij", weight[:, None] * J[:, :7], J).astype(np.float64)


def move_images(
    w_T_c: Array,
    focals: Array,
    equations: Array,
    camera: NDArray[np.int64],
    fixed_pose: NDArray[np.bool_],
    fixed_focal: NDArray[np.bool_],
) -> tuple[Array, Array]:
    """Poses (N, 4, 4) and focals (N,) after one step on ``equations`` (N, 7, 8) of ``image_equations``.

    Images with the same ``camera`` (N,) share the step of the focal.
    """
    A, b = equations[:, :, :7].copy(), equations[:, :, 7].copy()
    along = np.arange(7)
    A[:, along, along] *= 1.0 + _DAMPING
    A[:, along, along] += 1e-30
    A[fixed_pose, :, :6] = 0.0
    A[fixed_pose, :6, :] = 0.0
    A[np.ix_(fixed_pose, along[:6], along[:6])] = np.eye(6)
    b[fixed_pose, :6] = 0.0
    pose_of = np.linalg.solve(A[:, :6, :6], np.concatenate([A[:, :6, 6:], b[:, :6, None]], axis=2))
    stiff = A[:, 6, 6] - np.einsum("ni,ni->n", A[:, 6, :6], pose_of[..., 0])
    drive = b[:, 6] - np.einsum("ni,ni->n", A[:, 6, :6], pose_of[..., 1])
    stiff, drive = (np.bincount(camera, np.where(fixed_focal, 0.0, v))[camera] for v in (stiff, drive))
    step = np.divide(drive, stiff, out=np.zeros_like(drive), where=stiff > 0)
    step = np.where(fixed_focal, 0.0, np.clip(step, -_MAX_LOG_FOCAL, _MAX_LOG_FOCAL))
    xi = pose_of[..., 1] - step[:, None] * pose_of[..., 0]
    moved = w_T_c.copy()
    moved[:, :3, 3] += np.einsum("nij,nj->ni", w_T_c[:, :3, :3], xi[:, 3:])
    moved[:, :3, :3] = w_T_c[:, :3, :3] @ Rotation.from_rotvec(xi[:, :3]).as_matrix()
    return moved, focals * np.exp(step)
