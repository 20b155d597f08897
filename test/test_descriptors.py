"""What SIFT says of blobs, and that it is what others mean by SIFT."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dust3r_ros import descriptors
from dust3r_ros.blobs import Blobs, strongest_blobs
from dust3r_ros.descriptors import SLOWEST, describe
from dust3r_ros.scale_space import ScaleSpace
from dust3r_ros.types import Array, Array32, Image


def texture(size: int = 257) -> Image:
    rng = np.random.default_rng(0)
    layers = [cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), s) * s for s in (1.5, 3, 8)]
    total = np.sum(layers, axis=0)
    return np.clip(128 + 55 * total / total.std(), 0, 255).astype(np.uint8)


def described(image: Image, count: int = 400) -> tuple[Blobs, Array32]:
    space = ScaleSpace.of(image)
    blobs = strongest_blobs(space, count)
    return blobs, describe(space, blobs)


def alike(places: Array, found: Array32, blobs: Blobs, descriptors: Array32) -> Array:
    """(K,) how alike the best descriptors of those blobs are that lie where one of ``places`` does."""
    apart = np.linalg.norm(blobs.pixels[:, None] - places[None], axis=2) < 0.3
    similarity = np.where(apart, descriptors @ found.T, -1.0).max(axis=1)
    return similarity[apart.any(axis=1)]


def test_they_are_what_opencv_says() -> None:
    """A map that was saved with its descriptors goes on with these."""
    image = texture()
    keypoints, found = cv2.SIFT_create(contrastThreshold=0.01).detectAndCompute(image, None)
    root = np.sqrt(found / found.sum(axis=1, keepdims=True))
    places = np.array([keypoint.pt for keypoint in keypoints]) - 0.25  # OpenCV doubles the image at its edge
    similarity = alike(places, root, *described(image))
    assert len(similarity) > 200 and np.median(similarity) > 0.97


def test_without_a_compiler_they_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs at the border included; an orientation between two directions may go either way."""
    assert descriptors.LIBRARY is not None
    blobs, compiled = described(texture(), 1000)
    monkeypatch.setattr(descriptors, "LIBRARY", None)
    apart = np.linalg.norm(compiled - described(texture(), 1000)[1], axis=1)
    assert len(blobs) > 500 and np.percentile(apart, 98) < 0.01
    space = ScaleSpace.of(np.zeros((64, 64), np.uint8))
    assert describe(space, blobs.select(slice(0))).shape == (0, 128)


def test_turned_images_have_the_same() -> None:
    image = texture()  # of 2^n + 1 pixels: every second one is the same from either side
    blobs, found = described(image)
    turned, theirs = described(np.ascontiguousarray(np.rot90(image)))
    places = np.stack([256 - turned.pixels[:, 1], turned.pixels[:, 0]], axis=1)
    similarity = alike(places, theirs, blobs, found)
    assert len(similarity) > 0.9 * len(blobs) and np.median(similarity) > 0.99


def test_light_and_contrast_do_not_count() -> None:
    image = texture()
    blobs, found = described(image)
    darker, theirs = described((0.5 * image + 20).astype(np.uint8))
    similarity = alike(darker.pixels, theirs, blobs, found)
    assert len(similarity) > 0.8 * len(blobs) and np.median(similarity) > 0.98


def test_they_have_unit_length_and_none_are_none() -> None:
    _, descriptors = described(texture(), 300)
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1.0, atol=1e-5)
    assert described(np.zeros((50, 60), np.uint8))[1].shape == (0, 128)
    assert described(np.zeros((5, 6), np.uint8))[1].shape == (0, 128)


def test_the_slowest_waves_span_all_descriptors() -> None:
    np.testing.assert_allclose(SLOWEST.T @ SLOWEST, np.eye(128), atol=1e-5)
    assert np.ptp(SLOWEST[:, 0]) < 1e-6, "the first is the same everywhere"
    _, descriptors = described(texture())
    assert np.mean((descriptors @ SLOWEST[:, :64]) ** 2) > 0.9 * np.mean(descriptors**2) / 2
