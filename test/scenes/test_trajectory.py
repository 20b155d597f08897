"""Camera paths are rigid, smooth, as fast as asked and where there is room."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import angle_deg
from dust3r_ros.scenes.rooms import CORRIDOR_SIZE, ROOM_SIZE, corridor, room
from dust3r_ros.scenes.trajectory import PATHS, look_at, walk


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("rate_hz", [10.0, 30.0])
def test_paths_are_rigid_smooth_and_in_the_world(kind: str, rate_hz: float) -> None:
    poses = walk(kind, 60, rate_hz=rate_hz, seed=4)
    rotations = poses[:, :3, :3]
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(rotations), 1)
    speed = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1) * rate_hz
    turning = np.array([angle_deg(a.T @ b) for a, b in pairwise(rotations)]) * rate_hz
    assert speed.max() < 1.3 * max(PATHS[kind].speed, 0.1) and turning.max() < 60
    assert np.abs(np.diff(speed)).max() < 0.2  # no jerk between two frames
    half = np.array(CORRIDOR_SIZE if kind == "corridor" else ROOM_SIZE) / 2
    assert (np.abs(poses[:, :2, 3]) < half[:2] - 0.7).all()
    assert ((poses[:, 2, 3] > 1.0) & (poses[:, 2, 3] < 1.8)).all()
    assert (poses[:, 2, 1] < -0.8).all()  # the image's down points down


def test_rotation_stays_on_its_spot_and_turns() -> None:
    poses = walk("rotation", 40, rate_hz=10)
    assert np.ptp(poses[:, :3, 3], axis=0).max() == 0
    assert angle_deg(poses[0, :3, :3].T @ poses[-1, :3, :3]) > 60


def test_a_lap_of_the_orbit_ends_where_it_began_up_to_the_hand() -> None:
    poses = walk("orbit", 100, laps=1.0, seed=2)
    assert np.linalg.norm(poses[0, :3, 3] - poses[-1, :3, 3]) < 0.05
    assert np.linalg.norm(poses[0, :3, 3] - poses[50, :3, 3]) > 2.5
    towards_middle = ([0, 0, 0.9] - poses[:, :3, 3]) * [1, 1, 0]
    towards_middle /= np.linalg.norm(towards_middle, axis=1, keepdims=True)
    assert ((poses[:, :3, 2] * towards_middle).sum(1) > 0.8).all()


def test_open_paths_are_walked_once_however_long_it_takes() -> None:
    short, long = walk("forward", 50, rate_hz=10), walk("forward", 500, rate_hz=10)
    assert long[-1, 0, 3] > short[-1, 0, 3] > short[0, 0, 3]
    assert long[-1, 0, 3] < 2.0
    assert walk("sweep", 1).shape == (1, 4, 4)


def test_hand_and_seed() -> None:
    assert np.array_equal(walk("sweep", 20, seed=1), walk("sweep", 20, seed=1))
    assert not np.array_equal(walk("sweep", 20, seed=1), walk("sweep", 20, seed=2))


def test_look_at_sees_the_target_in_the_middle_and_level() -> None:
    T = look_at(np.array([1.0, -2.0, 1.5]), np.array([0.0, 0.5, 0.3]))
    target = np.linalg.inv(T) @ [0.0, 0.5, 0.3, 1.0]
    assert np.allclose(target[:2], 0) and target[2] > 0
    assert T[2, 0] == 0  # the horizon is level
    rolled = look_at(np.array([1.0, -2.0, 1.5]), np.array([0.0, 0.5, 0.3]), roll=0.3)
    assert angle_deg(T[:3, :3].T @ rolled[:3, :3]) == pytest.approx(np.degrees(0.3))


@pytest.mark.parametrize("kind, frames, rate_hz", [("spiral", 10, 15.0), ("orbit", 0, 15.0), ("orbit", 5, 0.0)])
def test_impossible_walks_are_refused(kind: str, frames: int, rate_hz: float) -> None:
    with pytest.raises(InputError):
        walk(kind, frames, rate_hz=rate_hz)


@pytest.mark.parametrize("kind", PATHS)
def test_nothing_stands_in_the_way(kind: str) -> None:
    world = corridor(0) if kind == "corridor" else room(0)
    for pose in walk(kind, 12, rate_hz=1.0, seed=0):
        depth = world.render(pose, 40, 30, 33.0, supersample=1).depth
        assert depth.min() > 0.4
