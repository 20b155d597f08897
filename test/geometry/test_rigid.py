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
