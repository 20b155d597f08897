"""SIFT features and what they match."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dust3r_ros.features import features
from dust3r_ros.features.features import Features, agreeing, epipolar_inliers, extract, match, shows_twice
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.types import Image


def texture(seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(rng.standard_normal((240, 320)), (0, 0), s) * s for s in (1.5, 3, 8)]
    total = np.sum(layers, axis=0)
    return np.clip(128 + 55 * total / total.std(), 0, 255).astype(np.uint8)


def views(count: int, seed: int = 0, noise: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """A cloud seen from two places: pixels (N, 2) and (N, 2)."""
    rng = np.random.default_rng(seed)
    cloud = rng.uniform(-1, 1, (count, 3))
    seen = []
    for at in ([4.0, 0, 0.4], [3.6, 1.4, 0.2]):
        pixels = project(transform(invert(look_at(np.array(at), np.zeros(3))), cloud), 300.0, (160.0, 120.0))
        seen.append(pixels + noise * rng.standard_normal(pixels.shape))
    return seen[0], seen[1]


@pytest.mark.parametrize("degrees, scale, light", [(0, 1.0, 0.6), (50, 1.0, 1.0), (10, 0.7, 1.0)])
def test_turned_shrunk_and_darkened_images_match(degrees: float, scale: float, light: float) -> None:
    image = texture()
    H = np.vstack([cv2.getRotationMatrix2D((160, 120), degrees, scale), [0, 0, 1]])
    other = np.round(light * cv2.warpPerspective(image, H, (320, 240), flags=cv2.INTER_AREA)).astype(np.uint8)
    a, b = extract(image), extract(other)
    pairs = match(a, b)
    expected = cv2.perspectiveTransform(a.pixels[pairs[:, 0]][None], H)[0]
    right = np.linalg.norm(b.pixels[pairs[:, 1]] - expected, axis=1) < 2
    assert right.sum() > 50 and right.mean() > 0.9
    for column in (0, 1):
        assert len(np.unique(pairs[:, column])) == len(pairs), "every feature matches once"


def test_features_have_one_place_each_and_unit_descriptors() -> None:
    found = extract(texture())
    assert found.descriptors.dtype == np.uint8 and len(found.pixels) == len(found.descriptors) > 100
    assert len(np.unique(np.round(found.pixels, 2), axis=0)) == len(found.pixels)
    np.testing.assert_allclose(np.linalg.norm(found.unit, axis=1), 1.0, atol=2e-2)
    assert len(extract(texture(), 40).pixels) <= 40


@pytest.mark.parametrize("size", [1.5, 2.5, 5.0])
def test_features_lie_where_the_blobs_are(size: float) -> None:
    """Corners followed from frame to frame have no shift either: both see the same landmarks."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:480, :480]
    centers = np.stack(np.meshgrid(*2 * [np.arange(60, 480, 60.0)]), -1).reshape(-1, 2)
    centers += rng.uniform(-5, 5, centers.shape)
    blobs = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * size**2)) for u, v in centers)
    found = extract(np.round(60 + 150 * blobs).astype(np.uint8)).pixels
    nearest = found[np.linalg.norm(found[None] - centers[:, None], axis=2).argmin(axis=1)]
    np.testing.assert_allclose(np.median(nearest - centers, axis=0), 0.0, atol=0.05)


def test_matching_the_other_way_round() -> None:
    a, b = extract(texture()), extract(np.roll(texture(), 9, axis=1))
    forth, back = match(a, b), match(b, a)
    assert len({tuple(p) for p in forth.tolist()} & {(j, i) for i, j in back.tolist()}) > 0.8 * len(forth)


def test_pictures_that_have_nothing_in_common() -> None:
    a, b = extract(texture()), extract(texture(5))
    pairs = match(a, b)
    assert len(pairs) < 0.05 * len(a.pixels)
    assert epipolar_inliers(a.pixels[pairs[:, 0]], b.pixels[pairs[:, 1]]).sum() < 12


@pytest.mark.parametrize("value", [0, 255])
def test_blank_images_have_no_features(value: int) -> None:
    blank = extract(np.full((60, 80), value, np.uint8))
    assert blank.pixels.shape == (0, 2) and blank.descriptors.shape == (0, 128)
    assert match(blank, extract(texture())).shape == (0, 2)
    assert match(extract(texture()), blank).shape == (0, 2)
    one = Features(np.zeros((1, 2)), np.ones((1, 128), np.float32))
    assert match(one, extract(texture())).shape == (0, 2)


def test_epipolar_geometry_parts_right_from_wrong() -> None:
    a, b = views(200)
    rng = np.random.default_rng(1)
    wrong = rng.random(200) < 0.3
    b[wrong] = rng.uniform([0, 0], [320, 240], (wrong.sum(), 2))
    good = epipolar_inliers(a, b)
    assert good[~wrong].mean() > 0.9 and good[wrong].mean() < 0.2
    np.testing.assert_array_equal(good, epipolar_inliers(a, b))


@pytest.mark.parametrize("count", [0, 5, 11])
def test_too_few_matches_have_no_inliers(count: int) -> None:
    a, b = views(count)
    assert not epipolar_inliers(a, b).any() and epipolar_inliers(a, b).shape == (count,)


def test_random_matches_have_no_inliers() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.uniform([0, 0], [320, 240], (2, 30, 2))
    assert epipolar_inliers(a, b).sum() < 15


def test_degenerate_matches() -> None:
    """All in one place, all on a line, standing still: an answer, no crash."""
    one = np.full((20, 2), 7.0)
    line = np.stack([np.arange(40.0), 2 * np.arange(40.0)], 1)
    for a, b in ((one, one), (line, line + 1.0), (views(50)[0], views(50)[0])):
        assert epipolar_inliers(a, b).shape == (len(a),)


@pytest.mark.parametrize("degrees", [0.0, 90.0])
def test_matches_slid_along_their_epipolar_lines_are_wrong(degrees: float) -> None:
    """A camera moves sideways through a room of three depths: every wrong match on its own row fits the motion."""
    rng = np.random.default_rng(2)
    a = rng.uniform(-300, 300, (300, 2))
    disparity = np.select([a[:, 1] < -100, a[:, 1] < 100], [4.0, 12.0], 40.0)
    wrong = np.arange(300) % 6 == 0
    b = a - np.stack([np.where(wrong, rng.uniform(-250, 250, 300), disparity), np.zeros(300)], axis=1)
    turn = np.radians(degrees)
    b = b @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    assert epipolar_inliers(a, b).mean() > 0.98, "one fundamental matrix explains them all"
    kept = agreeing(a, b)
    assert kept[~wrong].mean() > 0.97 and kept[wrong].mean() < 0.2


@pytest.mark.skipif(not features._AT_ONCE, reason="the processor lacks the instructions")
@pytest.mark.parametrize(("count", "other"), [(2, 2), (3, 17), (66, 33), (301, 450)])
def test_a_compiler_changes_nothing_in_matches(count: int, other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where several are equally near, and where the ratio is close to the limit."""
    rng = np.random.default_rng(count)
    a, b = (rng.gamma(0.5, 40.0, (rows, 128)) for rows in (count, other))
    near = min(count, other) * 2 // 3
    b[:near] = a[:near] + rng.normal(0, rng.uniform(0, 60, (near, 1)), (near, 128))
    if count > 60:
        b[near - 1], a[5] = b[near - 2], a[6]
    sets = [Features(np.zeros((len(d), 2)), np.clip(d, 0, 255).astype(np.uint8)) for d in (a, b)]
    found = match(*sets)
    monkeypatch.setattr(features, "_AT_ONCE", False)
    np.testing.assert_array_equal(found, match(*sets))
    assert len(found) > 0 or count < 60


@pytest.mark.parametrize("axis, how", [(1, "side by side"), (0, "one above the other")])
def test_an_image_that_shows_the_same_twice(axis: int, how: str) -> None:
    """Both images of a stereo camera in one, with noise and parallax of their own."""
    left, noise = texture(), np.random.default_rng(1).integers(-9, 10, (2, 240, 320))
    right = np.roll(left, -12, axis=1)
    both = np.concatenate([left, right], axis=axis) + np.concatenate([*noise], axis=axis)
    other = np.concatenate([left, texture(seed=1)], axis=axis)
    for image, expected in ((np.clip(both, 0, 255).astype(np.uint8), how), (other, ""), (left, "")):
        height, width = image.shape
        found = extract(image)
        offsets = Features(found.pixels - [(width - 1) / 2, (height - 1) / 2], found.descriptors)
        assert shows_twice(offsets, width, height) == expected
