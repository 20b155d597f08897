"""What a CameraInfo says, with its region of interest and binning, or why it says nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dust3r_ros.camera_info import calibration_from
from dust3r_ros.types import Calibration

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
        ((640, 480), K, (math.nan,), "finite"),
        ((0, 480), K, D, "0x480"),
        ((640, 480), K[:6], D, "6 numbers"),
    ],
)
def test_numbers_that_cannot_be_are_remarked_on(size, k, d, reason) -> None:
    calibration, remark = calibration_from(*size, "plumb_bob", d, k)
    assert calibration is None and reason in remark
