from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.rigid import (
    BODY_T_OPTICAL,
    angle_deg,
    from_quaternion,
    interpolate,
    invert,
    is_rigid,
    is_rotation,
    pose,
    quaternion,
    smoothed,
    transform,
)

seeds = st.integers(0, 2**32 - 1)


def some_pose(rng: np.random.Generator) -> np.ndarray:
    return pose(Rotation.random(None, rng).as_matrix(), rng.normal(size=3))


def test_the_optical_frame_looks_along_x_of_the_body() -> None:
    right, down, forward = np.eye(3)
    np.testing.assert_array_equal(
        transform(BODY_T_OPTICAL, np.stack([forward, right, down])), [[1, 0, 0], [0, -1, 0], [0, 0, -1]]
    )
    np.testing.assert_allclose(np.linalg.det(BODY_T_OPTICAL), 1.0)


@given(seeds)
def test_inverse_is_the_inverse(seed: int) -> None:
    rng = np.random.default_rng(seed)
    poses = np.stack([some_pose(rng) for _ in range(3)])
    np.testing.assert_allclose(invert(poses), np.linalg.inv(poses), atol=1e-12)
    points = rng.normal(size=(4, 5, 3))
    np.testing.assert_allclose(transform(invert(poses[0]), transform(poses[0], points)), points, atol=1e-12)


@given(seeds)
def test_transforms_chain(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a_T_b, b_T_c, points = some_pose(rng), some_pose(rng), rng.normal(size=(7, 3))
    np.testing.assert_allclose(transform(a_T_b @ b_T_c, points), transform(a_T_b, transform(b_T_c, points)), atol=1e-12)


@given(seeds)
def test_quaternion_gives_the_rotation_back(seed: int) -> None:
    rotation = Rotation.random(None, np.random.default_rng(seed)).as_matrix()
    q = quaternion(rotation)
    assert q[3] >= 0
    np.testing.assert_allclose(Rotation.from_quat(q).as_matrix(), rotation, atol=1e-12)


@given(st.floats(0, 180), seeds)
def test_angle_is_that_of_the_rotation(angle: float, seed: int) -> None:
    axis = np.random.default_rng(seed).normal(size=3)
    rotation = Rotation.from_rotvec(np.radians(angle) * axis / np.linalg.norm(axis)).as_matrix()
    np.testing.assert_allclose(angle_deg(rotation), angle, atol=1e-5)


@given(seeds, st.floats(0.92, 1.08))
def test_a_quaternion_makes_a_pose(seed: int, length: float) -> None:
    a_T_b = some_pose(np.random.default_rng(seed))
    made = from_quaternion(a_T_b[:3, 3], length * quaternion(a_T_b[:3, :3]))
    np.testing.assert_allclose(made, a_T_b, atol=1e-12)


@pytest.mark.parametrize("xyzw", [[0, 0, 0, 0], [0, 0, 0, 2], [np.nan, 0, 0, 1], [np.inf, 0, 0, 1]])
def test_a_quaternion_that_is_none_is_refused(xyzw: list[float]) -> None:
    with pytest.raises(GeometryError, match="length"):
        from_quaternion([0, 0, 0], xyzw)
    with pytest.raises(GeometryError, match="nan"):
        from_quaternion([0, np.nan, 0], [0, 0, 0, 1])


@given(seeds, st.floats(0, 1))
def test_interpolation_goes_the_part_of_the_way(seed: int, part: float) -> None:
    rng = np.random.default_rng(seed)
    first, last = some_pose(rng), some_pose(rng)
    middle = interpolate(first, last, part)
    whole = angle_deg(first[:3, :3].T @ last[:3, :3])
    np.testing.assert_allclose(angle_deg(first[:3, :3].T @ middle[:3, :3]), part * whole, atol=1e-5)
    np.testing.assert_allclose(angle_deg(middle[:3, :3].T @ last[:3, :3]), (1 - part) * whole, atol=1e-5)
    np.testing.assert_allclose(middle[:3, 3], (1 - part) * first[:3, 3] + part * last[:3, 3], atol=1e-12)


@pytest.mark.parametrize("far", [1e10, -1e200, np.inf, np.nan])
def test_a_translation_that_no_robot_has_is_refused(far: float) -> None:
    with pytest.raises(GeometryError, match="within 1e"):
        from_quaternion([0, far, 0], [0, 0, 0, 1])


@given(seeds)
def test_a_rigid_motion_is_known_from_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a_T_b = some_pose(rng)
    assert is_rigid(a_T_b)
    at = (*rng.integers(0, (3, 4)),)
    for value in (np.nan, np.inf, 1e10, -1e300, a_T_b[at] + 3.0 if at[1] < 3 else 1e9):
        other = a_T_b.copy()
        other[at] = value
        assert not is_rigid(other)
    R = a_T_b[:3, :3]
    assert is_rotation(R) and is_rotation(1.004 * R, 1e-2) and not is_rotation(1.004 * R) and not is_rotation(-R)
    assert not is_rigid(a_T_b * [[1], [1], [1], [2]]) and not is_rigid(np.diag([1.0, 1.0, -1.0, 1.0]))


def wandering(rng: np.random.Generator, count: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Seconds (N,) and poses (N, 4, 4) of a camera whose speed changes slowly."""
    steps = rng.choice([1 / 15, 2 / 15], (count, 1))
    seconds = np.cumsum(steps)
    moved = np.cumsum(steps * np.cumsum(0.02 * rng.normal(size=(count, 6)), axis=0), axis=0)
    return seconds, np.stack([pose(Rotation.from_rotvec(v[3:]).as_matrix(), v[:3]) for v in moved])


def shaken(rng: np.random.Generator, poses: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Poses off by motions in the camera's own frame of ``std`` (N, 6)."""
    off = std * rng.normal(size=std.shape)
    return np.stack([T @ pose(Rotation.from_rotvec(v[3:]).as_matrix(), v[:3]) for T, v in zip(poses, off, strict=True)])


def errors(poses: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N,) distances of positions."""
    return np.asarray(np.linalg.norm(poses[:, :3, 3] - truth[:, :3, 3], axis=1))


def test_a_path_is_smoothed_by_how_exact_its_poses_are() -> None:
    rng = np.random.default_rng(0)
    seconds, truth = wandering(rng)
    std = np.where(rng.random((len(truth), 1)) < 0.3, 0.001, 0.05) * np.ones(6)
    measured = shaken(rng, truth, std)
    found = smoothed(seconds, measured, std[:, :, None] ** 2 * np.eye(6), 1.0)
    exact = std[:, 0] < 0.01
    assert errors(found, truth)[~exact].mean() < 0.25 * errors(measured, truth)[~exact].mean()
    assert errors(found, truth)[exact].max() < 0.005, "exact ones stay where they are"
    turned = [angle_deg(a[:3, :3].T @ b[:3, :3]) for a, b in zip(found, truth, strict=True)]
    assert np.mean(turned) < 0.5


def test_a_pose_that_is_not_measured_is_that_of_the_path() -> None:
    rng = np.random.default_rng(0)
    seconds, truth = wandering(rng)
    covariances = np.tile(1e-6 * np.eye(6), (len(truth), 1, 1))
    lost = np.isin(np.arange(len(truth)), [0, 40, 41, 42, len(truth) - 1])
    measured = truth.copy()
    measured[lost] = some_pose(rng)
    covariances[lost] = np.nan
    found = smoothed(seconds, measured, covariances, 1.0)
    assert errors(found, truth).max() < 0.03 and errors(found, truth)[~lost].max() < 0.003


def test_exact_and_very_vague_poses_in_turn() -> None:
    rng = np.random.default_rng(0)
    seconds, truth = wandering(rng)
    std = 10.0 ** rng.choice([-4.0, -1.0, 1.0], (len(truth), 1)) * np.array([1.0, 1.0, 1.0, 0.1, 0.1, 0.1])
    found = smoothed(seconds, shaken(rng, truth, std), std[:, :, None] ** 2 * np.eye(6), 1.0)
    assert errors(found, truth).mean() < 0.02 and errors(found, truth)[std[:, 0] < 1e-3].max() < 1e-3


def test_the_unit_of_length_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    seconds, truth = wandering(rng, 40)
    covariances = np.tile(1e-4 * np.eye(6), (len(truth), 1, 1))
    measured, larger = shaken(rng, truth, np.full((len(truth), 6), 0.01)), np.diag([1e3] * 3 + [1.0] * 3)
    found = smoothed(seconds, measured, covariances, 1.0)
    measured[:, :3, 3] *= 1e3
    np.testing.assert_allclose(
        smoothed(seconds, measured, larger @ covariances @ larger, 1e3)[:, :3, 3], 1e3 * found[:, :3, 3], rtol=1e-6
    )
