"""The columns of a growing pair graph."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.alignment.moments import closed_form, inverse, moments, retract
from dust3r_ros.alignment.online.edge_store import (
    FLOOR,
    PIXELS,
    EdgeStore,
    PointPairs,
    SampledPair,
    pixel_sample,
    sample_pair,
)
from dust3r_ros.geometry.pinhole import center_of, pixel_grid, rays
from dust3r_ros.types import Array, PairPrediction


@pytest.mark.parametrize("shape", [(192, 256), (256, 192), (30, 40), (5, 7), (384, 512)])
def test_pixels_are_inside_spread_evenly_and_know_where_they_are(shape: tuple[int, int]) -> None:
    height, width = shape
    sample = pixel_sample(height, width)
    assert sample.flat.shape == (PIXELS,)
    rows, columns = np.divmod(sample.flat, width)
    assert rows.max() < height and rows.min() >= 0
    quarters = np.histogram2d(rows / height, columns / width, bins=4, range=[[0, 1], [0, 1]])[0]
    if min(shape) >= 30:
        assert quarters.min() > 0.85 * PIXELS / 16 and quarters.max() < 1.15 * PIXELS / 16
    expected = rays(pixel_grid(height, width), 80.0, center_of(height, width)).reshape(-1, 3)[sample.flat]
    np.testing.assert_allclose(sample.rays(80.0), expected, atol=1e-6)


def test_what_is_not_usable_weighs_nothing() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.uniform(1, 3, (2, 60, 80, 3)).astype(np.float32)
    confidence, other = rng.uniform(1.5, 5, (2, 60, 80)).astype(np.float32)
    first[:20, :, 2], first[20:30, :, 2] = np.nan, -1.0
    second[:, :40, 1] = np.inf
    confidence[30:40], other[:30] = 1.0, np.nan
    pair = sample_pair(PairPrediction(3, 4, first, confidence, second, other))
    rows, columns = np.divmod(pixel_sample(60, 80).flat, 80)
    np.testing.assert_array_equal(pair.depth_weight > 0, rows >= 40)
    np.testing.assert_array_equal(pair.weight > 0, (rows >= 30) & (columns >= 40))
    good = pair.weight > 0
    np.testing.assert_array_equal(pair.points[good], second[rows[good], columns[good]])
    np.testing.assert_allclose(pair.weight[good], np.log(other[rows[good], columns[good]]), rtol=1e-6)
    assert np.isfinite(pair.points).all() and np.isfinite(pair.depth).all()


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


def filled(count: int, seed: int = 0) -> tuple[EdgeStore, np.ndarray, np.ndarray]:
    """A chain of edges (k, k + 1), their points a and b (E, P, 3) with weight 1."""
    rng, store = np.random.default_rng(seed), EdgeStore()
    a, b = rng.normal(size=(2, count, 20, 3))
    numbers = np.array([store.append(k, k + 1, loop=k % 3 == 0) for k in range(count)])
    store.put_moments(numbers, moments(a, b, np.ones((count, 20))))
    return store, a, b


def test_edges_keep_what_was_put_as_the_store_grows() -> None:
    store, a, b = filled(300)
    assert len(store) == 300
    np.testing.assert_array_equal(store.first, np.arange(300))
    np.testing.assert_array_equal(store.second, np.arange(1, 301))
    np.testing.assert_array_equal(store.loop, np.arange(300) % 3 == 0)
    np.testing.assert_allclose(store.moments(np.arange(300)), moments(a, b, np.ones((300, 20))))


def test_an_old_edge_costs_28_numbers_and_its_ends() -> None:
    store, _, _ = filled(64)
    assert store.nbytes / 64 <= 28 * 8 + 2 * 8 + 2


def test_only_edges_that_are_on_touch() -> None:
    store, _, _ = filled(10)
    assert store.touching(np.arange(11)).size == 0
    store.switch(np.array([2, 3, 4, 8]), True)
    np.testing.assert_array_equal(store.touching(np.array([4])), [3, 4])
    np.testing.assert_array_equal(store.touching(np.array([9, 10])), [8])
    store.switch(np.array([3]), False)
    np.testing.assert_array_equal(store.touching(np.array([4])), [4])
    np.testing.assert_array_equal(store.ends_on(), [[2, 3], [4, 5], [8, 9]])
    assert EdgeStore().touching(np.array([0])).size == 0


def test_moments_follow_a_change_of_focal_as_if_made_anew() -> None:
    store, a, b = filled(6)
    changed = np.array([False, False, True, False, True, True, False])
    store.stretch_rays(changed, 1.25)
    b = np.where(changed[1:, None, None], b * [1.25, 1.25, 1.0], b)  # the second end of edge k is k + 1
    np.testing.assert_allclose(store.moments(np.arange(6)), moments(a, b, np.ones((6, 20))), rtol=1e-12)
