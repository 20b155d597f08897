"""Robust means of rotations and directions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.metric.directions import Z, about_z, heading, least_rotation, mean_direction, mean_rotation

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
