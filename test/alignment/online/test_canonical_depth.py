"""Depth of keyframes from estimates in any unit."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.alignment.online.canonical_depth import CanonicalDepth
from dust3r_ros.alignment.online.edge_store import PIXELS, pixel_sample
from dust3r_ros.errors import GeometryError

SHAPE = (48, 64)


def scene(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(2, 6, SHAPE).astype(np.float32)


def sure(value: float = 4.0) -> np.ndarray:
    return np.full(SHAPE, value, np.float32)


def test_units_are_brought_together_and_noise_averaged() -> None:
    true, rng, maps = scene(), np.random.default_rng(1), CanonicalDepth()
    index = maps.append(*SHAPE)
    assert not maps.known(index) and maps.whole(index) is None
    for unit in (0.2, 5.0, 1.0, 0.7, 30.0, 2.0):
        maps.put(index, unit * true * np.exp(0.02 * rng.standard_normal(SHAPE)).astype(np.float32), sure())
    fused = maps.whole(index)
    assert fused is not None
    ratio = np.log(fused[0] / true)
    assert np.std(ratio) < 0.02 / np.sqrt(6) * 1.3
    assert np.median(fused[0]) == pytest.approx(1.0, abs=0.05)
    depth, weight = maps.sampled(np.array([index]))
    np.testing.assert_allclose(depth[0], fused[0].ravel()[pixel_sample(*SHAPE).flat], rtol=1e-5)
    assert (weight > 0).all()


def test_one_estimate_that_is_wrong_hardly_counts() -> None:
    true, maps = scene(), CanonicalDepth()
    index = maps.append(*SHAPE)
    for _ in range(3):
        maps.put(index, true, sure())
    bent = true.copy()
    bent[:, 40:] *= 2
    maps.put(index, bent, sure())
    fused = maps.whole(index)
    assert fused is not None
    assert np.abs(np.log(fused[0] / true / np.median(fused[0] / true))).max() < 0.01


def test_unusable_pixels_stay_unknown() -> None:
    depth, confidence, maps = scene(), sure(), CanonicalDepth()
    depth[:10], depth[10:15], confidence[15:20], confidence[20:24] = np.nan, -1.0, 1.0, np.nan
    index = maps.append(*SHAPE)
    maps.put(index, depth, confidence)
    fused = maps.whole(index)
    assert fused is not None
    assert (fused[0][:24] == 0).all() and (fused[0][24:] > 0).all() and (fused[1][:24] == 1).all()


def test_what_is_infinite_says_nothing() -> None:
    true, depth, confidence, maps = scene(), scene(), sure(), CanonicalDepth()
    depth[:8], depth[8:12], confidence[12:20] = np.inf, -np.inf, np.inf
    index = maps.append(*SHAPE)
    maps.put(index, depth, confidence)
    maps.put(index, 3 * true, sure())
    fused = maps.whole(index)
    assert fused is not None and np.isfinite(fused[1]).all()
    np.testing.assert_allclose(fused[0] / np.median(fused[0]), true / np.median(true), rtol=1e-3)
    np.testing.assert_allclose(fused[1][:20], 4.0, rtol=1e-4)  # the second estimate alone
    np.testing.assert_allclose(fused[1][20:], 7.0, rtol=1e-3)


def test_depth_without_anything_in_common_is_refused() -> None:
    maps = CanonicalDepth()
    index = maps.append(*SHAPE)
    with pytest.raises(GeometryError, match=f"of {PIXELS} sampled pixels 0 have depth"):
        maps.put(index, scene(), sure(1.0))
    assert not maps.known(index)
    upper, lower = sure(), sure()
    upper[24:], lower[:24] = 1.0, 1.0
    maps.put(index, scene(), upper)
    with pytest.raises(GeometryError, match="in common"):
        maps.put(index, scene(), lower)


def test_release_keeps_the_samples_only() -> None:
    maps = CanonicalDepth()
    for _ in range(70):
        index = maps.append(*SHAPE)
        maps.put(index, scene(index), sure())
        before = maps.sampled(np.array([index]))
        fused = maps.release(index)
        assert fused is not None and maps.whole(index) is None and maps.release(index) is None
        maps.put(index, scene(0), sure())  # too late, without effect
        np.testing.assert_array_equal(maps.sampled(np.array([index])), before)
    assert maps.nbytes == 128 * 2 * PIXELS * 4
    maps.drop_last()
    assert len(maps) == 69 and maps.append(*SHAPE) == 69 and not maps.known(69)
