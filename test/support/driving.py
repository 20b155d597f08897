"""Robots that drive with a camera: true ways, what odometry makes of them, and what a map does."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, invert
from dust3r_ros.types import Array


def way(rng: np.random.Generator, count: int = 120, step: float = 0.1, turning: float = 0.02) -> Array:
    """(N, 4, 4) w_T_c of a camera that looks ahead on a level floor; ``turning``: radians by which its rate changes."""
    poses, at, yaw, rate = [], np.zeros(3), 0.0, 0.0
    for _ in range(count):
        body = np.eye(4)
        body[:3, :3] = Rotation.from_euler("z", yaw).as_matrix()
        body[:3, 3] = at
        poses.append(body @ BODY_T_OPTICAL)
        rate = 0.9 * rate + turning * rng.normal()
        yaw += rate
        at = at + step * body[:3, 0]
    return np.array(poses)


def odometry(
    truth: Array,
    rng: np.random.Generator,
    noise: float = 0.02,
    turn_deg: float = 0.5,
    slip: slice | None = None,
    jump: int | None = None,
) -> Array:
    """(N, 4, 4) o_T_c: steps off by ``noise`` of their length, ``turn_deg`` per square root of a metre.

    In ``slip`` the wheels turn further than the robot moves, by a usual step each; at ``jump`` odometry starts anew.
    """
    usual = float(np.median(np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1)))
    found = [truth[0]]
    for k in range(len(truth) - 1):
        if jump is not None and k == jump:
            found.append(BODY_T_OPTICAL)
            continue
        step = invert(truth[k]) @ truth[k + 1]
        length = float(np.linalg.norm(step[:3, 3]))
        step[:3, 3] += noise * np.sqrt(length * usual) * rng.normal(size=3)
        if slip is not None and slip.start <= k < slip.stop:
            step[2, 3] += usual
        turn = np.radians(turn_deg) * np.sqrt(length) * rng.normal(size=3)
        step[:3, :3] = step[:3, :3] @ Rotation.from_rotvec(turn).as_matrix()
        found.append(found[-1] @ step)
    return np.array(found)


def mapped(
    truth: Array, rng: np.random.Generator, scale: float, noise: float = 0.005, turn: Array | None = None
) -> Array:
    """(N, 4, 4) poses of a map with units of ``scale`` metres, off by ``noise`` metres and 0.1 degrees, ``turn``ed."""
    found = truth.copy()
    found[:, :3, 3] = (truth[:, :3, 3] + noise * rng.normal(size=(len(truth), 3))) / scale
    found[:, :3, :3] = (
        truth[:, :3, :3] @ Rotation.from_rotvec(np.radians(0.1) * rng.normal(size=(len(truth), 3))).as_matrix()
    )
    if turn is not None:
        found[:, :3] = turn @ found[:, :3]
    return found
