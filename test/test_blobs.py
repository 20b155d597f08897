"""Extrema of differences of Gaussians, on images whose blobs are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dust3r_ros.blobs import Blobs, strongest_blobs
from dust3r_ros.scale_space import ScaleSpace
from dust3r_ros.types import Array, Image


def blobs_of(image: Image, count: int = 2000) -> Blobs:
    return strongest_blobs(ScaleSpace.of(image), count)


def dotted(size: float, sign: int = 1) -> tuple[Image, Array]:
    """An image (480, 480) of Gaussian dots, and their middles (N, 2)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:480, :480]
    centers = np.stack(np.meshgrid(*2 * [np.arange(60, 480, 60.0)]), -1).reshape(-1, 2)
    centers += rng.uniform(-5, 5, centers.shape)
    dots = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * size**2)) for u, v in centers)
    return np.round(128 + sign * 100 * dots).astype(np.uint8), centers


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("size", [1.3, 2.5, 5.0, 9.0])
def test_dots_are_found_where_they_are_and_as_large_as_they_are(size: float, sign: int) -> None:
    image, centers = dotted(size, sign)
    found = blobs_of(image, len(centers))
    away = np.linalg.norm(found.pixels[None] - centers[:, None], axis=2)
    nearest = away.argmin(axis=1)
    assert away.min(axis=1).max() < 0.05 * size
    sizes = (found.sigma * 2.0**found.octave)[nearest]
    # Of differences between blurs s and 1.26 s, that with s = 0.89 of the dot's size answers most.
    np.testing.assert_allclose(sizes, 0.89 * size, rtol=0.12)


def test_the_strongest_come_first_and_no_more_than_wanted() -> None:
    noise = np.random.default_rng(1).standard_normal((120, 160))
    image = np.clip(128 + 120 * cv2.GaussianBlur(noise, (0, 0), 1.2), 0, 255).astype(np.uint8)
    many, few = blobs_of(image), blobs_of(image, 50)
    assert 30 < len(few) <= 50 < len(many)
    assert np.all(np.diff(many.strength) <= 0)
    assert set(map(tuple, few.pixels.round(6))) <= set(map(tuple, many.pixels.round(6)))
    assert len(np.unique(many.pixels.round(2), axis=0)) == len(many)


def test_edges_lines_and_plain_walls_have_none() -> None:
    y, x = np.mgrid[:200, :200]
    assert len(blobs_of(np.where(x + 0.3 * y < 120, 40, 200).astype(np.uint8))) == 0
    assert len(blobs_of((120 + 80 * np.exp(-((x - 0.4 * y - 50) ** 2) / 8)).astype(np.uint8))) == 0
    assert len(blobs_of(np.full((200, 200), 77, np.uint8))) == 0
    assert blobs_of(np.zeros((10, 10), np.uint8)).pixels.shape == (0, 2)


def test_a_corner_of_the_image_is_no_place_to_fall_out_of() -> None:
    """Dots at the very border: nothing is found outside the image."""
    y, x = np.mgrid[:90, :130]
    image = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8) for u, v in ((0, 0), (129, 89), (3, 45), (64, 86), (126, 2)))
    found = blobs_of(np.round(40 + 200 * image).astype(np.uint8))
    assert len(found) and np.all(found.pixels > -0.5) and np.all(found.pixels < [129.5, 89.5])
