"""Patches found again: where they are, how sure that is, and what is not found."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dust3r_ros.features import patches
from dust3r_ros.features.patches import HALF, Found, find_patches, softened
from dust3r_ros.types import Array, Array32, Image

MATRIX = np.array([[1.05, 0.03, 3.3], [-0.02, 0.97, -2.7]])


def textured(seed: int = 0, height: int = 160, width: int = 220) -> Image:
    """Noise of several sizes."""
    rng = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), blur) for blur in (1.0, 2.0, 4.0)]
    mixed = sum(layer / layer.std() for layer in layers)
    return np.clip(120 + 30 * mixed, 0, 255).astype(np.uint8)


def find_in_one(reference: Array32, at: Array, image: Array32, start: Array) -> Found:
    return find_patches(reference, at, [image], np.zeros(len(at), int), start)


def places(image: Image, count: int = 150, seed: int = 1) -> Array:
    margin = HALF + 8
    return np.random.default_rng(seed).uniform(margin, np.array(image.shape[::-1]) - margin, (count, 2))


def warps(at: Array, off: float = 0.0, seed: int = 2) -> Array:
    """Those of ``MATRIX``'s positions, off by up to so many pixels, with the shape of the image as it is."""
    start = np.tile(np.concatenate([np.eye(2), np.zeros((2, 1))], axis=1), (len(at), 1, 1))
    start[:, :, 2] = at @ MATRIX[:, :2].T + MATRIX[:, 2]
    start[:, :, 2] += np.random.default_rng(seed).uniform(-off, off, (len(at), 2))
    return start


def found_in_warped(change: float = 0.0, off: float = 1.0) -> tuple[Found, Array]:
    """Patches in a warped image, with noise of ``change`` grey levels, and their true pixels."""
    image = textured()
    at = places(image)
    other = cv2.warpAffine(image, MATRIX, image.shape[::-1], flags=cv2.INTER_CUBIC).astype(np.float64)
    other += change * np.random.default_rng(3).standard_normal(other.shape)
    found = find_in_one(
        softened(image), at, softened(np.clip(0.7 * other + 30, 0, 255).astype(np.uint8)), warps(at, off)
    )
    return found, at @ MATRIX[:, :2].T + MATRIX[:, 2]


def test_patches_are_found_to_a_few_hundredths_of_a_pixel_whatever_the_exposure() -> None:
    found, true = found_in_warped()
    good = np.isfinite(found.pixels[:, 0])
    off = np.linalg.norm(found.pixels - true, axis=1)[good]
    assert good.mean() > 0.9 and np.median(off) < 0.03 and np.quantile(off, 0.9) < 0.08
    assert np.median(found.similarity[good]) > 0.99
    np.testing.assert_array_equal(found.pixels, found.pixels.astype(np.float32))


def test_deviations_say_how_far_off() -> None:
    """Noise makes both grow alike."""
    medians = []
    for noise in (5.0, 20.0):
        found, true = found_in_warped(noise)
        good = np.isfinite(found.pixels[:, 0]) & (found.similarity > 0.8)
        off = np.linalg.norm(found.pixels - true, axis=1)[good]
        assert good.sum() > 60
        assert 0.6 < np.median(off / found.std[good]) < 1.5
        medians.append(np.median(found.std[good]))
    assert medians[1] > 2 * medians[0]


def test_along_an_edge_nothing_is_sure() -> None:
    """A straight edge looks the same everywhere along itself."""
    rows, columns = np.mgrid[:100, :140]
    edge = np.clip(120 + 40 * np.tanh((columns - 70 + 0.2 * (rows - 50)) / 2.0), 0, 255)
    noisy = [
        (edge + np.random.default_rng(seed).normal(0, 2, edge.shape)).clip(0, 255).astype(np.uint8) for seed in (0, 1)
    ]
    at = np.array([[70.0, 50.0]])
    start = np.concatenate([np.eye(2), at.T], axis=1)[None]
    on_edge = find_in_one(softened(noisy[0]), at, softened(noisy[1]), start)
    image = textured()
    inside = find_in_one(softened(image), at, softened((image * 0.98).astype(np.uint8)), start)
    assert on_edge.std[0] > 10 * inside.std[0] and on_edge.std[0] > 0.1


def test_what_is_not_there_is_not_found() -> None:
    image, other = textured(), textured(seed=9)
    at = places(image)
    found = find_in_one(softened(image), at, softened(other), warps(at))
    assert (np.isfinite(found.pixels[:, 0]) & (found.similarity > 0.9)).mean() < 0.02


def test_images_without_texture_and_without_patches() -> None:
    flat = softened(np.full((60, 80), 90, np.uint8))
    at = np.array([[40.0, 30.0], [2.0, 3.0]])
    found = find_in_one(flat, at, flat, warps(at))
    assert not (np.isfinite(found.std) & (found.std < 0.3) & np.isfinite(found.pixels[:, 0])).any()
    nothing = find_in_one(flat, np.zeros((0, 2)), flat, np.zeros((0, 2, 3)))
    assert nothing.pixels.shape == (0, 2) and nothing.std.shape == (0,)


@pytest.mark.parametrize("compiled", [True, False])
def test_places_that_are_no_numbers_are_not_found(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of a point behind the camera."""
    if not compiled:
        monkeypatch.setattr(patches, "LIBRARY", None)
    image = textured()
    at = places(image)
    start = warps(at)
    start[::2, :, 2], start[1::4, 0, 0], start[3::4, 1, 2] = np.nan, np.nan, 1e30
    found = find_in_one(softened(image), at, softened(image), start)
    known = np.isfinite(found.pixels).all(axis=1)
    assert not known[::2].any() and not known[1::4].any()
    assert not (known & (np.abs(found.pixels - at).max(axis=1) < 1.0))[3::4].any()


def test_the_compiled_loops_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, _ = found_in_warped(3.0)
    monkeypatch.setattr(patches, "LIBRARY", None)
    plain, _ = found_in_warped(3.0)
    both = np.isfinite(fast.pixels[:, 0]) & np.isfinite(plain.pixels[:, 0])
    assert both.sum() > 100 and np.mean(np.isfinite(fast.pixels[:, 0]) == np.isfinite(plain.pixels[:, 0])) > 0.98
    np.testing.assert_allclose(fast.pixels[both], plain.pixels[both], atol=2e-3)
    np.testing.assert_allclose(fast.similarity[both], plain.similarity[both], atol=1e-4)
    np.testing.assert_allclose(fast.std[both], plain.std[both], rtol=0.02, atol=1e-4)


def test_what_is_given_stays_as_it_is() -> None:
    image = textured()
    at = places(image)
    start = warps(at, 0.5)
    before = start.copy(), at.copy()
    find_in_one(softened(image), at, softened(image), start)
    np.testing.assert_array_equal(start, before[0])
    np.testing.assert_array_equal(at, before[1])


def test_in_several_images_as_in_each() -> None:
    """In any order; a patch that is prepared once is found as often as it is asked for."""
    image = textured()
    others = [np.roll(image, shift, axis=1) for shift in (1, 2, 3)]
    at = np.repeat(places(image, 40), 3, axis=0)
    which = np.tile(np.arange(3), 40)
    start = np.tile(np.concatenate([np.eye(2), np.zeros((2, 1))], axis=1), (120, 1, 1))
    start[:, :, 2] = at + 0.4
    start[:, 0, 2] += 1 + which
    soft = [softened(other) for other in others]
    together = find_patches(softened(image), at, soft, which, start)
    np.testing.assert_allclose(together.pixels[:, 0], at[:, 0] + 1 + which, atol=0.02)
    order = np.random.default_rng(5).permutation(120)
    mixed = find_patches(softened(image), at[order], soft, which[order], start[order])
    np.testing.assert_array_equal(mixed.pixels, together.pixels[order])
    for index in range(3):
        mine = which == index
        alone = find_in_one(softened(image), at[mine], soft[index], start[mine])
        np.testing.assert_array_equal(alone.pixels, together.pixels[mine])
        np.testing.assert_array_equal(alone.std, together.std[mine])
