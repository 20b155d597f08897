"""The pixels that stand for an image."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.alignment.pixel_sample import PIXELS, pixel_sample, sample_pair
from dust3r_ros.geometry.pinhole import center_of, pixel_grid, rays
from dust3r_ros.types import PairPrediction


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
