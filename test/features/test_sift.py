"""What SIFT says of blobs, and that it is what others mean by SIFT."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dust3r_ros.features import sift
from dust3r_ros.features.sift import FIRST_BLUR, LAYERS, SLOWEST, Blobs, ScaleSpace, describe, strongest_blobs
from dust3r_ros.types import Array, Array32, Image


def test_a_blob_is_as_wide_and_low_as_each_level_says() -> None:
    """A Gaussian of 6 pixels blurred by s has a width of sqrt(6^2 + s^2); images come with a blur of half a pixel."""
    size, middle = 6.0, 64
    y, x = np.mgrid[:129, :129] - middle
    image = np.round(250 * np.exp(-(x**2 + y**2) / (2 * size**2))).astype(np.uint8)
    space = ScaleSpace.of(image)
    for octave, levels in enumerate(space.octaves[:2]):
        for level, values in enumerate(levels):
            blur = FIRST_BLUR * 2.0 ** (octave + level / LAYERS)
            expected = 250 * size**2 / (size**2 + blur**2 - 0.25)
            assert values[middle >> octave, middle >> octave] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("shape, octaves", [((480, 640), 5), ((24, 24), 1), ((23, 400), 0), ((1, 1), 0)])
def test_octaves_get_smaller_until_nothing_can_be_seen(shape: tuple[int, int], octaves: int) -> None:
    space = ScaleSpace.of(np.full(shape, 9, np.uint8))
    assert len(space.octaves) == octaves
    for k, levels in enumerate(space.octaves):
        assert levels.shape == (LAYERS + 3, -(-shape[0] // 2**k), -(-shape[1] // 2**k))
        np.testing.assert_allclose(levels, 9.0, atol=1e-4)


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
    assert sift.LIBRARY is not None
    blobs, compiled = described(texture(), 1000)
    monkeypatch.setattr(sift, "LIBRARY", None)
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


@pytest.mark.parametrize("shape", [(120, 161), (97, 64), (20, 300)])
def test_a_compiler_changes_nothing_in_blobs(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert sift.LIBRARY is not None
    noise = np.random.default_rng(shape[0]).normal(0, 60, shape)
    image = np.clip(128 + cv2.GaussianBlur(noise, (0, 0), 1.5) * 2 + cv2.GaussianBlur(noise, (0, 0), 6) * 9, 0, 255)
    space = ScaleSpace.of(image.astype(np.uint8))
    compiled = strongest_blobs(space, 200)
    monkeypatch.setattr(sift, "LIBRARY", None)
    plain = strongest_blobs(space, 200)
    np.testing.assert_array_equal(compiled.octave, plain.octave)
    np.testing.assert_array_equal(compiled.level, plain.level)
    for part in ("at", "sigma", "strength"):
        np.testing.assert_allclose(getattr(compiled, part), getattr(plain, part), atol=1e-9)
    assert len(plain) > 20 or not space.octaves
