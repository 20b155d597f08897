"""Calibrations that came with cameras: held, refined, compared; what is published in their place."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import SMALL, walk

from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.sensors.camera_info import Calibrations, calibration_from, of_images
from dust3r_ros.types import Calibration, Camera

K = (500.0, 0.0, 319.5, 0.0, 501.0, 239.5, 0.0, 0.0, 1.0)
D = (0.1, -0.2, 0.0, 0.0, 0.05)


def test_the_numbers_are_taken_as_they_are() -> None:
    calibration, remark = calibration_from(640, 480, "plumb_bob", np.array(D), np.array(K))
    assert calibration == Calibration(640, 480, 500.0, 501.0, 319.5, 239.5, "plumb_bob", D) and remark == ""
    assert calibration_from(640, 480, "", (), K, (0, 0))[0] == Calibration(640, 480, 500.0, 501.0, 319.5, 239.5, "")


def test_zeros_are_no_calibration_and_no_fault() -> None:
    assert calibration_from(640, 480, "", (), [0.0] * 9) == (None, "")


def test_a_single_focal_is_for_both_axes() -> None:
    calibration, _ = calibration_from(640, 480, "", (), (500.0, 0, 1, 0, 0, 2, 0, 0, 1))
    assert calibration is not None and (calibration.fx, calibration.fy) == (500.0, 500.0)


@pytest.mark.parametrize("binning", [(1, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("roi", [(0, 0, 0, 0), (40, 20, 320, 240)])
def test_a_ray_falls_on_its_pixel_of_the_image_that_is_sent(
    binning: tuple[int, int], roi: tuple[int, int, int, int]
) -> None:
    """The middle of a binned pixel is the middle of those it is made of."""
    calibration, _ = calibration_from(640, 480, "plumb_bob", D, K, binning, roi)
    assert calibration is not None
    assert (calibration.width, calibration.height) == ((roi[2] or 640) // binning[0], (roi[3] or 480) // binning[1])
    for x, y in ((0.0, 0.0), (0.3, -0.1)):
        whole = 500.0 * x + 319.5, 501.0 * y + 239.5
        sent = tuple((p - start + 0.5) / by - 0.5 for p, start, by in zip(whole, roi[:2], binning, strict=True))
        c = calibration
        assert (c.fx * x + c.cx, c.fy * y + c.cy) == pytest.approx(sent)


@pytest.mark.parametrize(
    ("size", "k", "d", "reason"),
    [
        ((640, 480), (-500.0, *K[1:]), D, "fx = -500"),
        ((640, 480), (math.nan, *K[1:]), D, "fx = nan"),
        ((640, 480), (*K[:2], math.inf, *K[3:]), D, "cx = inf"),
        ((640, 480), K, (math.nan,), "D = [nan]; all must be finite"),
        ((0, 480), K, D, "0x480"),
        ((640, 480), K[:6], D, "6 numbers"),
    ],
)
def test_numbers_that_cannot_be_are_remarked_on(size, k, d, reason) -> None:
    calibration, remark = calibration_from(*size, "plumb_bob", d, k)
    assert calibration is None and reason in remark


BENT = (-0.25, 0.08, 0.001, -0.002, 0.0)


def calibration(**changes):
    values = {"width": 240, "height": 176, "fx": 210.0, "fy": 212.0, "cx": 118.0, "cy": 90.0, "coefficients": BENT}
    return Calibration(**{**values, **changes})


@pytest.fixture(scope="module")
def sequence():
    return walk("orbit", frames=30)


def mapped(sequence, focal=None, std=0.0):
    mapper = Mapper(replace(SMALL, dense=False))
    if focal is not None:
        mapper.set_camera("camera", sequence.width, sequence.height, focal, std)
    for stamp, image in zip(sequence.stamps_ns, sequence.images, strict=True):
        mapper.process(int(stamp), "camera", image)
    mapper.finish()
    return mapper.cameras["camera"]


def test_a_right_focal_that_is_held_is_what_the_images_say(sequence):
    camera = mapped(sequence, sequence.focal)
    assert camera.fixed and camera.focal == pytest.approx(sequence.focal)
    assert camera.measured == pytest.approx(sequence.focal, rel=0.03)
    assert 0 < camera.measured_std < 0.1 * sequence.focal
    assert camera.disagreement < 3


def test_a_wrong_focal_that_is_held_stays_and_disagrees(sequence):
    camera = mapped(sequence, 1.25 * sequence.focal)
    assert camera.focal == pytest.approx(1.25 * sequence.focal)
    assert camera.measured < 1.15 * sequence.focal
    assert camera.disagreement > 3


def test_a_prior_is_refined_towards_the_truth(sequence):
    wrong = 1.04 * sequence.focal
    camera = mapped(sequence, wrong, std=0.05)
    assert not camera.fixed
    assert abs(camera.focal - sequence.focal) < 0.5 * abs(wrong - sequence.focal)
    assert (camera.given, camera.given_std) == pytest.approx((wrong, 0.05 * wrong))
    assert camera.measured == pytest.approx(sequence.focal, rel=0.03)


def test_a_focal_nobody_gave_has_nothing_to_disagree_with(sequence):
    camera = mapped(sequence)
    assert (camera.given, camera.measured, camera.disagreement) == (0.0, 0.0, 0.0)
    assert math.isinf(camera.measured_std)


@pytest.mark.parametrize("std", [-0.1, 1.0, float("nan")])
def test_a_nonsensical_standard_deviation_is_refused(std):
    with pytest.raises(ConfigError, match="relative std"):
        Mapper().set_camera("camera", 240, 176, 200.0, std)


def test_what_is_held_is_published_as_it_came():
    book = Calibrations("fixed", 0.02)
    assert book.know("camera", calibration())
    assert not book.know("camera", calibration())
    focal, std = book.admit("camera", 240, 176)
    assert std == 0.0
    camera = Camera("camera", 240, 176, focal, 0.0, 5, fixed=True)
    assert book.raw(camera) == calibration()


def test_what_is_refined_keeps_its_distortion_and_scales_its_focals():
    book = Calibrations("prior", 0.02)
    book.know("camera", calibration())
    focal, std = book.admit("camera", 240, 176)
    raw = book.raw(Camera("camera", 240, 176, 1.01 * focal))
    assert std == 0.02
    assert (raw.fx, raw.fy) == pytest.approx((1.01 * 210.0, 1.01 * 212.0))
    assert (raw.cx, raw.cy, raw.coefficients) == (118.0, 90.0, BENT)


def test_images_come_out_as_a_pinhole_sees_them():
    """A grid of lines bent by the lens is straight again, and where the camera sees nothing is masked."""
    book = Calibrations("fixed", 0.02)
    known = calibration()
    book.know("camera", known)
    focal, _ = book.admit("camera", 240, 176)
    K = np.array([[known.fx, 0, known.cx], [0, known.fy, known.cy], [0, 0, 1.0]])
    point = np.array([[0.3, -0.2, 1.0]])
    seen = cv2.projectPoints(point, np.zeros(3), np.zeros(3), K, np.array(BENT))[0].ravel()
    raw = np.zeros((176, 240, 3), np.uint8)
    cv2.circle(raw, tuple(round(float(x)) for x in seen), 3, (255, 255, 255), -1)
    image, _ = book.pinhole("camera", raw, None)
    rows, columns = np.nonzero(image[..., 0] > 127)
    expected = focal * point[0, :2] + [(240 - 1) / 2, (176 - 1) / 2]
    np.testing.assert_allclose([columns.mean(), rows.mean()], expected, atol=1.0)


def test_ignored_calibrations_leave_images_alone_and_are_compared():
    book = Calibrations("ignore", 0.02)
    book.know("camera", calibration())
    assert book.admit("camera", 240, 176) is None
    image = np.zeros((176, 240, 3), np.uint8)
    assert book.pinhole("camera", image, None)[0] is image
    estimate = Camera("camera", 240, 176, 250.0, focal_std=2.0)
    compared = book.compared(estimate)
    assert compared.given == pytest.approx(math.sqrt(210.0 * 212.0))
    assert compared.disagreement > 3
    assert book.raw(compared).fx == 250.0


def test_another_shape_or_size_is_refused():
    book = Calibrations("fixed", 0.02)
    book.know("camera", calibration())
    with pytest.raises(InputError, match="shapes must agree"):
        book.admit("camera", 240, 240)
    book.admit("camera", 240, 176)
    with pytest.raises(InputError, match="size must not change"):
        book.pinhole("camera", np.zeros((88, 120, 3), np.uint8), None)
    with pytest.raises(ConfigError):
        book.know("camera", calibration(model="mystery"))


def test_the_state_comes_back_exactly_from_json():
    book = Calibrations("fixed", 0.02)
    book.know("camera", calibration())
    focal, _ = book.admit("camera", 240, 176)
    again = Calibrations("ignore", 0.02)
    again.resume(json.loads(json.dumps(book.state())))
    camera = Camera("camera", 240, 176, focal, fixed=True)
    assert again.raw(camera) == book.raw(camera) == calibration()
    image = np.random.default_rng(0).integers(0, 255, (176, 240, 3), np.uint8)
    np.testing.assert_array_equal(again.pinhole("camera", image, None)[0], book.pinhole("camera", image, None)[0])


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (20_000, 20_000), (2**32 - 1, 1)])
def test_a_size_that_no_camera_has_is_refused_before_it_takes_memory(size: tuple[int, int]) -> None:
    """The maps that rectify images of 20,000 x 20,000 pixels take 10 GB."""
    long = float(max(size))
    calibration, _ = calibration_from(
        *size, "plumb_bob", D, (long, 0.0, size[0] / 2, 0.0, long, size[1] / 2, 0.0, 0.0, 1.0)
    )
    assert calibration is not None
    with pytest.raises(ConfigError, match="pixels are read"):
        Calibrations("prior", 0.05).know("camera", calibration)


_numbers = st.floats() | st.sampled_from([0.0, 1.0, 500.0, 320.0])
_sizes = st.integers(0, 700) | st.sampled_from([640, 480, 2**31, 2**32 - 1])


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(_sizes, _sizes),
    st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", "fisheye", "", "x\ny"]),
    st.lists(_numbers, max_size=14),
    st.lists(_numbers, min_size=9, max_size=9) | st.just(list(K)) | st.lists(_numbers, max_size=10),
    st.tuples(_sizes, _sizes),
    st.tuples(_sizes, _sizes, _sizes, _sizes) | st.just((0, 0, 0, 0)),
)
def test_any_message_is_a_calibration_or_refused(size, model, d, k, binning, roi) -> None:
    calibration, remark = calibration_from(*size, model, d, k, binning, roi)
    if calibration is None:
        assert remark or k[0] == 0
        return
    known = Calibrations("prior", 0.05)
    try:
        known.know("camera", calibration)
        focal, _ = known.admit("camera", calibration.width, calibration.height) or (0.0, 0.0)
    except (ConfigError, InputError) as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert np.isfinite(focal) and 0.02 < focal / max(calibration.width, calibration.height) < 100


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/camera/image_raw", False),
        ("/camera/image", False),
        ("/camera/image_rect", True),
        ("/zed/left/image_rect_color/compressed", True),
        ("/zed/left/color/rect/image", True),
        ("/rect/image_raw", False),
    ],
)
def test_rectified_images_have_the_camera_in_p(topic: str, rectified: bool) -> None:
    P = [450.0, 0, 310, 0, 0, 455.0, 230, 0, 0, 0, 1, 0]
    k, d = of_images(topic, K, D, P)
    assert (list(k), list(d)) == (([450, 0, 310, 0, 455, 230, 0, 0, 1], []) if rectified else (list(K), list(D)))
    assert of_images(topic, K, D, [0.0] * 12) == (K, D), "a driver that leaves P out"
