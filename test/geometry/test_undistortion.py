"""Rectified images show at every pixel what a pinhole sees there; the truth is a pattern known for every ray."""

from __future__ import annotations

import math

import numpy as np
import pytest
from lenses import LENSES, rays, seen

from dust3r_ros.errors import ConfigError
from dust3r_ros.geometry.undistortion import Undistortion
from dust3r_ros.types import Calibration

NAN, INF = math.nan, math.inf
PINHOLE = Calibration(320, 240, 260.0, 260.0, 159.5, 119.5)


def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What stands in the direction (x, y, 1): smooth, RGB."""
    return np.stack([128 + 100 * np.sin(7 * x + 2), 128 + 100 * np.cos(6 * y), 128 + 60 * np.sin(5 * (x + y))], -1)


def raw_image(calibration: Calibration) -> np.ndarray:
    u, v = np.meshgrid(np.arange(calibration.width, dtype=float), np.arange(calibration.height, dtype=float))
    return np.rint(pattern(*rays(calibration, u, v))).astype(np.uint8)


def ideal_rays(undistortion: Undistortion) -> tuple[np.ndarray, np.ndarray]:
    width, height = undistortion.width, undistortion.height
    u, v = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    return u / undistortion.focal, v / undistortion.focal


@pytest.mark.parametrize("name", LENSES)
def test_every_pixel_shows_what_stands_in_its_direction(name: str) -> None:
    calibration = LENSES[name]
    undistortion = Undistortion.of(calibration, 320, 240)
    image = undistortion.image(raw_image(calibration))
    difference = np.abs(image - pattern(*ideal_rays(undistortion)))[undistortion.valid]
    assert undistortion.valid.mean() > 0.8 and not undistortion.identity
    assert difference.mean() < 0.6 and np.quantile(difference, 0.999) < 3.0


@pytest.mark.parametrize("name", LENSES)
def test_valid_is_what_the_camera_sees(name: str) -> None:
    calibration = LENSES[name]
    undistortion = Undistortion.of(calibration, 320, 240)
    u, v = seen(calibration, *ideal_rays(undistortion))
    inside = (u >= -0.5) & (u <= 319.5) & (v >= -0.5) & (v <= 239.5)
    assert (inside != undistortion.valid).mean() < 1e-3


def test_the_focal_is_the_mean_one_unless_too_much_is_lost() -> None:
    for name in ("plain", "barrel", "pincushion"):
        c = LENSES[name]
        assert Undistortion.of(c, 320, 240).focal == math.sqrt(c.fx * c.fy)
    wide = LENSES["fisheye"]
    undistortion = Undistortion.of(wide, 320, 240)
    assert 75.0 < undistortion.focal < 150.0
    u, v = np.meshgrid(np.arange(320.0), np.arange(240.0))
    x, y = rays(wide, u, v)
    kept = (np.abs(x) * undistortion.focal <= 160) & (np.abs(y) * undistortion.focal <= 120)
    assert kept.mean() == pytest.approx(0.8, abs=0.01)
    wider = Calibration(320, 240, 90.0, 90.0, 159.5, 119.5, "equidistant", (0.0, 0.0, 0.0, 0.0))
    assert Undistortion.of(wider, 320, 240).focal == 45.0


def test_an_ideal_camera_is_left_alone() -> None:
    zeros = [(), (0.0,) * 5]
    for calibration in [Calibration(320, 240, 260.0, 260.0, 159.5, 119.5, m, d) for m in ("", "x") for d in zeros]:
        undistortion = Undistortion.of(calibration, 320, 240)
        image = np.zeros((240, 320, 3), np.uint8)
        assert undistortion.identity and undistortion.image(image) is image
        assert undistortion.mask() is None and undistortion.valid.all()
        assert undistortion.ideal == PINHOLE
    fisheye = Calibration(320, 240, 260.0, 260.0, 159.5, 119.5, "equidistant", ())
    assert not Undistortion.of(fisheye, 320, 240).identity  # without coefficients it is a fisheye still


def test_masks_move_with_the_image_and_take_in_what_is_not_seen() -> None:
    calibration = LENSES["pincushion"]
    undistortion = Undistortion.of(calibration, 320, 240)
    raw = raw_image(calibration)
    mask = undistortion.mask((raw[..., 0] > 128).astype(np.uint8))
    assert mask is not None
    wanted = pattern(*ideal_rays(undistortion))[..., 0] > 128
    assert ((mask > 0) == (wanted | ~undistortion.valid)).mean() > 0.99
    border = undistortion.mask()
    assert border is not None and 0 < (border > 0).mean() < 0.2 and np.array_equal(border == 0, undistortion.valid)


@pytest.mark.parametrize("scale", [1, 2])
def test_depth_moves_with_the_image_whatever_its_size(scale: int) -> None:
    calibration = LENSES["barrel"]
    undistortion = Undistortion.of(calibration, 320, 240)
    height, width = 240 // scale, 320 // scale
    u, v = np.meshgrid((np.arange(width) + 0.5) * scale - 0.5, (np.arange(height) + 0.5) * scale - 0.5)
    x, y = rays(calibration, u, v)
    depth = undistortion.depth((2 + 0.5 * x + 0.3 * y).astype(np.float32))
    x, y = ideal_rays(undistortion)
    wanted = (2 + 0.5 * x + 0.3 * y).reshape(height, scale, width, scale).mean(axis=(1, 3))
    known = depth > 0
    assert known.mean() > 0.95 and depth.dtype == np.float32
    assert np.abs(depth - wanted)[known].max() < 0.01 * scale


def test_a_scaled_image_is_undistorted_alike() -> None:
    calibration = LENSES["barrel"]
    half = Undistortion.of(calibration, 160, 120)
    assert half.focal == pytest.approx(math.sqrt(calibration.fx * calibration.fy) / 2)
    u, v = np.meshgrid((np.arange(160) + 0.5) * 2 - 0.5, (np.arange(120) + 0.5) * 2 - 0.5)
    raw = np.rint(pattern(*rays(calibration, u, v))).astype(np.uint8)
    difference = np.abs(half.image(raw) - pattern(*ideal_rays(half)))[half.valid]
    assert difference.mean() < 0.6 and np.quantile(difference, 0.999) < 3.0
    Undistortion.of(Calibration(1280, 720, 900, 900, 639.5, 359.5), 427, 240)  # rounded


def test_a_polynomial_that_turns_back_shows_no_mirror_image() -> None:
    calibration = Calibration(320, 240, 260.0, 260.0, 159.5, 119.5, "plumb_bob", (-0.6, 0.0, 0.0, 0.0, 0.0))
    undistortion = Undistortion.of(calibration, 320, 240)
    x, y = ideal_rays(undistortion)
    r = np.hypot(x, y)
    assert not undistortion.valid[r > math.sqrt(1 / 1.8) + 0.01].any()  # where r - 0.6 r^3 turns
    assert undistortion.valid[r < 0.5].all()


@pytest.mark.parametrize(
    ("calibration", "reason"),
    [
        (Calibration(320, 240, NAN, 260, 160, 120), "not finite"),
        (Calibration(320, 240, 260, 260, INF, 120), "not finite"),
        (Calibration(320, 240, 260, 260, 160, 120, "plumb_bob", (0.1, NAN, 0, 0, 0)), "not finite"),
        (Calibration(320, 240, 0, 260, 160, 120), "fx 0"),
        (Calibration(320, 240, -260, 260, 160, 120), "fx -260"),
        (Calibration(320, 240, 260, 2.6, 160, 120), "similar"),
        (Calibration(320, 240, 1e6, 1e6, 160, 120), "100 times the long edge"),
        (Calibration(320, 240, 260, 260, 1600, 120), "far outside"),
        (Calibration(0, 240, 260, 260, 160, 120), "0x240"),
        (Calibration(320, 320, 260, 260, 160, 120), "aspect ratio"),
        (Calibration(320, 240, 260, 260, 160, 120, "ptlens", (0.1, 0.0)), "'ptlens' is not known; known are plumb_bob"),
        (Calibration(320, 240, 260, 260, 160, 120, "plumb_bob", (0.1, 0.0, 0.0)), "3 coefficients"),
        (Calibration(320, 240, 260, 260, 160, 120, "equidistant", (0.1,) * 5), "5 coefficients"),
        (Calibration(320, 240, 260, 260, 160, 120, "plumb_bob", (-9.0, 0, 0, 0, 0)), "does not belong to the lens"),
    ],
)
def test_calibrations_that_cannot_be_are_refused(calibration: Calibration, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Undistortion.of(calibration, 320, 240)


def test_an_image_of_another_size_is_refused() -> None:
    undistortion = Undistortion.of(LENSES["barrel"], 320, 240)
    with pytest.raises(ConfigError, match=r"160x120.*320x240"):
        undistortion.image(np.zeros((120, 160, 3), np.uint8))
