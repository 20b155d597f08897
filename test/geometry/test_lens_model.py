"""Rays of raw pixels, of every distortion model."""

from __future__ import annotations

import numpy as np
import pytest
from lenses import LENSES, seen

from dust3r_ros.errors import ConfigError
from dust3r_ros.geometry.lens_model import LensModel, ray_slopes
from dust3r_ros.types import Calibration


@pytest.mark.parametrize("name", LENSES)
def test_rays_of_pixels_are_seen_at_these_pixels(name: str) -> None:
    calibration = LENSES[name]
    u, v = (grid.ravel() for grid in np.meshgrid(np.arange(0, 320, 13.0), np.arange(0, 240, 11.0)))
    slopes = ray_slopes(calibration, np.stack([u, v], axis=-1))
    np.testing.assert_allclose(np.stack(seen(calibration, *slopes.T), axis=-1), np.stack([u, v], axis=-1), atol=1e-3)
    assert ray_slopes(calibration, np.zeros((0, 2))).shape == (0, 2)


def test_the_model_ends_where_its_polynomial_turns_back() -> None:
    """r - 0.6 r^3 rises until r = 1 / sqrt(1.8); a rational model ends before its pole."""
    turning = LensModel.of(Calibration(320, 240, 260.0, 260.0, 160.0, 120.0, "plumb_bob", (-0.6, 0.0, 0.0, 0.0)))
    assert turning.radii[-1] == pytest.approx(1 / np.sqrt(1.8), abs=1e-2)
    pole = (0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0)
    ended = LensModel.of(Calibration(320, 240, 260.0, 260.0, 160.0, 120.0, "rational_polynomial", pole))
    assert 0.9 < ended.radii[-1] < 1.0
    for model in (turning, ended, LensModel.of(LENSES["fisheye"]), LensModel.of(LENSES["rational"])):
        assert (np.diff(model.radii) > 0).all() and (np.diff(model.seen) > 0).all()


def test_unknown_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="'ptlens'"):
        ray_slopes(Calibration(4, 3, 2.0, 2.0, 1.5, 1.0, "ptlens", (0.1, 0.2)), np.zeros((1, 2)))
