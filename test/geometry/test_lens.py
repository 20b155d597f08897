"""Rays of raw pixels, of every distortion model. A radial term and a principal point, there and back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lenses import LENSES, seen

from dust3r_ros.errors import ConfigError
from dust3r_ros.geometry.lens import Lens, LensModel, forward_model, raw_pixels, ray_slopes, turning_radius
from dust3r_ros.geometry.pinhole import pixel_grid
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


@pytest.mark.parametrize(
    "model, d",
    [
        ("plumb_bob", (-0.9, 0.0, 0.0, 0.0, 0.0)), ("plumb_bob", (0.1, 0.01, 1e6, 0.0, 0.0)),
        ("plumb_bob", (0.1, 0.01, 0.0, 0.0, 1e308)), ("plumb_bob", (-1e200, 0.0, 0.0, 0.0, 0.0)),
        ("fisheye", (-1e10, 1e200, 0.0, 0.0)),
    ],
)  # fmt: skip
def test_a_pixel_without_a_ray_has_none(model: str, d: tuple[float, ...]) -> None:
    """OpenCV's iterations end somewhere, or at NaN; what they give must project back."""
    calibration = Calibration(96, 72, 80.0, 80.0, 47.5, 35.5, model, d)
    pixels = np.stack(np.meshgrid(np.arange(0, 96, 7.0), np.arange(0, 72, 7.0)), axis=-1).reshape(-1, 2)
    slopes = ray_slopes(calibration, pixels)
    found = np.isfinite(slopes).all(axis=1)
    assert found.mean() < 0.7
    if found.any():
        back = np.stack(seen(calibration, *slopes[found].T), axis=-1)
        np.testing.assert_allclose(back, pixels[found], atol=0.6)


def test_unknown_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="'ptlens'"):
        ray_slopes(Calibration(4, 3, 2.0, 2.0, 1.5, 1.0, "ptlens", (0.1, 0.2)), np.zeros((1, 2)))


PIXELS = np.stack(np.meshgrid(np.linspace(-320, 320, 9), np.linspace(-240, 240, 7)), axis=-1).reshape(-1, 2)


@given(st.floats(-0.15, 0.3), st.floats(-0.02, 0.08), st.floats(-0.005, 0.02), st.floats(-15, 15), st.floats(-15, 15))
def test_there_and_back(radial: float, second: float, third: float, x: float, y: float) -> None:
    lens = Lens(320.0, radial, (x, y), second, third)
    np.testing.assert_allclose(lens.seen(lens.ideal(PIXELS)), PIXELS, atol=1e-6)


def test_a_plain_lens_changes_nothing() -> None:
    assert Lens(320.0).plain
    np.testing.assert_array_equal(Lens(320.0).ideal(PIXELS), PIXELS)
    np.testing.assert_array_equal(Lens(320.0).seen(PIXELS), PIXELS)


def test_the_sign_of_the_radial_term() -> None:
    """Negative: the image shows things too far out, as a pincushion does; ideal points lie further in."""
    assert Lens(320.0, -0.07).ideal(np.array([[320.0, 0.0]]))[0, 0] == pytest.approx(320 / 1.07)
    assert Lens(320.0, 0.07).ideal(np.array([[0.0, 160.0]]))[0, 1] == pytest.approx(160 / (1 - 0.07 / 4))


def test_the_same_lens_in_a_larger_image() -> None:
    lens = Lens(320.0, -0.05, (4.0, -3.0))
    np.testing.assert_allclose(lens.scaled(2.0).ideal(2.0 * PIXELS), 2.0 * lens.ideal(PIXELS))


FOLDED = [(-0.3, 0, 0), (0, -0.1, 0), (-0.2, -0.05, 0), (0.3, -0.2, 0), (0.2, 0.1, -0.1), (3e-3, 2e-3, -6e-5)]


@pytest.mark.parametrize("radials", FOLDED)
def test_beyond_where_the_model_turns_back(radials: tuple[float, float, float]) -> None:
    radial, second, third = radials
    lens = Lens(100.0, radial, second=second, third=third)
    far = lens.seen(np.array([[1e5, 0.0], [0.0, 0.0]]))
    assert np.isfinite(far).all()
    np.testing.assert_array_equal(far[1], 0.0)
    outwards = lens.seen(np.linspace([0.0, 0.0], [1200.0, 0.0], 800))[:, 0]
    assert (np.diff(outwards) > 0).all()
    turned = outwards > 100.0 * turning_radius(*radials)
    assert turned.sum() > 10 and np.ptp(np.diff(outwards[turned])) < 1e-9, "continued by a straight line"


WIDE = {
    "stereographic": lambda angle: 2.0 * np.tan(angle / 2.0),
    "equidistant": lambda angle: angle,
    "Brown, k1 -0.2": lambda angle: np.tan(angle) * (1.0 - 0.2 * np.tan(angle) ** 2),
    "Brown, k1 -0.35": lambda angle: np.tan(angle) * (1.0 - 0.35 * np.tan(angle) ** 2),
}


@pytest.mark.parametrize(
    ("name", "widest", "terms", "off_px"),
    [
        ("stereographic", 60, 1, 1e-3),
        ("equidistant", 60, 1, 3.0),
        ("equidistant", 60, 2, 0.1),
        ("Brown, k1 -0.2", 35, 2, 1.0),
        ("Brown, k1 -0.35", 35, 2, 3.0),
        ("Brown, k1 -0.35", 35, 3, 1.0),
    ],
)
def test_wide_lenses_are_described(name: str, widest: int, terms: int, off_px: float) -> None:
    """To the corners of an image of 640 pixels."""
    angle = np.radians(np.linspace(1.0, widest, 60))
    shown = WIDE[name](angle)
    focal = 400.0 / shown[-1]
    ideal, shown = focal * np.tan(angle), focal * shown
    square = (shown / 320.0) ** 2
    A = (ideal[:, None] * np.stack([square, square**2, square**3], axis=1))[:, :terms]
    found = np.linalg.lstsq(A / (ideal / shown)[:, None] ** 2, (ideal - shown) / (ideal / shown) ** 2, rcond=None)[0]
    radial, second, third = np.pad(found, (0, 3 - terms)).tolist()
    lens = Lens(320.0, radial, second=second, third=third)
    off = lens.seen(np.column_stack([ideal, 0 * ideal]))[:, 0] - shown
    assert np.abs(off).max() < off_px


@pytest.mark.parametrize(("radial", "worst"), [(-0.1, 0.2), (-0.07, 0.05), (0.0, 1e-3), (0.03, 0.01), (0.1, 0.1)])
@pytest.mark.parametrize(("focal", "center"), [(300.0, (0.0, 0.0)), (700.0, (6.0, -9.0))])
def test_opencv_rectifies_as_the_lens_says(
    radial: float, worst: float, focal: float, center: tuple[float, float]
) -> None:
    """Every pixel of the rectified image is fetched from where the lens shows it."""
    lens, middle = Lens(320.0, radial, center), np.array([319.5, 239.5])
    model, distortion = forward_model(lens, focal, 640, 480)
    assert model == "plumb_bob"
    cx, cy = middle + center
    K = np.array([[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]])
    d = np.array(distortion or np.zeros(5))
    maps = cv2.initUndistortRectifyMap(K, d, np.eye(3), K, (640, 480), cv2.CV_32FC1)
    found = np.stack(maps, axis=-1).reshape(-1, 2)
    pixels = np.stack(np.meshgrid(np.arange(640.0), np.arange(480.0)), axis=-1).reshape(-1, 2)
    expected = lens.seen(pixels - (cx, cy)) + middle
    inside = (np.abs(expected - middle) <= middle + 0.5).all(axis=1)
    assert inside.mean() > 0.8
    np.testing.assert_allclose(found[inside], expected[inside], atol=worst)
    # What lies beyond the image comes from beyond it: nothing is folded back into the picture.
    far = (np.abs(expected - middle) > middle + 1.0).any(axis=1)
    assert (np.abs(found[far] - middle) > middle + 0.5).any(axis=1).all()


def test_a_lens_that_does_not_bend_has_no_distortion() -> None:
    assert forward_model(Lens(320.0, 0.0, (3.0, 4.0)), 500.0, 640, 480) == ("plumb_bob", ())


def test_the_distortion_does_not_depend_on_the_resolution() -> None:
    lens = Lens(320.0, -0.06, (5.0, 2.0))
    large, small = forward_model(lens.scaled(2.0), 1000.0, 1280, 960), forward_model(lens, 500.0, 640, 480)
    assert large[0] == small[0] and large[1] == pytest.approx(small[1])


@pytest.mark.parametrize(("degrees", "model"), [(70, "plumb_bob"), (110, "equidistant"), (120, "equidistant")])
def test_a_fisheye_is_published_as_one(degrees: int, model: str) -> None:
    """What OpenCV makes of the published coefficients is what an equidistant lens shows, out to the corners."""
    focal, pixels = 320.0 / np.radians(degrees / 2), pixel_grid(480, 640).reshape(-1, 2)
    offsets = pixels - (319.5, 239.5)
    angle = np.linalg.norm(offsets, axis=1) / focal
    terms = np.stack([(angle * focal / 320.0) ** 2, (angle * focal / 320.0) ** 4], axis=1)
    radial, second = np.linalg.lstsq(terms, 1.0 - angle / np.tan(angle), rcond=None)[0]
    found, d = forward_model(Lens(320.0, float(radial), (0.0, 0.0), float(second)), focal, 640, 480)
    assert found == model
    slopes = offsets * (np.tan(angle) / (angle * focal))[:, None]
    seen = raw_pixels(Calibration(640, 480, focal, focal, 319.5, 239.5, found, d), slopes)
    assert np.nanmax(np.abs(seen - pixels)) < 0.5 and np.isfinite(seen).mean() > 0.99


def test_a_lens_that_turns_back_inside_the_image_still_gives_numbers() -> None:
    lens = Lens(320.0, -0.5)
    model, k = forward_model(lens, 300.0, 640, 480)
    assert np.isfinite(k).all()
    slope = lens.ideal(np.array([[150.0, 0.0]])) / 300
    assert raw_pixels(Calibration(640, 480, 300.0, 300.0, 0.0, 0.0, model, k), slope)[0, 0] == pytest.approx(
        150, rel=0.03
    )
