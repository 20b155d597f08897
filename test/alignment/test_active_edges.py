"""Edges with their pixels: units, residuals, closed fits."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.alignment.active_edges import FLOOR, PointPairs
from dust3r_ros.alignment.moments import closed_form, inverse, moments, retract
from dust3r_ros.alignment.pixel_sample import PIXELS, SampledPair
from dust3r_ros.types import Array


def problem(units: list[float], seed: int = 0, outliers: float = 0.0) -> tuple[PointPairs, Array, Array]:
    """Edges whose ends are at random similarities; points, and those similarities (E, 4, 4) of both ends."""
    rng, count = np.random.default_rng(seed), len(units)
    start = np.tile(np.eye(4), (count, 1, 1))
    first, second = (retract(start, 0.3 * rng.standard_normal((count, 7))) for _ in range(2))
    target = rng.uniform([-1, -1, 1], [1, 1, 3], (count, PIXELS, 3))
    a = apply(inverse(first) @ second, target)
    a += (rng.uniform(size=a.shape[:2]) < outliers)[..., None] * rng.uniform(-0.5, 0.5, a.shape)
    depth = rng.uniform(1, 3, (count, PIXELS))
    pairs = [
        SampledPair(e, e + 1, f32(a[e] / unit), f32(np.ones(PIXELS)), f32(depth[e] / unit), f32(np.ones(PIXELS)))
        for e, unit in enumerate(units)
    ]
    ones = f32(np.ones((count, PIXELS)))
    return PointPairs(pairs, f32(depth), ones, f32(target), ones), first, second


def f32(values: Array) -> np.ndarray:
    return values.astype(np.float32)


def apply(S: Array, points: Array) -> Array:
    return points @ np.swapaxes(S[:, :3, :3], 1, 2) + S[:, None, :3, 3]


def test_units_are_found_and_true_poses_leave_no_residual() -> None:
    points, first, second = problem([0.1, 1.0, 25.0])
    np.testing.assert_allclose(points.scale, [0.1, 1.0, 25.0], rtol=1e-5)
    assert points.residuals(first, second).max() < 1e-5
    assert points.mean(points.residuals(first, second)).max() < 1e-5


def test_residuals_do_not_depend_on_the_scale_of_the_map() -> None:
    points, first, second = problem([1.0, 1.0])
    second = retract(second, np.full((2, 7), 0.05))
    grown = np.diag([7.0, 7.0, 7.0, 1.0])
    np.testing.assert_allclose(
        points.residuals(grown @ first, grown @ second), points.residuals(first, second), rtol=1e-4
    )


def test_the_closed_fit_shrugs_off_outliers() -> None:
    points, first, second = problem([3.0, 0.5], outliers=0.2)
    found, residual, _ = points.fitted()
    true = inverse(second) @ first
    np.testing.assert_allclose(found, true, atol=0.01)
    once, _ = closed_form(moments(points.a, points.b, points.weight))
    assert np.abs(found - true).max() < 0.2 * np.abs(once - true).max()
    assert (residual > 0.03).all()  # the outliers stay in the residual


def test_weights_are_those_of_the_unsquared_norm() -> None:
    points, first, second = problem([1.0], outliers=0.3)
    residuals = points.residuals(first, second)
    weight = 1.0 / np.maximum(residuals, FLOOR)
    np.testing.assert_allclose(points.moments(residuals), moments(points.a, points.b, weight), rtol=1e-6)


def test_an_edge_without_common_depth_has_no_weight() -> None:
    points, _, _ = problem([1.0, 1.0])
    pairs = [
        SampledPair(e, e + 1, points.a[e], f32(np.ones(PIXELS)), f32(np.full(PIXELS, e * 2.0)), f32(np.ones(PIXELS)))
        for e in range(2)
    ]
    ones = f32(np.ones((2, PIXELS)))
    both = PointPairs(pairs, 2 * ones, ones, points.b, ones)
    found, residual, _ = both.fitted()
    assert np.isnan(both.scale[0]) and both.scale[1] == pytest.approx(1.0)
    assert np.isnan(found[0]).all() and residual[0] == np.inf and np.isfinite(found[1]).all()
