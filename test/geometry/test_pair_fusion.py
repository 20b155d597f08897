"""One depth map out of several estimates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dust3r_ros.geometry import depths
from dust3r_ros.geometry.depths import fuse_depths, robust_scale

SHAPE = (12, 16)
properties = settings(max_examples=40, deadline=None, derandomize=True)


def estimates(count: int, seed: int = 0, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(truth (H, W), depths (N, H, W), confidences (N, H, W))."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1, 6, SHAPE)
    depths = truth * np.exp(noise * rng.standard_normal((count, *SHAPE)))
    return truth, depths.astype(np.float32), rng.uniform(1.5, 8, (count, *SHAPE)).astype(np.float32)


def rel(depth: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean(np.abs(depth / truth - 1)))


def test_more_estimates_are_better_than_one() -> None:
    truth, depths, confidences = estimates(6)
    fused, confidence = fuse_depths(list(depths), list(confidences))
    assert rel(fused, truth) < 0.7 * rel(depths[0], truth)
    assert fused.dtype == confidence.dtype == np.float32
    assert (confidence >= 1).all() and confidence.mean() > confidences.mean()


@pytest.mark.parametrize("factor", [0.2, 1.5, 30.0])
def test_one_wrong_estimate_hardly_pulls(factor: float) -> None:
    truth, depths, confidences = estimates(5)
    confidences[:] = 4.0
    confidences[2] = 3.5
    depths[2] *= factor
    fused, confidence = fuse_depths(list(depths), list(confidences))
    assert rel(fused, truth) < 0.03
    clean, sure = fuse_depths(list(np.delete(depths, 2, 0)), list(np.delete(confidences, 2, 0)))
    np.testing.assert_allclose(fused, clean, rtol=0.02)
    np.testing.assert_allclose(confidence, sure, rtol=0.05)  # what disagrees makes nothing surer


@pytest.mark.parametrize("wrong", range(4))
def test_of_equally_sure_estimates_the_majority_wins(wrong: int) -> None:
    truth, depths, _ = estimates(4)
    depths[wrong] *= 3.0
    fused, _ = fuse_depths(list(depths), [np.full(SHAPE, 4.0, np.float32)] * 4)
    assert rel(fused, truth) < 0.03


def test_a_large_map_is_fused_like_its_parts() -> None:
    rng = np.random.default_rng(0)
    depths = list(rng.uniform(1, 6, (5, 301, 67)).astype(np.float32))
    confidences = list(rng.uniform(1, 8, (5, 301, 67)).astype(np.float32))
    fused, confidence = fuse_depths(depths, confidences)
    for row in (0, 150, 300):
        part, sure = fuse_depths([d[row] for d in depths], [c[row] for c in confidences])
        np.testing.assert_allclose(fused[row], part, rtol=1e-6)
        np.testing.assert_allclose(confidence[row], sure, rtol=1e-6)


@properties
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(1e-3, 1e3))
def test_the_unit_of_length_does_not_matter(seed: int, count: int, unit: float) -> None:
    _, depths, confidences = estimates(count, seed, 0.3)
    fused, confidence = fuse_depths(list(depths), list(confidences))
    scaled, same = fuse_depths(list(np.float32(unit) * depths), list(confidences))
    np.testing.assert_allclose(scaled, unit * fused, rtol=2e-3)
    np.testing.assert_allclose(same, confidence, rtol=2e-2)


@properties
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_between_the_estimates_and_whatever_their_order(seed: int, count: int) -> None:
    _, depths, confidences = estimates(count, seed, 0.5)
    fused, confidence = fuse_depths(list(depths), list(confidences))
    assert (fused >= depths.min(axis=0) * 0.9999).all() and (fused <= depths.max(axis=0) * 1.0001).all()
    assert (confidence >= 1).all() and (confidence <= 1 + (confidences - 1).sum(axis=0) * 1.0001).all()
    reversed_, _ = fuse_depths(list(depths[::-1]), list(confidences[::-1]))
    np.testing.assert_allclose(reversed_, fused, rtol=1e-3)


def test_one_estimate_stays_as_it_is() -> None:
    _, depths, confidences = estimates(1)
    fused, confidence = fuse_depths(list(depths), list(confidences))
    np.testing.assert_allclose(fused, depths[0], rtol=1e-6)
    np.testing.assert_allclose(confidence, confidences[0], rtol=1e-6)


def test_what_nobody_knows_stays_unknown() -> None:
    truth, depths, confidences = estimates(3)
    depths[0, :6], confidences[0, :6] = 0.0, 5.0  # no depth there, whatever the confidence says
    confidences[1, :4] = 1.0  # confidence 1 weighs nothing
    confidences[2, :3], depths[2, :3] = 1.0, 99.0
    fused, confidence = fuse_depths(list(depths), list(confidences))
    assert (fused[:3] == 0).all() and (confidence[:3] == 1).all()
    np.testing.assert_allclose(fused[3], depths[2, 3], rtol=1e-5)
    assert (fused[4:] > 0).all() and (confidence[4:] > 1).all()
    assert np.isfinite(fused).all() and np.isfinite(confidence).all()
    assert rel(fused[4:], truth[4:]) < 0.03


def test_robust_scale_with_outliers() -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 9, 2000)
    reference = 0.37 * depth * np.exp(0.02 * rng.standard_normal(2000))
    reference[:800] *= rng.uniform(3, 9, 800)  # 40 percent, all to one side
    weight = np.ones(2000)
    assert robust_scale(reference, depth, weight) < 0.37 * 1.05
    weight[:800] = 1e-3
    assert robust_scale(reference, depth, weight) == pytest.approx(0.37, rel=0.01)


@properties
@given(st.integers(0, 10**6), st.floats(1e-4, 1e4), st.floats(1e-4, 1e4))
def test_robust_scale_is_equivariant(seed: int, a: float, b: float) -> None:
    rng = np.random.default_rng(seed)
    reference, depth, weight = rng.uniform(0.1, 9, (3, 51))
    base = robust_scale(reference, depth, weight)
    assert robust_scale(a * reference, b * depth, weight) == pytest.approx(a / b * base, rel=1e-9)
    assert robust_scale(reference, depth, 7.0 * weight) == pytest.approx(base)
    assert robust_scale(depth, reference, weight) == pytest.approx(1 / base, rel=0.2)


def test_no_scale_without_common_depth() -> None:
    ones, zeros = np.ones(4), np.zeros(4)
    assert np.isnan(robust_scale(ones, ones, zeros))
    assert np.isnan(robust_scale(zeros, ones, ones))
    assert np.isnan(robust_scale(ones, -ones, ones))
    assert np.isnan(robust_scale(np.zeros(0), np.zeros(0), np.zeros(0)))
    assert robust_scale(np.array([np.nan, 2.0]), np.array([1.0, 1.0]), np.ones(2)) == 2.0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_compiler_changes_nothing(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More pixels than are processed at a time, some unknown."""
    assert depths.LIBRARY is not None
    rng = np.random.default_rng(count)
    estimates = rng.uniform(1, 4, (250, 210)) * np.exp(rng.normal(0, 0.1, (count, 250, 210)))
    estimates = (estimates * (rng.random(estimates.shape) < 0.7)).astype(np.float32)
    confidences = (1 + rng.exponential(2, estimates.shape) * (rng.random(estimates.shape) < 0.9)).astype(np.float32)
    compiled = fuse_depths(list(estimates), list(confidences))
    monkeypatch.setattr(depths, "LIBRARY", None)
    plain = fuse_depths(list(estimates), list(confidences))
    for one, other in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert 0.5 < (plain[0] > 0).mean() < 1
