"""Masks and depth as drivers send them."""

import cv2
import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.io.companions import decode_depth, decode_depth_file, decode_mask, decode_mask_file

MILLIMETRES = np.array([[0, 1000, 65535], [1, 2500, 400]], np.uint16)


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_a_mask_with_padded_rows():
    mask = np.array([[0, 1, 255], [7, 0, 0]], np.uint8)
    padded = np.hstack([mask, np.full((2, 5), 9, np.uint8)])
    decoded = decode_mask("mono8", 2, 3, 8, 0, padded.tobytes())
    np.testing.assert_array_equal(decoded, mask)
    decoded[0, 0] = 3  # it is writable memory of its own
    np.testing.assert_array_equal(decode_mask_file(png(mask)), mask)


@pytest.mark.parametrize("big", [0, 1])
def test_millimetres_become_metres(big):
    data = MILLIMETRES.astype(">u2" if big else "<u2").tobytes()
    np.testing.assert_allclose(decode_depth("16UC1", 2, 3, 6, big, data), MILLIMETRES * 1e-3, rtol=1e-6)


def test_floats_are_metres_and_nothing_is_zero():
    metres = np.array([[1.5, np.nan], [np.inf, -2.0]], np.float32)
    decoded = decode_depth("32FC1", 2, 2, 8, 0, metres.tobytes())
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, [[1.5, 0.0], [0.0, 0.0]])


def test_compressed_depth_with_and_without_its_header():
    for kind, data in (("png", png(MILLIMETRES)), ("16UC1; compressedDepth png", bytes(12) + png(MILLIMETRES))):
        np.testing.assert_allclose(decode_depth_file(kind, data), MILLIMETRES * 1e-3, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: decode_mask("rgb8", 1, 1, 3, 0, bytes(3)), "'rgb8' is not supported; supported are mono8"),
        (lambda: decode_mask("mono8", 0, 4, 4, 0, b""), "is empty"),
        (lambda: decode_mask("mono8", 2, 4, 4, 0, bytes(7)), "holds 7 bytes; it needs at least 4 and 8"),
        (lambda: decode_depth("32FC1", 2, 4, 8, 0, bytes(64)), "has a step of 8"),
        (lambda: decode_depth("64FC1", 2, 4, 32, 0, bytes(64)), "'64FC1' is not supported"),
        (lambda: decode_depth_file("png", b"nonsense"), "8 bytes are no PNG"),
        (lambda: decode_depth_file("png", b""), "0 bytes"),
        (lambda: decode_depth_file("32FC1; compressedDepth png", bytes(99)), "publish 16UC1 or raw"),
        (lambda: decode_depth_file("png", png(MILLIMETRES.astype(np.uint8))), "uint8"),
        (lambda: decode_mask_file(png(MILLIMETRES)), "uint16"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(call, text):
    with pytest.raises(InputError, match=text.replace("(", r"\(")):
        call()
