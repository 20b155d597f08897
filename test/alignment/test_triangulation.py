"""Points from rays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dust3r_ros.alignment.triangulation import triangulate

NOISE = 1 / 300


def rays_to(points: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rays from every centre to every point: centres (M, 3), unit directions (M, 3), point index (M,)."""
    at = np.repeat(centers, len(points), axis=0)
    group = np.tile(np.arange(len(points)), len(centers))
    toward = points[group] - at
    return at, toward / np.linalg.norm(toward, axis=1, keepdims=True), group


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 30), st.floats(0.01, 1000.0))
def test_rays_that_meet(seed: int, views: int, count: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    points = unit * rng.uniform([-1, -1, 4], [1, 1, 6], (count, 3))
    centers = unit * rng.uniform(-1, 1, (views, 3))
    found, angles = triangulate(*rays_to(points, centers), count, NOISE)
    wide = angles > 0.5
    np.testing.assert_allclose(found[wide], points[wide], atol=1e-5 * unit)


def test_the_angle_is_that_between_the_rays() -> None:
    point, centers = np.array([[0.0, 0.0, 1.0]]), np.array([[0.0, 0, 0], [1.0, 0, 0], [0.1, 0, 0]])
    _, angles = triangulate(*rays_to(point, centers), 1, NOISE)
    assert angles[0] == pytest.approx(45.0)


def test_the_middle_of_rays_that_miss() -> None:
    centers = np.array([[0.0, 0, 0], [1.0, 0.02, 0]])
    directions = np.array([[0.5, 0, 1.0], [-0.5, 0, 1.0]]) / np.sqrt(1.25)
    found, _ = triangulate(centers, directions, np.zeros(2, int), 1, NOISE)
    np.testing.assert_allclose(found[0], [0.5, 0.01, 1.0], atol=1e-9)


def test_one_wrong_ray_among_several_hardly_pulls() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform([-1, -1, 4], [1, 1, 6], (50, 3))
    centers = np.array([[x, 0.1 * x, 0.0] for x in np.linspace(-1, 1, 6)])
    at, directions, group = rays_to(points, centers)
    directions[3 * 50 : 4 * 50] += rng.normal(0, 0.1, (50, 3))  # the fourth view has matched everything wrongly
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found, _ = triangulate(at, directions, group, 50, NOISE)
    without = np.ones(300, bool)
    without[3 * 50 : 4 * 50] = False
    clean, _ = triangulate(at[without], directions[without], group[without], 50, NOISE)
    np.testing.assert_allclose(clean, points, atol=1e-6)
    assert np.median(np.linalg.norm(found - points, axis=1)) < 0.02


def test_noise_is_averaged_over_views() -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform([-1, -1, 4], [1, 1, 6], (200, 3))
    errors = []
    for views in (2, 12):
        centers = np.array([[x, 0.3 * np.sin(5 * x), 0.0] for x in np.linspace(-1, 1, views)])
        at, directions, group = rays_to(points, centers)
        directions += rng.normal(0, 1e-3, directions.shape)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        found, _ = triangulate(at, directions, group, len(points), NOISE)
        errors.append(np.median(np.linalg.norm(found - points, axis=1)))
    assert errors[1] < errors[0]


def test_rays_that_say_nothing() -> None:
    """One ray, parallel rays and no ray: no point, and no parallax."""
    centers = np.array([[0.0, 0, 0], [0.0, 0, 0], [1.0, 0, 0], [0.0, 0, 0], [0.5, 0, 0]])
    directions = np.array([[0.0, 0, 1], [0.0, 0, 1], [0.0, 0, 1], [0.0, 0.6, 0.8], [0.0, 0.6, 0.8]])
    found, angles = triangulate(centers, directions, np.array([0, 1, 1, 3, 3]), 5, NOISE)
    assert np.isnan(found).all()
    np.testing.assert_allclose(angles, 0.0, atol=1e-4)


def test_nothing_at_all() -> None:
    found, angles = triangulate(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, int), 0, NOISE)
    assert found.shape == (0, 3) and angles.shape == (0,)
