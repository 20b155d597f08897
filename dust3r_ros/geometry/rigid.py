"""Rigid motions as (4, 4) matrices ``a_T_b``, which map points of frame b into frame a."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.types import Array

# An optical frame (x right, y down, z forward) in a ROS body frame (x forward, y left, z up):
# the pose of a level camera that looks along x (REP 103).
BODY_T_OPTICAL: Array = np.array(
    [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)

# Translations beyond this are no measurement; products of larger numbers soon overflow.
FARTHEST = 1e9


def pose(rotation: ArrayLike, translation: ArrayLike) -> Array:
    """(4, 4) from a (3, 3) rotation and a translation (3,)."""
    T = np.eye(4)
    T[:3, :3] = rotation
    T[:3, 3] = np.asarray(translation, dtype=np.float64).reshape(3)
    return T


def is_rotation(matrix: Array, tolerance: float = 1e-3) -> bool:
    """Whether a (3, 3) matrix is a rotation: no entry of R R^T - I is beyond ``tolerance``; NaN is not."""
    turned = np.abs(matrix).max() < 2.0 and np.abs(matrix @ matrix.T - np.eye(3)).max() < tolerance
    return bool(turned and np.linalg.det(matrix) > 0)


def is_rigid(matrix: Array, tolerance: float = 1e-2) -> bool:
    """Whether a (4, 4) matrix is a rigid motion with a translation within ``FARTHEST``; NaN is not."""
    near = np.abs(matrix[:3, 3]).max() < FARTHEST and np.array_equal(matrix[3], [0.0, 0.0, 0.0, 1.0])
    return bool(near and is_rotation(matrix[:3, :3], tolerance))


def invert(a_T_b: Array) -> Array:
    """``b_T_a`` of rigid motions (..., 4, 4)."""
    R_t = np.swapaxes(a_T_b[..., :3, :3], -1, -2)
    result = np.zeros_like(a_T_b)
    result[..., :3, :3] = R_t
    result[..., :3, 3] = -np.einsum("...ij,...j->...i", R_t, a_T_b[..., :3, 3])
    result[..., 3, 3] = 1.0
    return result


def transform(a_T_b: Array, points: Array) -> Array:
    """Points (..., 3) of frame b in frame a."""
    return points @ a_T_b[:3, :3].T + a_T_b[:3, 3]


def quaternion(rotation: Array) -> Array:
    """(x, y, z, w), w >= 0, of a (3, 3) rotation: by its largest component, after Shepperd, 1978.

    Called for every image: SciPy's ``Rotation`` gives the same but takes thirty times as long.
    """
    m = rotation.tolist()
    trace = m[0][0] + m[1][1] + m[2][2]
    i = max(range(3), key=lambda axis: m[axis][axis])
    if trace >= m[i][i]:
        q = [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1], 1.0 + trace]
    else:
        j, k = (i + 1) % 3, (i + 2) % 3
        q = [0.0, 0.0, 0.0, m[k][j] - m[j][k]]
        q[i], q[j], q[k] = 1.0 - trace + 2.0 * m[i][i], m[j][i] + m[i][j], m[k][i] + m[i][k]
    length = math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    return np.array(q) / (-length if q[3] < 0 else length)


def angle_deg(rotation: Array) -> float:
    """Angle in degrees of a (3, 3) rotation."""
    return float(np.degrees(Rotation.from_matrix(rotation).magnitude()))


def from_quaternion(translation: ArrayLike, xyzw: ArrayLike) -> Array:
    """(4, 4) from a translation (3,) and a quaternion (x, y, z, w), which is normalised.

    Raises ``GeometryError`` for a quaternion that is far from unit length (a message that was never
    filled in holds zeros), numbers that are not finite, or a translation that no robot has.
    """
    t, q = np.asarray(translation, np.float64).reshape(3), np.asarray(xyzw, np.float64).reshape(4)
    length = float(np.linalg.norm(q))
    if not (np.abs(t).max() < FARTHEST and abs(length - 1.0) < 0.1):  # NaN is not less
        raise GeometryError(
            f"A pose with translation {t.tolist()} and quaternion {q.tolist()} of length {length:.3g} is invalid; "
            f"all must be finite, the translation within {FARTHEST:g} and the length 1."
        )
    return pose(Rotation.from_quat(q).as_matrix(), t)


def interpolate(a_T_b: Array, a_T_c: Array, part: float) -> Array:
    """The pose at ``part`` (0 to 1) of the way between two: translation on the line, rotation on the shortest arc."""
    turn = Rotation.from_matrix(a_T_b[:3, :3].T @ a_T_c[:3, :3]).as_rotvec()
    rotation = a_T_b[:3, :3] @ Rotation.from_rotvec(part * turn).as_matrix()
    return pose(rotation, a_T_b[:3, 3] + part * (a_T_c[:3, 3] - a_T_b[:3, 3]))
