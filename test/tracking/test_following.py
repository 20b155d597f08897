"""Corners from one image to another whose view is quite different; the image that they are followed in."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dust3r_ros.tracking.following import realigned, tracked, tracked_size


@pytest.fixture(scope="module")
def keyframe() -> np.ndarray:
    rng = np.random.default_rng(3)
    noise = cv2.resize(rng.uniform(0, 255, (120, 160)).astype(np.float32), (640, 480), interpolation=cv2.INTER_CUBIC)
    return cv2.GaussianBlur(noise, (0, 0), 1.0).clip(0, 255).astype(np.uint8)


def corners(count: int) -> np.ndarray:
    return np.random.default_rng(4).uniform([120.0, 120.0], [520.0, 360.0], (count, 2))


def test_corners_that_drifted_are_where_the_keyframe_says(keyframe: np.ndarray) -> None:
    """The image is turned by 12 degrees and a fifth larger; two corners are off by much, as on something that moves."""
    turned = cv2.getRotationMatrix2D((320.0, 240.0), 12.0, 1.2)
    image = cv2.warpAffine(keyframe, turned, (640, 480), flags=cv2.INTER_CUBIC)
    anchors = corners(150)
    truth = cv2.transform(anchors[:, None], turned)[:, 0]
    drifted = truth + np.random.default_rng(5).normal(0.0, 0.4, truth.shape)
    drifted[:2] += 30.0
    found = realigned(keyframe, image, anchors, drifted)
    off = np.linalg.norm(found - truth, axis=1)
    assert np.median(off[2:]) < 0.05 and np.percentile(off[2:], 90) < 0.15
    np.testing.assert_array_equal(found[:2], drifted[:2])


def test_corners_of_another_surface_are_found_as_exactly(keyframe: np.ndarray) -> None:
    """Their surroundings are stretched unlike those of most, which tell the view."""
    most, other = (cv2.getRotationMatrix2D((320.0, 240.0), *shape) for shape in ((0.0, 1.05), (9.0, 0.87)))
    anchors = corners(190)
    fitting = (cv2.transform(anchors[:, None], shape)[:, 0] for shape in (most, other))
    truth = np.where(np.arange(190)[:, None] < 150, *fitting)
    drifted = truth + np.random.default_rng(5).normal(0.0, 0.4, truth.shape)
    image = cv2.warpAffine(keyframe, other, (640, 480), flags=cv2.INTER_CUBIC)
    found = realigned(keyframe, image, anchors, drifted)
    assert np.median(np.linalg.norm(found - truth, axis=1)[150:]) < 0.05


def test_without_enough_to_tell_the_view_corners_stay(keyframe: np.ndarray) -> None:
    anchors, flat = corners(12), np.zeros_like(keyframe)
    np.testing.assert_array_equal(realigned(keyframe, keyframe, anchors, anchors + 0.3), anchors + 0.3)
    many = corners(60)
    np.testing.assert_array_equal(realigned(keyframe, flat, many, np.full_like(many, 100.0)), np.full_like(many, 100.0))


@pytest.mark.parametrize(
    "width, height, scale, size",
    [
        (320, 240, 2.0, (640, 480)),
        (424, 240, 1.0, (424, 240)),
        (1280, 722, 0.5, (640, 361)),
        (200, 300, 2.0, (400, 600)),
    ],
)
def test_a_large_image_shrinks_and_a_small_one_is_doubled(
    width: int, height: int, scale: float, size: tuple[int, int]
) -> None:
    assert tracked_size(width, height, 640) == (pytest.approx(scale), size)
    ramp = np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))
    shown = tracked(ramp, size)
    assert shown.shape == size[::-1] and shown.dtype == np.uint8
    # A pixel center u of the native image lies at (u + 0.5) scale - 0.5.
    at = ((np.arange(size[0]) + 0.5) / scale - 0.5)[8:-8]
    np.testing.assert_allclose(shown[5, 8:-8], np.interp(at, np.arange(width), ramp[0]), atol=1.5)


def test_the_tracked_image_of_the_right_size_is_the_image() -> None:
    gray = np.zeros((480, 640), np.uint8)
    assert tracked(gray, tracked_size(640, 480, 640)[1]) is gray
