"""The robust middle along rays against a general optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from dust3r_ros.alignment.batch.ray_median import FLOOR, inverse_root, ray_median

K, P = 7, 40


def problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (K, 3, P) about rays (3, P) at 4 m, some far off, and weights (K, P)."""
    rng = np.random.default_rng(seed)
    rays = np.stack([*rng.uniform(-0.5, 0.5, (2, P)), np.ones(P)])
    rays /= np.linalg.norm(rays, axis=0)
    points = 4.0 * rays + 0.1 * rng.standard_normal((K, 3, P))
    points[0] += 2.0 * rays  # an outlier everywhere
    return points.astype(np.float32), rays.astype(np.float32), rng.uniform(0.2, 2, (K, P)).astype(np.float32)


def middle(points: np.ndarray, rays: np.ndarray, weights: np.ndarray, iterations: int, **known: object) -> np.ndarray:
    spare = np.empty((2, *weights.shape), np.float32)
    return ray_median(points.copy(), rays, weights, 1e-3, spare, iterations, **known)  # type: ignore[arg-type]


def value(d: float, pixel: int, data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    points, rays, weights = (a.astype(np.float64) for a in data)
    away = d * rays[:, pixel] - points[:, :, pixel]
    return float(weights[:, pixel] @ np.linalg.norm(away, axis=1))


def test_it_is_where_the_weighted_distances_are_least() -> None:
    data = problem()
    settled, quick = middle(*data, 30), middle(*data, 3)
    for pixel in range(P):
        best = minimize_scalar(value, bounds=(2, 8), args=(pixel, data), method="bounded", options={"xatol": 1e-8})
        assert settled[pixel] == pytest.approx(best.x, abs=2e-3)
        # three iterations come within a thousandth of the value, which no outlier could be taken for
        assert value(quick[pixel], pixel, data) < 1.002 * best.fun
    assert np.abs(settled - 4.0).max() < 0.2


def test_the_secant_leaves_the_minimum_where_it_is() -> None:
    data = problem(1)
    np.testing.assert_allclose(middle(*data, 60), middle(*data, 200), atol=2e-5)


def test_stacks_are_solved_one_by_one() -> None:
    a, b = problem(2), problem(3)
    both = tuple(np.stack(pair) for pair in zip(a, b, strict=True))
    np.testing.assert_allclose(middle(*both, 3), [middle(*a, 3), middle(*b, 3)], rtol=1e-6)


def test_nothing_known_is_0_and_no_weight_no_influence() -> None:
    points, rays, weights = problem(4)
    weights[:, :5] = 0.0
    weights[2] = 0.0
    spoiled = points.copy()
    spoiled[2] = 1e3
    assert (middle(points, rays, weights, 3)[:5] == 0).all()
    np.testing.assert_array_equal(middle(points, rays, weights, 3), middle(spoiled, rays, weights, 3))


def test_known_depth_counts_like_a_observation_whose_residuals_deviate_as_much() -> None:
    points, rays, weights = problem(5)
    free = middle(points, rays, weights, 40)
    elsewhere = np.full(P, 5.0, np.float32)
    found = []
    for deviation in (0.0, 0.05, 0.5, 1e6):
        square = np.full(P, np.float32(deviation) ** 2)
        found.append(middle(points, rays, weights, 40, known=(elsewhere, square)))
    np.testing.assert_allclose(found[0], elsewhere, rtol=1e-6)
    np.testing.assert_allclose(found[3], free, atol=1e-4)
    assert (found[0] > found[1]).all() and (found[1] > found[2]).all() and (found[2] > free).all()
    # by hand: the mean residual is floor / FLOOR, the pull of the known one w b / s^2
    b, w = 1e-3 / FLOOR, weights.mean()
    r = np.linalg.norm(found[2] * rays - points, axis=1)
    pull = weights * (found[2] - np.einsum("kcp,cp->kp", points, rays)) / np.maximum(r, 1e-3)
    np.testing.assert_allclose(pull.sum(axis=0), w * b / 0.25 * (elsewhere - found[2]), rtol=2e-2, atol=5e-3)


def test_inverse_roots_are_exact_to_a_float() -> None:
    values = np.exp(np.random.default_rng(0).uniform(-20, 20, (3, 50))).astype(np.float32)
    found = np.empty_like(values)
    inverse_root(values, found)
    np.testing.assert_allclose(found, 1 / np.sqrt(values.astype(np.float64)), rtol=3e-7)
