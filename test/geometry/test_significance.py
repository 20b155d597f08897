"""How many models to expect by chance."""

from __future__ import annotations

from math import comb, inf, log10

import numpy as np
import pytest

from dust3r_ros.geometry.pose import solve_pnp
from dust3r_ros.geometry.significance import by_chance, log_false_alarms


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
