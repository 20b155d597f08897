"""ATE and RPE: invariances, a case computed by hand, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.evaluation.trajectory import trajectory_errors
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.types import StampedPose

SECOND = 1_000_000_000


def stamped(poses, first_ns: int = 0) -> list[StampedPose]:
    return [StampedPose(first_ns + index * SECOND // 10, "camera", w_T_c) for index, w_T_c in enumerate(poses)]


def wander(seed: int, count: int = 20) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.normal(size=(count, 3)), axis=0)
    return [pose(Rotation.random(random_state=rng).as_matrix(), step) for step in steps]


def moved(poses, scale: float, a_T_b: np.ndarray) -> list[np.ndarray]:
    """The poses after the similarity x -> a_T_b (scale x)."""
    return [a_T_b @ pose(w_T_c[:3, :3], scale * w_T_c[:3, 3]) for w_T_c in poses]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100.0))
def test_a_similarity_of_the_truth_has_no_error_and_its_scale_is_found(seed: int, scale: float) -> None:
    truth = wander(seed)
    a_T_b = wander(seed + 1, 1)[0]
    errors = trajectory_errors(stamped(truth), stamped(moved(truth, scale, a_T_b)))
    assert errors.ate < 1e-6 * errors.path
    assert errors.rpe < 1e-6 * errors.path
    assert errors.rpe_deg < 1e-3
    assert errors.scale == pytest.approx(1.0 / scale, rel=1e-6)
    positions = np.array([w_T_c[:3, 3] for w_T_c in moved(truth, scale, a_T_b)])
    assert np.allclose(errors.to_truth(positions), [w_T_c[:3, 3] for w_T_c in truth], atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), noise=st.floats(0.01, 1.0))
def test_an_error_is_no_larger_than_what_was_added_and_sim3_no_larger_than_se3(seed: int, noise: float) -> None:
    truth = wander(seed)
    rng = np.random.default_rng(seed)
    offsets = noise * rng.normal(size=(len(truth), 3))
    noisy = [pose(w_T_c[:3, :3], w_T_c[:3, 3] + offset) for w_T_c, offset in zip(truth, offsets, strict=True)]
    rigid = trajectory_errors(stamped(truth), stamped(noisy), scale=False)
    similar = trajectory_errors(stamped(truth), stamped(noisy))
    added = math.sqrt(np.mean(np.sum(offsets**2, axis=1)))
    assert 0 < rigid.ate <= added + 1e-9
    # Umeyama's scale minimises the sum of squares, so letting it go can only help.
    assert similar.ate <= rigid.ate + 1e-9
    assert rigid.scale == 1.0


def test_a_bent_square_by_hand() -> None:
    """Corners of a square, bent up and down by d: no rotation helps, and the best scale is 1 / (1 + d²).

    Rigid: every corner is off by d. Sim3, s = 1 / (1 + d²): (1 - s)² + (s d)² = d² / (1 + d²) per corner.
    """
    corners = np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    bent = corners + np.array([[0, 0, 0.5], [0, 0, -0.5], [0, 0, 0.5], [0, 0, -0.5]])
    truth = stamped([pose(np.eye(3), corner) for corner in corners])
    estimate = stamped([pose(np.eye(3), corner) for corner in bent])
    rigid = trajectory_errors(truth, estimate, scale=False)
    similar = trajectory_errors(truth, estimate)
    assert rigid.ate == pytest.approx(0.5)
    assert rigid.rpe == pytest.approx(1.0)  # each step rises or falls by 2 d too much
    assert rigid.path == pytest.approx(3 * math.sqrt(2))
    assert rigid.ate_percent == pytest.approx(100 * 0.5 / (3 * math.sqrt(2)))
    assert similar.scale == pytest.approx(0.8)
    assert similar.ate == pytest.approx(math.sqrt(0.2))


def test_a_turn_of_ten_degrees_per_step_is_the_rotation_error() -> None:
    truth = [pose(np.eye(3), w_T_c[:3, 3]) for w_T_c in wander(3, 10)]
    turned = [
        w_T_c @ pose(Rotation.from_euler("y", 10 * index, degrees=True).as_matrix(), np.zeros(3))
        for index, w_T_c in enumerate(truth)
    ]
    assert trajectory_errors(stamped(truth), stamped(turned)).rpe_deg == pytest.approx(10.0, abs=1e-6)


def test_poses_match_by_stamp_within_the_tolerance() -> None:
    truth = wander(5)
    late = stamped(truth, first_ns=5_000_000)
    assert trajectory_errors(stamped(truth), late[::2]).matches == 10
    with pytest.raises(GeometryError, match=r"0 poses match|cannot be aligned"):
        trajectory_errors(stamped(truth), late, tolerance_s=0.001)


def test_the_order_of_the_lists_does_not_matter() -> None:
    truth = wander(6)
    errors = trajectory_errors(stamped(truth)[::-1], stamped(truth))
    assert errors.ate < 1e-9
    assert errors.matches == len(truth)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_poses_that_are_no_numbers_are_counted_and_refused(bad: float) -> None:
    poses = wander(0)
    poses[3][0, 3] = poses[7][0, 0] = bad
    with pytest.raises(GeometryError, match="2 of 20 estimated poses are not finite"):
        trajectory_errors(stamped(wander(0)), stamped(poses))
    with pytest.raises(GeometryError, match="2 of 20 true poses are not finite"):
        trajectory_errors(stamped(poses), stamped(wander(0)))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_poses_are_refused_with_their_number(count: int) -> None:
    with pytest.raises(GeometryError, match=f"{count} poses"):
        trajectory_errors(stamped(wander(0)), stamped(wander(0)[:count]))


def test_a_camera_that_stands_still_is_refused() -> None:
    still = stamped([np.eye(4)] * 5)
    with pytest.raises(GeometryError, match=r"true camera stands still|cannot be aligned"):
        trajectory_errors(still, stamped(wander(1, 5)))
    with pytest.raises(GeometryError, match=r"estimated camera stands still|cannot be aligned"):
        trajectory_errors(stamped(wander(1, 5)), still)
