"""Depth metrics: invariances, a case computed by hand, resampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dust3r_ros.errors import GeometryError
from dust3r_ros.evaluation.depth import DepthErrors, depth_errors, mean_errors, resample
from dust3r_ros.geometry.lens import Lens, plumb_bob
from dust3r_ros.types import Camera, Keyframe


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
    camera = Camera("front", 64, 48, 60.0, principal_offset=lens.center, distortion=plumb_bob(lens, 60.0, 64, 48))
    ramp = np.tile(np.arange(1, 65, dtype=np.float32), (48, 1))
    result = resample(ramp, keyframe_of(48, 64, 60.0), camera)
    ideal = np.stack(np.meshgrid(np.arange(64) - 31.5, np.arange(48) - 23.5), axis=-1).reshape(-1, 2)
    columns = (lens.seen(ideal)[:, 0] + 31.5).reshape(48, 64)
    known = result > 0
    assert 0.6 < known.mean() < 1.0
    assert np.abs(result[known] - 1.0 - columns[known]).max() < 0.6
