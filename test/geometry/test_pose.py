"""How many models to expect by chance."""

from __future__ import annotations

from math import comb, inf, log10

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.pose import (
    by_chance,
    log_false_alarms,
    refine_pose,
    solve_pnp,
    solve_pnp_unknown_focal,
    turned_pose,
)
from dust3r_ros.geometry.rigid import angle_deg, invert, pose, transform
from dust3r_ros.types import Camera


def test_the_number_of_models_times_their_probability() -> None:
    expected = log10((20 - 3) * comb(20, 8) * comb(8, 3) * 0.01**5)
    assert log_false_alarms(20, 8, 3, 0.01) == pytest.approx(expected)


@pytest.mark.parametrize("matches, inliers", [(3, 3), (2, 2), (50, 3), (50, 0)])
def test_a_sample_agrees_with_itself(matches: int, inliers: int) -> None:
    assert log_false_alarms(matches, inliers, 3, 0.01) == inf


def test_more_that_agree_mean_less_chance_and_more_that_do_not_mean_more() -> None:
    agreeing = [log_false_alarms(100, k, 3, 0.001) for k in range(8, 40)]
    failing = [log_false_alarms(n, 10, 3, 0.001) for n in range(20, 400, 20)]
    assert np.all(np.diff(agreeing) < 0) and np.all(np.diff(failing) > 0)


def test_random_matches_are_not_significant() -> None:
    """Points on a line through two of 30 random ones: the best of all lines is expected by chance."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        points, best = rng.uniform(size=(30, 2)), 0
        for first in range(30):
            for second in range(first):
                along = points[first] - points[second]
                normal = np.array([-along[1], along[0]]) / np.linalg.norm(along)
                best = max(best, int((np.abs((points - points[first]) @ normal) < 0.01).sum()))
        assert log_false_alarms(30, best, 2, 0.02 * np.sqrt(2)) > -0.5


def shuffled(count: int, seed: int, shuffle: bool) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3), half of them close together, and the pixels (N, 2) that they, or others of them, are seen at."""
    rng = np.random.default_rng(seed)
    points = np.c_[rng.uniform(-1, 1, (count, 2)), rng.uniform(2, 5, count)]
    points[: count // 2, :2] *= 0.1
    pixels = 560.0 * points[:, :2] / points[:, 2:] + rng.normal(0, 0.5, (count, 2))
    return points, pixels[rng.permutation(count)] if shuffle else pixels


@pytest.mark.parametrize("count", [300, 1000])
def test_a_pose_by_chance_is_told_from_a_true_one(count: int) -> None:
    """With so many matches, some pose agrees with more of them than a true pose of few has."""
    for seed in range(3):
        points, pixels = shuffled(count, seed, shuffle=True)
        wrong = solve_pnp(points, pixels, 560.0, (0.0, 0.0), threshold_px=8.0, min_inliers=8)
        assert wrong.inliers.sum() >= 8
        assert by_chance(wrong, points, pixels, 8.0)


@pytest.mark.parametrize("seed", range(3))
def test_few_true_matches_are_significant(seed: int) -> None:
    points, pixels = shuffled(12, seed, shuffle=False)
    pixels[8:] = pixels[[11, 10, 9, 8]]
    found = solve_pnp(points, pixels, 560.0, (0.0, 0.0), threshold_px=4.0, min_inliers=8)
    assert found.inliers.sum() >= 8
    assert not by_chance(found, points, pixels, 4.0)


CAMERA = Camera("front", 640, 480, 520.0)


def scene(
    seed: int, count: int = 200, noise: float = 0.0, outliers: float = 0.0, flat: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """World points in view (N, 3), their pixels (N, 2) and w_T_c; the first share of them are outliers."""
    rng = np.random.default_rng(seed)
    w_T_c = pose(Rotation.random(None, rng).as_matrix(), rng.uniform(-5, 5, 3))
    depth = np.full(count, 4.0) if flat else rng.uniform(2, 8, count)
    pixels = rng.uniform([0, 0], [640, 480], (count, 2))
    rays = np.column_stack([(pixels - CAMERA.center) / CAMERA.focal, np.ones(count)])
    points = transform(w_T_c, rays * depth[:, None])
    pixels = pixels + rng.normal(scale=noise, size=pixels.shape)
    wrong = int(outliers * count)
    pixels[:wrong] = rng.uniform([0, 0], [640, 480], (wrong, 2))
    return points, pixels, w_T_c


def motion(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(6,) what moves the true camera onto the found one, in its own frame."""
    delta = invert(truth) @ found
    return np.r_[delta[:3, 3], Rotation.from_matrix(delta[:3, :3]).as_rotvec()]


def reference_matches(reference: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.nonzero(reference["pnp_mask"])
    return reference["pnp_pts_world"][rows, columns], np.column_stack([columns, rows])


def test_reference_focal_given(reference: dict[str, np.ndarray]) -> None:
    """Two estimators of one pose: as near to the truth as both are uncertain, and to each other."""
    points, pixels = reference_matches(reference)
    truth, published = reference["pnp_true_c2w"], reference["pnp_c2w_focal_given"].astype(float)
    result = solve_pnp(points, pixels, float(reference["pnp_true_focal"]), (32, 24))
    assert result.inliers.all()
    for other in (truth, published):
        step = motion(result.w_T_c, other)
        assert step @ np.linalg.solve(result.covariance, step) < 22.5  # chi square, 6 degrees of freedom, 99.9 %
    assert angle_deg(result.w_T_c[:3, :3].T @ published[:3, :3]) < 0.03
    np.testing.assert_allclose(result.w_T_c, published, atol=2e-3)


def test_reference_focal_unknown(reference: dict[str, np.ndarray]) -> None:
    points, pixels = reference_matches(reference)
    truth, published = reference["pnp_true_c2w"], reference["pnp_c2w_focal_unknown"].astype(float)
    tried = solve_pnp_unknown_focal(points, pixels, 64, 48, center=(32, 24), refine_focal=False)
    assert tried.focal == pytest.approx(float(reference["pnp_focal_found"]), rel=1e-6)
    # both fit a focal 5 % too short, each with its own loss: near, not equal
    np.testing.assert_allclose(tried.w_T_c, published, atol=0.02)
    refined = solve_pnp_unknown_focal(points, pixels, 64, 48, center=(32, 24))
    assert refined.focal == pytest.approx(float(reference["pnp_true_focal"]), abs=4 * refined.focal_std)
    assert np.linalg.norm(motion(refined.w_T_c, truth)) < 0.1 * np.linalg.norm(motion(published, truth))


@given(seed=st.integers(0, 2**32 - 1), flat=st.booleans(), count=st.integers(12, 60))
def test_exact_matches_give_the_exact_pose(seed: int, flat: bool, count: int) -> None:
    points, pixels, truth = scene(seed, count, flat=flat)
    result = solve_pnp(points, pixels, CAMERA.focal, CAMERA.center)
    np.testing.assert_allclose(result.w_T_c, truth, atol=1e-5)
    assert result.inliers.all() and result.rms_px < 1e-3
    assert (result.focal, result.focal_std) == (CAMERA.focal, 0.0)


@given(seed=st.integers(0, 2**32 - 1))
def test_half_outliers_are_told_apart(seed: int) -> None:
    points, pixels, truth = scene(seed, 300, noise=0.5, outliers=0.5)
    result = solve_pnp(points, pixels, CAMERA.focal, CAMERA.center)
    assert result.inliers[150:].mean() > 0.99 and result.inliers[:150].mean() < 0.05
    assert np.linalg.norm(motion(result.w_T_c, truth)) < 0.03
    in_view = project(transform(invert(result.w_T_c), points), CAMERA.focal, CAMERA.center)
    np.testing.assert_array_equal(result.inliers, np.linalg.norm(in_view - pixels, axis=1) < 5.0)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3))
def test_moving_and_scaling_the_world_moves_the_pose_along(seed: int, scale: float) -> None:
    points, pixels, _ = scene(seed, 100, noise=0.5, outliers=0.2)
    move = pose(Rotation.random(None, np.random.default_rng(seed)).as_matrix(), [1e4, -2e4, 300.0])
    before = solve_pnp(points, pixels, CAMERA.focal, CAMERA.center)
    after = solve_pnp(transform(move, scale * points), pixels, CAMERA.focal, CAMERA.center)
    expected = before.w_T_c.copy()
    expected[:3, 3] *= scale
    expected = move @ expected
    step = motion(after.w_T_c, expected) / np.r_[[scale] * 3, [1] * 3]
    assert np.abs(step).max() < 1e-3
    units = np.r_[[scale] * 3, [1] * 3]
    deviation = np.sqrt(np.diag(before.covariance))
    np.testing.assert_allclose(np.sqrt(np.diag(after.covariance)) / units, deviation, rtol=0.05)


def test_covariance_is_that_of_the_error() -> None:
    """Over 200 noisy views the error's normalised square averages to its 6 degrees of freedom."""
    rng = np.random.default_rng(3)
    points, pixels, truth = scene(3, 150)
    squares = []
    for _ in range(200):
        noisy = pixels + rng.normal(scale=0.7, size=pixels.shape)
        result = solve_pnp(points, noisy, CAMERA.focal, CAMERA.center)
        step = motion(result.w_T_c, truth)
        squares.append(step @ np.linalg.solve(result.covariance, step))
        assert result.rms_px == pytest.approx(0.7 * np.sqrt(2), rel=0.25)
    assert np.mean(squares) == pytest.approx(6.0, rel=0.2)


def test_a_hundred_times_the_points_are_ten_times_surer() -> None:
    def deviation(count: int) -> float:
        scenes = [scene(seed, count, noise=0.5) for seed in range(10)]
        results = [solve_pnp(points, pixels, CAMERA.focal, CAMERA.center) for points, pixels, _ in scenes]
        return float(np.sqrt(np.mean([result.covariance[0, 0] for result in results])))

    assert deviation(100) / deviation(10000) == pytest.approx(10, rel=0.2)


def test_same_seed_same_result() -> None:
    points, pixels, _ = scene(5, 6000, noise=1.0, outliers=0.4)
    first, second = (solve_pnp(points, pixels, CAMERA.focal, CAMERA.center, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.w_T_c, second.w_T_c)
    np.testing.assert_array_equal(first.inliers, second.inliers)


def test_matches_that_are_not_finite_are_no_inliers() -> None:
    points, pixels, truth = scene(6, 100)
    points[10], pixels[20, 1], points[30, 0] = np.nan, np.inf, -np.inf
    result = solve_pnp(points, pixels, CAMERA.focal, CAMERA.center)
    assert np.flatnonzero(~result.inliers).tolist() == [10, 20, 30]
    np.testing.assert_allclose(result.w_T_c, truth, atol=1e-6)


@pytest.mark.parametrize("truth", [350.0, 700.0, 1500.0])
def test_unknown_focal_is_found(truth: float) -> None:
    points, pixels, w_T_c = scene(8, 300)
    pixels = (pixels - CAMERA.center) * truth / CAMERA.focal + CAMERA.center
    pixels += np.random.default_rng(8).normal(scale=0.3, size=pixels.shape)
    pixels[:60] = np.random.default_rng(9).uniform([0, 0], [640, 480], (60, 2))
    result = solve_pnp_unknown_focal(points, pixels, 640, 480)
    assert result.focal == pytest.approx(truth, rel=0.005)
    assert 0 < result.focal_std < 0.005 * truth
    assert np.linalg.norm(motion(result.w_T_c, w_T_c)) < 0.05
    guessed = solve_pnp_unknown_focal(points, pixels, 640, 480, guess=1.05 * truth)
    assert guessed.focal == pytest.approx(truth, rel=0.005) and guessed.inliers.sum() >= 230
    wrong = solve_pnp_unknown_focal(points, pixels, 640, 480, guess=5.0 * truth)
    assert wrong.focal == pytest.approx(truth, rel=0.005), "others are tried then"


LINE = np.linspace(-1, 1, 40)[:, None] * [[1.0, 0.5, 0.2]] + [0, 0, 5]


@pytest.mark.parametrize(
    ("points", "named"),
    [
        (np.zeros((0, 3)), "at least 12 finite matches, not 0 of 0"),
        (LINE[:5], "not 5 of 5"),
        (np.full((40, 3), np.nan), "not 0 of 40"),
        (LINE, "one line"),
        (np.full((40, 3), 5.0), "one line"),
    ],
)
def test_degenerate_points_are_named(points: np.ndarray, named: str) -> None:
    pixels = np.nan_to_num(project(points, CAMERA.focal, CAMERA.center))
    with pytest.raises(GeometryError, match=named):
        solve_pnp(points, pixels, CAMERA.focal, CAMERA.center)
    with pytest.raises(GeometryError, match=named):
        solve_pnp_unknown_focal(points, pixels, 640, 480)


def test_a_line_among_outliers_is_no_pose() -> None:
    rng = np.random.default_rng(10)
    points, pixels = LINE.copy(), project(LINE, CAMERA.focal, CAMERA.center)
    points[:5] = rng.uniform([-2, -2, 3], [2, 2, 8], (5, 3))
    with pytest.raises(GeometryError, match=r"PnP|free"):
        solve_pnp(points, pixels, CAMERA.focal, CAMERA.center, min_inliers=20)


def test_unrelated_pixels_are_no_pose() -> None:
    points, _, _ = scene(11, 200)
    pixels = np.random.default_rng(11).uniform([0, 0], [640, 480], (200, 2))
    with pytest.raises(GeometryError, match="200 matches"):
        solve_pnp(points, pixels, CAMERA.focal, CAMERA.center, min_inliers=30)
    with pytest.raises(GeometryError, match="21 focals has 30 of 200"):
        solve_pnp_unknown_focal(points, pixels, 640, 480, min_inliers=30)


def test_shapes_must_agree() -> None:
    with pytest.raises(GeometryError, match=r"\(20, 3\) and \(19, 2\)"):
        solve_pnp(np.ones((20, 3)), np.ones((19, 2)), 500.0, (320, 240))


def test_a_few_points_very_far_away_do_no_harm() -> None:
    """Landmarks with next to no parallax may lie anywhere along their rays."""
    points, pixels, w_T_c = scene(12, 200, noise=0.3)
    center = w_T_c[:3, 3]
    points[:4] = center + (points[:4] - center) * np.array([[1e3], [1e4], [1e5], [1e6]])
    result = solve_pnp(points, pixels, CAMERA.focal, CAMERA.center)
    assert result.inliers.mean() > 0.99
    np.testing.assert_allclose(result.w_T_c, w_T_c, atol=0.02)


def test_a_good_guess_leads_to_the_same_pose() -> None:
    points, pixels, truth = scene(3, noise=0.5, outliers=0.2)
    drawn = solve_pnp(points, pixels, CAMERA.focal, CAMERA.center)
    near = truth.copy()
    near[:3, 3] += [0.02, -0.01, 0.02]
    guessed = solve_pnp(points, pixels, CAMERA.focal, CAMERA.center, near=near)
    np.testing.assert_allclose(guessed.w_T_c, drawn.w_T_c, atol=1e-4)
    np.testing.assert_array_equal(guessed.inliers, drawn.inliers)


def test_a_wrong_guess_does_no_harm() -> None:
    points, pixels, truth = scene(4, noise=0.5, outliers=0.2)
    for near in (np.eye(4), truth @ pose(Rotation.from_rotvec([0, 0.5, 0]).as_matrix(), np.zeros(3))):
        found = solve_pnp(points, pixels, CAMERA.focal, CAMERA.center, near=near)
        np.testing.assert_array_equal(found.w_T_c, solve_pnp(points, pixels, CAMERA.focal, CAMERA.center).w_T_c)


def test_a_guess_close_by_is_refined_to_what_is_found_without_it() -> None:
    points, pixels, w_T_c = scene(4, noise=0.5, outliers=0.2)
    offsets = pixels - CAMERA.center
    near = w_T_c @ pose(Rotation.from_rotvec([0.004, -0.003, 0.002]).as_matrix(), [0.01, 0.02, -0.01])
    found = refine_pose(points, offsets, CAMERA.focal, near, threshold_px=5.0, min_inliers=12)
    expected = solve_pnp(points, offsets, CAMERA.focal, (0.0, 0.0))
    assert found is not None
    step = motion(found.w_T_c, expected.w_T_c)
    assert step @ np.linalg.solve(expected.covariance, step) < 0.1**2
    np.testing.assert_array_equal(found.inliers, expected.inliers)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=0.1, atol=1e-9)
    assert found.rms_px == pytest.approx(expected.rms_px, rel=0.01)


def test_a_guess_far_off_a_line_and_too_few_matches_are_left_to_others() -> None:
    points, pixels, w_T_c = scene(4, outliers=0.2)
    offsets = pixels - CAMERA.center

    def refined(count: int, near: np.ndarray, xyz: np.ndarray = points):
        return refine_pose(
            xyz[200 - count :], offsets[200 - count :], CAMERA.focal, near, threshold_px=5.0, min_inliers=12
        )

    assert refined(100, w_T_c) is not None
    assert refined(100, w_T_c @ pose(np.eye(3), [1.0, 0.0, 0.0])) is None
    assert refined(11, w_T_c) is None
    assert refined(0, w_T_c) is None
    along = transform(w_T_c, np.column_stack([np.linspace(-1, 1, 200), np.zeros(200), np.full(200, 4.0)]))
    offsets = CAMERA.focal * np.column_stack([np.linspace(-1, 1, 200), np.zeros(200)]) / 4.0
    assert refined(100, w_T_c, along) is None


def directions(placed: int, shift: float, wrong: float = 0.0, seed: int = 0) -> tuple[dict[str, object], np.ndarray]:
    """What ``turned_pose`` is given of a camera that turned by 15 degrees and moved by ``shift``, and its pose.

    300 landmarks are 1 to 8 away; all but ``placed`` count as 2.5 away. A part ``wrong`` of the pixels is anywhere.
    """
    rng = np.random.default_rng(seed)
    depths, focal = rng.uniform(1.0, 8.0, 300), 450.0
    pixels = rng.uniform([-320, -240], [320, 240], (300, 2))
    rays = np.column_stack([pixels / focal, np.ones(300)])
    w_T_c = pose(Rotation.from_euler("y", 15, degrees=True).as_matrix(), [shift, 0.0, 0.0])
    seen = project(transform(invert(w_T_c), rays * depths[:, None]), focal, (0.0, 0.0)) + rng.normal(0, 0.5, (300, 2))
    off = rng.random(300) < wrong
    seen[off] = rng.uniform([-320, -240], [320, 240], (off.sum(), 2))
    known = np.arange(300) < placed
    points = rays * np.where(known, depths, 2.5)[:, None]
    near = pose(Rotation.from_euler("y", 3, degrees=True).as_matrix(), [0.0, 0.0, 0.0])
    given = {"points": points, "pixels": seen, "placed": known, "focal": focal, "near": near, "seen_from": np.zeros(3)}
    return {**given, "center_std": 0.03, "threshold_px": 4.0, "min_inliers": 30}, w_T_c


@pytest.mark.parametrize("shift", [0.0, 0.03])
@pytest.mark.parametrize("wrong", [0.0, 0.2])
def test_directions_tell_where_a_camera_looks_and_hardly_where_it_is(shift: float, wrong: float) -> None:
    given, truth = directions(0, shift, wrong)
    found = turned_pose(**given)
    assert found is not None and angle_deg(found.w_T_c[:3, :3].T @ truth[:3, :3]) < 0.6
    std = np.sqrt(np.diag(found.covariance))
    np.testing.assert_allclose(std[:3], 0.03, rtol=0.05)  # that of the guess: unknown depths may all be off alike
    assert np.linalg.norm(found.w_T_c[:3, 3] - truth[:3, 3]) < 2.0 * 0.03
    assert np.count_nonzero(found.inliers) > 0.9 * (1.0 - wrong) * 300


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("placed", [10, 20])
def test_a_few_landmarks_with_a_position_say_where_it_is(placed: int, shift: float) -> None:
    """Though all others count as nearer than they are: they may be farther away, all alike."""
    given, truth = directions(placed, shift)
    found = turned_pose(**given)
    assert found is not None and np.linalg.norm(found.w_T_c[:3, 3] - truth[:3, 3]) < 0.005
    assert np.sqrt(np.trace(found.covariance[:3, :3])) < 0.01 and found.inliers[:placed].all()
    assert angle_deg(found.w_T_c[:3, :3].T @ truth[:3, :3]) < 0.06


def test_unrelated_directions_and_far_places_are_no_pose() -> None:
    assert turned_pose(**directions(0, 0.0, 0.6)[0]) is None, "most are anywhere"
    assert turned_pose(**{**directions(0, 0.0)[0], "center_std": 3.0}) is None, "it may be anywhere"
    given = directions(0, 0.0)[0]
    few = {key: given[key][:20] for key in ("points", "pixels", "placed")}
    assert turned_pose(**{**given, **few}) is None, "20 of 30"
    behind = {**given, "points": -np.asarray(given["points"])}
    assert turned_pose(**behind) is None
