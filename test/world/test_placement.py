"""Robust means of rotations and directions. Up, heading and origin of a map."""

from __future__ import annotations

import math

import numpy as np
import pytest
from driving import mapped, odometry, way
from scipy.spatial.transform import Rotation

from dust3r_ros.types import Array
from dust3r_ros.world.placement import (
    Matched,
    Placement,
    Z,
    about_z,
    heading,
    least_rotation,
    mean_direction,
    mean_rotation,
    place,
)

TRUE = Rotation.from_rotvec([0.4, -1.0, 2.0])


def angle(R: np.ndarray) -> float:
    return float(Rotation.from_matrix(R).magnitude())


def test_a_mean_rotation_bears_outliers_and_knows_its_error() -> None:
    off = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        noisy = TRUE * Rotation.from_rotvec(0.02 * rng.normal(size=(80, 3)))
        matrices = noisy.as_matrix()
        matrices[::5] = Rotation.random(16, random_state=seed).as_matrix()
        mean, std = mean_rotation(matrices)
        assert angle(mean.T @ TRUE.as_matrix()) < min(0.02, 4 * std)
        off.append(angle(mean.T @ TRUE.as_matrix()) / std)
    assert np.median(off) > 0.2, "not far too careful"


def test_a_mean_direction_bears_outliers_and_knows_its_error() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        directions = Z + 0.05 * rng.normal(size=(100, 3))
        directions[::4] = rng.normal(size=(25, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        mean, std = mean_direction(directions)
        assert math.acos(min(1.0, float(mean @ Z))) < min(0.04, 5 * std)
        assert np.linalg.norm(mean) == pytest.approx(1.0)


def test_a_few_samples_are_unsure() -> None:
    assert mean_rotation(np.eye(3)[None])[1] > math.radians(0.9)
    assert mean_direction(np.array([Z, Z]))[1] > math.radians(0.9)


@pytest.mark.parametrize("source", [[0.0, 0.6, 0.8], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
def test_the_least_rotation(source: list[float]) -> None:
    R = least_rotation(np.array(source), Z)
    np.testing.assert_allclose(R @ source, Z, atol=1e-12)
    assert np.linalg.det(R) == pytest.approx(1.0)
    assert angle(R) == pytest.approx(math.acos(source[2]))


def test_headings() -> None:
    assert heading(about_z(0.7)) == pytest.approx(0.7)
    assert heading(about_z(-2.5) @ least_rotation(np.array([0.0, 0.6, 0.8]), Z)) == pytest.approx(-2.5, abs=0.4)


SCALE = 2.0
TILT = Rotation.from_rotvec(np.radians([12.0, -20.0, 0.0])).as_matrix()
TURN = Rotation.from_euler("z", 40.0, degrees=True).as_matrix() @ TILT


def frames(poses: Array, o_T_c: Array | None = None, up: Array | None = None) -> Matched:
    count = len(poses)
    return Matched(
        poses,
        np.zeros(count, int),
        np.full((count, 4, 4), np.nan) if o_T_c is None else o_T_c,
        np.full((count, 3), np.nan) if up is None else up,
    )


def gravity(truth: Array, rng: np.random.Generator, noise: float = 0.05, mount_deg: float = 0.0) -> Array:
    """(N, 3) up in the camera, as accelerations of the robot and a crooked mount have it."""
    up = np.einsum("nji,j->ni", truth[:, :3, :3], [0.0, 0.0, 1.0]) + noise * rng.normal(size=(len(truth), 3))
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    return up @ Rotation.from_rotvec([np.radians(mount_deg), 0.0, 0.0]).as_matrix().T


def up_error_deg(placed: Placement, turn: Array) -> float:
    """How far from upright the map is once moved."""
    return math.degrees(math.acos(min(1.0, float((placed.new_S_old.rotation @ turn)[2, 2]))))


@pytest.fixture
def truth() -> Array:
    return way(np.random.default_rng(0), 150)


@pytest.mark.parametrize("anchored", [False, True])
def test_gravity_turns_z_up_and_leaves_origin_and_heading(truth: Array, anchored: bool) -> None:
    rng = np.random.default_rng(1)
    placed = place(frames(mapped(truth, rng, SCALE, turn=TILT), up=gravity(truth, rng)), 3.0, anchored)
    assert up_error_deg(placed, TILT) < 1.0
    assert placed.tilt_deg == pytest.approx(math.degrees(math.acos(TILT[2, 2])), abs=1.0)
    assert placed.tilt_std_deg < 1.0 and placed.doubt == ""
    np.testing.assert_array_equal(placed.new_S_old.translation, 0.0)
    assert placed.new_S_old.scale == 3.0
    R = placed.new_S_old.rotation
    assert math.atan2(R[1, 0] - R[0, 1], R[0, 0] + R[1, 1]) == pytest.approx(0.0, abs=1e-9), "no heading"


def test_odometry_tells_up_heading_and_origin(truth: Array) -> None:
    rng = np.random.default_rng(2)
    o_T_w = np.eye(4)
    o_T_w[:3, 3] = [3.0, -1.0, 0.5]
    driven = odometry(o_T_w @ truth, rng, noise=0.005, turn_deg=0.1)
    placed = place(frames(mapped(truth, rng, SCALE, turn=TURN), driven), SCALE, False)
    S = placed.new_S_old
    np.testing.assert_allclose(S.rotation @ TURN, np.eye(3), atol=0.02)
    np.testing.assert_allclose(S.apply(TURN @ truth[0, :3, 3] / SCALE), driven[0, :3, 3], atol=0.1)
    assert placed.heading_deg == pytest.approx(40.0, abs=4.0) and placed.tilt_deg > 20.0
    # Once it is there, nothing is left to do
    there = np.array([np.eye(4)] * len(truth))
    poses = mapped(truth, np.random.default_rng(3), SCALE, turn=TURN)
    there[:, :3, :3] = S.rotation @ poses[:, :3, :3]
    there[:, :3, 3] = S.apply(poses[:, :3, 3])
    again = place(frames(there, driven), 1.0, False)
    assert again.tilt_deg < 0.3 and again.heading_deg < 0.3 and again.shift < 0.05


def test_the_first_frames_tell_the_place_before_odometry_drifts(truth: Array) -> None:
    rng = np.random.default_rng(4)
    driven = odometry(truth, rng, turn_deg=0.0)
    drift = Rotation.from_euler("z", (np.linspace(0, 60, 150) ** 2 / 60)[:, None], degrees=True).as_matrix()
    driven[:, :3, :3] = drift @ driven[:, :3, :3]
    placed = place(frames(mapped(truth, rng, SCALE), driven), SCALE, False)
    assert placed.heading_deg < 5.0


def test_an_anchored_map_is_only_set_upright(truth: Array) -> None:
    rng = np.random.default_rng(5)
    placed = place(frames(mapped(truth, rng, SCALE, turn=TURN), odometry(truth, rng)), SCALE, True)
    assert up_error_deg(placed, TURN) < 2.0
    np.testing.assert_array_equal(placed.new_S_old.translation, 0.0)
    assert placed.heading_deg == placed.shift == 0.0


def test_sure_gravity_overrules_odometry_that_takes_a_ramp_for_level(truth: Array) -> None:
    rng = np.random.default_rng(6)
    ramp = Rotation.from_rotvec(np.radians([0.0, 8.0, 0.0])).as_matrix()
    climbing = truth.copy()
    climbing[:, :3] = ramp @ truth[:, :3]
    poses, driven = mapped(climbing, rng, SCALE), odometry(truth, rng, turn_deg=0.05)
    placed = place(frames(poses, driven, gravity(climbing, rng, 0.03)), SCALE, False)
    assert up_error_deg(placed, np.eye(3)) < 1.0
    assert "8." in placed.doubt or "7." in placed.doubt
    assert placed.doubt.endswith("follows gravity")
    unsure = gravity(climbing, rng, 0.03)
    unsure[:75] = unsure[:75] @ Rotation.from_rotvec(np.radians([9.0, 0, 0])).as_matrix()
    unsure[75:] = unsure[75:] @ Rotation.from_rotvec(np.radians([-9.0, 0, 0])).as_matrix()
    placed = place(frames(poses, driven, unsure), SCALE, False)
    assert up_error_deg(placed, ramp) < 1.5, "an accelerometer that contradicts itself does not count for more"


def test_gravity_that_agrees_leaves_it_to_odometry(truth: Array) -> None:
    rng = np.random.default_rng(7)
    poses, driven = mapped(truth, rng, SCALE, turn=TURN), odometry(truth, rng, turn_deg=0.05)
    both = place(frames(poses, driven, gravity(truth, rng, mount_deg=1.2)), SCALE, False)
    alone = place(frames(poses, driven), SCALE, False)
    np.testing.assert_array_equal(both.new_S_old.rotation, alone.new_S_old.rotation)
    assert both.doubt == ""


def test_without_anything_the_map_stays(truth: Array) -> None:
    for count in (0, 3, 150):
        placed = place(frames(truth[:count]), 1.0, False)
        np.testing.assert_array_equal(placed.new_S_old.matrix, np.eye(4))
        assert math.isinf(placed.tilt_std_deg) and placed.tilt_deg == 0.0
    placed = place(frames(truth[:3], truth[:3], gravity(truth[:3], np.random.default_rng(0))), 1.0, False)
    np.testing.assert_array_equal(placed.new_S_old.matrix, np.eye(4)), "three frames are too few"
