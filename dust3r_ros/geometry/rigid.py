"""Rigid motions as (4, 4) matrices ``a_T_b``, which map points of frame b into frame a, and smooth paths of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

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


def is_rigid(matrix: Array) -> bool:
    """Whether a (4, 4) matrix is a rigid motion with a translation within ``FARTHEST``; NaN is not."""
    near = np.abs(matrix[:3, 3]).max() < FARTHEST and np.array_equal(matrix[3], [0.0, 0.0, 0.0, 1.0])
    return bool(near and is_rotation(matrix[:3, :3], 1e-2))


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
    """The pose at ``part`` of the way between two, above 1 beyond it: on the line, and on the shortest arc."""
    turn = Rotation.from_matrix(a_T_b[:3, :3].T @ a_T_c[:3, :3]).as_rotvec()
    rotation = a_T_b[:3, :3] @ Rotation.from_rotvec(part * turn).as_matrix()
    return pose(rotation, a_T_b[:3, 3] + part * (a_T_c[:3, 3] - a_T_b[:3, 3]))


# Densities of a path's accelerations that are tried: units^2 / s^3, and rad^2 / s^3.
_MOVING, _TURNING = 10.0 ** np.arange(-6, 2), 10.0 ** np.arange(-5, 3)
_FAST = 10.0  # units and radians per second, a velocity of which nothing is known


def smoothed(seconds: Array, w_T_c: Array, covariances: Array, unit: float) -> Array:
    """Poses (N, 4, 4) of a path, each from its measurement and from those before and after it.

    ``seconds`` (N,) rise; ``w_T_c`` (N, 4, 4) are measured with ``covariances`` (N, 6, 6) of a small motion in the
    camera's own frame (x, y, z, rotation about x, y, z), of NaN where nothing is. ``unit``: a length of the scene.
    Velocities walk at random, by as much as makes the measurements most likely (Rauch, Tung and Striebel, "Maximum
    likelihood estimates of linear dynamic systems", AIAA Journal 1965).
    """
    measured = np.isfinite(covariances[:, 0, 0])
    around, known = w_T_c.copy(), np.flatnonzero(measured)
    for k in np.flatnonzero(~measured):  # where a wrong pose would bend the chart of rotations
        a, b = known[[max(0, np.searchsorted(known, k) - 1), min(len(known) - 1, np.searchsorted(known, k))]]
        part = (seconds[k] - seconds[a]) / (seconds[b] - seconds[a]) if b != a else 0.0
        around[k] = interpolate(around[a], around[b], float(np.clip(part, 0.0, 1.0)))
    turns = Rotation.from_matrix(around[1:, :3, :3] @ np.swapaxes(around[:-1, :3, :3], 1, 2)).as_rotvec()
    places = np.hstack([around[:, :3, 3], np.cumsum(np.vstack([np.zeros(3), turns]), axis=0)])
    axes = np.zeros((len(around), 6, 6))
    axes[:, :3, :3] = axes[:, 3:, 3:] = around[:, :3, :3]
    noise = axes @ covariances @ np.swapaxes(axes, 1, 2)
    tried = np.array([(unit**2 * moving, turning) for moving in _MOVING for turning in _TURNING])
    likely = np.sum([step.likely for step in _filtered(seconds, places, noise, tried, unit)], axis=0)
    steps = list(_filtered(seconds, places, noise, tried[[np.argmax(likely)]], unit))
    states = [steps[-1].state[0]]
    for step, later in zip(steps[-2::-1], steps[:0:-1], strict=True):
        gain = np.linalg.solve(later.predicted_spread[0], later.change @ step.spread[0]).T
        states.append(step.state[0] + gain @ (states[-1] - later.predicted[0]))
    off = np.stack(states[::-1])[:, :6] - places
    around[:, :3, 3] += off[:, :3]
    around[:, :3, :3] = Rotation.from_rotvec(off[:, 3:]).as_matrix() @ around[:, :3, :3]
    return around


class _Step(NamedTuple):
    """A step of G Kalman filters: ``change`` (12, 12) since the last one, states (G, 12) with their ``spread``
    (G, 12, 12) before and with the measurement, and how ``likely`` (G,) that was (log)."""

    change: Array
    predicted: Array
    predicted_spread: Array
    state: Array
    spread: Array
    likely: Array


def _filtered(seconds: Array, places: Array, noise: Array, densities: Array, unit: float) -> Iterator[_Step]:
    """The steps along ``places`` (N, 6) measured with ``noise`` (N, 6, 6); ``densities`` (G, 2) of accelerations."""
    state = np.tile(np.concatenate([places[0], np.zeros(6)]), (len(densities), 1))
    first = np.diag([unit**2] * 3 + [1.0] * 3 + [(_FAST * unit) ** 2] * 3 + [_FAST**2] * 3)
    spread = np.tile(first, (len(densities), 1, 1))
    driven = np.repeat(densities, 3, axis=1)[:, :, None] * np.eye(6)
    for s, place, error in zip(np.diff(seconds, prepend=seconds[0]), places, noise, strict=True):
        change = np.eye(12) + s * np.eye(12, k=6)
        state, spread = state @ change.T, change @ spread @ change.T
        spread += np.block([[driven * s**3 / 3, driven * s**2 / 2], [driven * s**2 / 2, driven * s]])
        predicted, likely = (state, spread), np.zeros(len(densities))
        if np.isfinite(error[0, 0]):
            total, off = spread[:, :6, :6] + error, place - state[:, :6]
            solved = np.linalg.solve(total, np.concatenate([spread[:, :6], off[:, :, None]], axis=2))
            gain, weighed = np.swapaxes(solved[:, :, :12], 1, 2), solved[:, :, 12]
            likely = -0.5 * (np.sum(off * weighed, axis=1) + np.linalg.slogdet(total)[1])
            state, kept = state + (gain @ off[:, :, None])[:, :, 0], np.tile(np.eye(12), (len(gain), 1, 1))
            kept[:, :, :6] -= gain
            # Joseph's form: the shorter one is not symmetric any more after some hundred steps.
            spread = kept @ spread @ np.swapaxes(kept, 1, 2) + gain @ error @ np.swapaxes(gain, 1, 2)
        yield _Step(change, *predicted, state, spread, likely)
