"""ATE and RPE: invariances, a case computed by hand, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.evaluation.errors import DepthErrors, depth_errors, mean_errors, resample, trajectory_errors
from dust3r_ros.geometry.lens import Lens, forward_model
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.types import Camera, Keyframe, StampedPose


def some_depth(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 5.0, (12, 16)).astype(np.float32)


def test_four_pixels_by_hand() -> None:
    truth = np.array([[1.0, 2.0, 4.0, 0.0], [1.0, 0.0, 1.0, 1.0]])
    found = np.array([[1.1, 1.0, 4.0, 3.0], [1.3, 0.0, 0.0, 0.0]])
    # Both known: 1.1/1 (10 %), 1/2 (50 %), 4/4 (0 %), 1.3/1 (30 %); within 1.25: the first and the third.
    errors = depth_errors(truth, found)
    assert errors.pixels == 4
    assert errors.rel == pytest.approx((10 + 50 + 0 + 30) / 4)
    assert errors.delta == pytest.approx(50.0)


def test_median_alignment_by_hand() -> None:
    truth = np.array([[1.0, 2.0, 3.0]])
    found = np.array([[2.0, 4.0, 9.0]])  # medians 2 and 4: halved to 1, 2, 4.5
    errors = depth_errors(truth, found, median_aligned=True)
    assert errors.rel == pytest.approx(100 * (0 + 0 + 0.5) / 3)
    assert errors.delta == pytest.approx(200 / 3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100.0))
def test_median_alignment_forgets_the_scale(seed: int, scale: float) -> None:
    truth, found = some_depth(seed), some_depth(seed + 1)
    plain = depth_errors(truth, found, median_aligned=True)
    scaled = depth_errors(truth, found * scale, median_aligned=True)
    assert scaled.rel == pytest.approx(plain.rel, rel=1e-4)
    assert depth_errors(truth, truth * scale, median_aligned=True).rel < 1e-3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(1.0, 3.0))
def test_one_factor_everywhere_is_the_relative_error(seed: int, factor: float) -> None:
    truth = some_depth(seed).astype(np.float64)
    errors = depth_errors(truth, truth * factor)
    assert errors.rel == pytest.approx(100 * (factor - 1), abs=1e-6)
    if abs(factor - 1.25) > 1e-6:
        assert errors.delta == (100.0 if factor < 1.25 else 0.0)


def test_nothing_in_common_and_different_shapes_are_refused() -> None:
    with pytest.raises(GeometryError, match="no pixel"):
        depth_errors(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
    with pytest.raises(GeometryError, match="shape"):
        depth_errors(np.ones((2, 3)), np.ones((3, 2)))


def test_the_mean_counts_every_image_the_same() -> None:
    assert mean_errors([DepthErrors(10, 90, 1), DepthErrors(20, 70, 999)]) == DepthErrors(15, 80, 1000)
    assert mean_errors([]) is None


def keyframe_of(height: int, width: int, focal: float) -> Keyframe:
    blank = np.zeros((height, width), np.float32)
    return Keyframe(0, 1, 0, "front", np.eye(4), focal, np.zeros((height, width, 3), np.uint8), blank, blank + 1)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(3, 60))
def test_resampling_keeps_values_and_their_place(height: int) -> None:
    width = 2 * height
    rows = np.linspace(1, 2, 48, dtype=np.float32)[:, None] * np.ones((1, 96), np.float32)
    result = resample(rows, keyframe_of(height, width, 3.0 * height), Camera("front", 96, 48, 3.0 * 48))
    assert result.shape == (height, width)
    assert np.isin(result, rows).all()  # nearest: no value that was not measured
    # Row i of the result covers the part (i + ½) / height of the image.
    wanted = 1 + ((np.arange(height) + 0.5) * 48 / height - 0.5) / 47
    assert np.abs(result[:, 0] - np.clip(wanted, 1, 2)).max() <= 0.51 / 47


def test_resampling_to_the_same_size_changes_nothing() -> None:
    depth = some_depth(0)
    height, width = depth.shape
    same = resample(depth, keyframe_of(height, width, 50.0), Camera("front", width, height, 50.0))
    assert np.array_equal(same, depth)


def test_resampling_goes_through_the_lens() -> None:
    """What a rectified pixel shows is where the lens has it, and nothing where the camera did not see."""
    lens = Lens(32.0, -0.08, (2.0, -1.0))
    model, distortion = forward_model(lens, 60.0, 64, 48)
    camera = Camera("front", 64, 48, 60.0, 0.0, 0, False, lens.center, model, distortion)
    ramp = np.tile(np.arange(1, 65, dtype=np.float32), (48, 1))
    result = resample(ramp, keyframe_of(48, 64, 60.0), camera)
    ideal = np.stack(np.meshgrid(np.arange(64) - 31.5, np.arange(48) - 23.5), axis=-1).reshape(-1, 2)
    columns = (lens.seen(ideal)[:, 0] + 31.5).reshape(48, 64)
    known = result > 0
    assert 0.6 < known.mean() < 1.0
    assert np.abs(result[known] - 1.0 - columns[known]).max() < 0.6


SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def evo() -> None:
    pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")


def stamped(poses, first_ns: int = 0) -> list[StampedPose]:
    return [StampedPose(first_ns + index * SECOND // 10, "camera", w_T_c) for index, w_T_c in enumerate(poses)]


def wander(seed: int, count: int = 20) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.normal(size=(count, 3)), axis=0)
    return [pose(Rotation.random(random_state=rng).as_matrix(), step) for step in steps]


def moved(poses, scale: float, a_T_b: np.ndarray) -> list[np.ndarray]:
    """The poses after the similarity x -> a_T_b (scale x)."""
    return [a_T_b @ pose(w_T_c[:3, :3], scale * w_T_c[:3, 3]) for w_T_c in poses]


@pytest.mark.usefixtures("evo")
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


@pytest.mark.usefixtures("evo")
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


@pytest.mark.usefixtures("evo")
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


@pytest.mark.usefixtures("evo")
def test_a_turn_of_ten_degrees_per_step_is_the_rotation_error() -> None:
    truth = [pose(np.eye(3), w_T_c[:3, 3]) for w_T_c in wander(3, 10)]
    turned = [
        w_T_c @ pose(Rotation.from_euler("y", 10 * index, degrees=True).as_matrix(), np.zeros(3))
        for index, w_T_c in enumerate(truth)
    ]
    assert trajectory_errors(stamped(truth), stamped(turned)).rpe_deg == pytest.approx(10.0, abs=1e-6)


@pytest.mark.usefixtures("evo")
def test_poses_match_by_stamp_within_the_tolerance() -> None:
    truth = wander(5)
    late = stamped(truth, first_ns=5_000_000)
    assert trajectory_errors(stamped(truth), late[::2]).matches == 10
    with pytest.raises(GeometryError, match=r"0 poses match|cannot be aligned"):
        trajectory_errors(stamped(truth), late, tolerance_s=0.001)


@pytest.mark.usefixtures("evo")
def test_the_order_of_the_lists_does_not_matter() -> None:
    truth = wander(6)
    errors = trajectory_errors(stamped(truth)[::-1], stamped(truth))
    assert errors.ate < 1e-9
    assert errors.matches == len(truth)


@pytest.mark.usefixtures("evo")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_poses_that_are_no_numbers_are_counted_and_refused(bad: float) -> None:
    poses = wander(0)
    poses[3][0, 3] = poses[7][0, 0] = bad
    with pytest.raises(GeometryError, match="2 of 20 estimated poses are not finite"):
        trajectory_errors(stamped(wander(0)), stamped(poses))
    with pytest.raises(GeometryError, match="2 of 20 true poses are not finite"):
        trajectory_errors(stamped(poses), stamped(wander(0)))


@pytest.mark.usefixtures("evo")
@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_poses_are_refused_with_their_number(count: int) -> None:
    with pytest.raises(GeometryError, match=f"{count} poses"):
        trajectory_errors(stamped(wander(0)), stamped(wander(0)[:count]))


@pytest.mark.usefixtures("evo")
def test_a_camera_that_stands_still_is_refused() -> None:
    still = stamped([np.eye(4)] * 5)
    with pytest.raises(GeometryError, match=r"true camera stands still|cannot be aligned"):
        trajectory_errors(still, stamped(wander(1, 5)))
    with pytest.raises(GeometryError, match=r"estimated camera stands still|cannot be aligned"):
        trajectory_errors(stamped(wander(1, 5)), still)
