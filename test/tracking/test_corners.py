"""Corners followed through images whose motion is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dust3r_ros.tracking import CornerTracker, Tracks, join, no_tracks
from dust3r_ros.types import Image

HEIGHT, WIDTH = 240, 320


def texture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Image:
    """Blobs of several sizes."""
    rng = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), s) * s for s in (1.5, 3, 8)]
    total = np.sum(layers, axis=0)
    return np.clip(128 + 55 * total / total.std(), 0, 255).astype(np.uint8)


def seen_through(image: Image, homography: np.ndarray, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image:
    return cv2.warpPerspective(image, homography, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def start(tracker: CornerTracker, image: Image, count: int = 300) -> Tracks:
    tracker.follow(image)
    corners = tracker.corners(count, np.zeros((0, 2)))
    tracker.tracks = Tracks(np.arange(len(corners)), corners)
    return tracker.tracks


def homography(dx: float, dy: float, degrees: float = 0.0, scale: float = 1.0, tilt: float = 0.0) -> np.ndarray:
    H = np.vstack([cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), degrees, scale), [tilt, 0.5 * tilt, 1]])
    H[:2, 2] += dx, dy
    return H


@pytest.mark.parametrize(
    "H", [homography(0, 0), homography(3.3, -2.7), homography(28, 6), homography(4, 0, 3.0, 1.03, 5e-5)]
)
def test_corners_follow_to_a_part_of_a_pixel(H: np.ndarray) -> None:
    image, tracker = texture(), CornerTracker()
    before = start(tracker, image)
    after = tracker.follow(seen_through(image, H))
    assert len(after.ids) > 0.6 * len(before.ids) > 60
    assert np.isin(after.ids, before.ids).all() and len(np.unique(after.ids)) == len(after.ids)
    expected = cv2.perspectiveTransform(before.pixels[after.ids][None], H)[0]
    miss = np.linalg.norm(after.pixels - expected, axis=1)
    assert np.median(miss) < 0.15 and np.percentile(miss, 95) < 0.5


@pytest.mark.parametrize("gain, level", [(0.5, 0), (0.7, 40), (1.5, -60)])
def test_corners_follow_through_changes_of_light(gain: float, level: float) -> None:
    """An exposure that changes from one image to the next, and a shadow over a part of it."""
    image, tracker = texture(), CornerTracker()
    image = np.round(64 + 0.5 * image).astype(np.uint8)  # clear of black and white
    before = start(tracker, image)
    H = homography(9.3, -2.7, 2.0)
    shadow = np.where(np.arange(WIDTH) < 120, 0.75, 1.0)
    after = tracker.follow(np.clip(seen_through(image, H) * gain * shadow + level, 0, 255).astype(np.uint8))
    assert len(after.ids) > 0.6 * len(before.ids) > 60
    expected = cv2.perspectiveTransform(before.pixels[after.ids][None], H)[0]
    assert np.median(np.linalg.norm(after.pixels - expected, axis=1)) < 0.2


def test_no_drift_over_a_walk() -> None:
    image, tracker = texture(), CornerTracker()
    before = start(tracker, image)
    for step in range(1, 11):
        after = tracker.follow(seen_through(image, homography(2.1 * step, -1.3 * step, 0.4 * step)))
    expected = cv2.perspectiveTransform(before.pixels[after.ids][None], homography(21.0, -13.0, 4.0))[0]
    assert len(after.ids) > 0.5 * len(before.ids)
    assert np.median(np.linalg.norm(after.pixels - expected, axis=1)) < 0.4


def test_what_moves_by_itself_is_dropped() -> None:
    """Relief seen from two places, with a patch that walks the other way."""
    image, tracker = texture(), CornerTracker()
    before = start(tracker, image)
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    shift = 10 + 5 * np.sin(u / 45) * np.cos(v / 30) + 3 * np.sin(v / 17)  # parallax along x
    moved = cv2.remap(image, u - shift, v, cv2.INTER_CUBIC)
    moved[80:160, 120:200] = image[92:172, 118:198]  # up by 12, right by 2
    after = tracker.follow(moved)
    was = before.pixels[after.ids]
    inside = np.all((after.pixels > [128, 88]) & (after.pixels < [192, 152]), axis=1)
    assert len(after.ids) > 0.4 * len(before.ids)
    assert np.mean(np.abs(after.pixels[:, 1] - was[:, 1]) > 6) < 0.02
    assert inside.sum() < 3


def test_what_leaves_the_image_is_dropped() -> None:
    image, tracker = texture(), CornerTracker()
    before = start(tracker, image)
    after = tracker.follow(seen_through(image, homography(40, 0)))
    assert (before.pixels[after.ids, 0] < WIDTH - 38).all()
    assert (after.pixels > 0).all() and (after.pixels < [WIDTH - 1, HEIGHT - 1]).all()


@pytest.mark.parametrize("value", [0, 127, 255])
def test_blank_images(value: int) -> None:
    blank, tracker = np.full((HEIGHT, WIDTH), value, np.uint8), CornerTracker()
    assert len(start(tracker, blank).ids) == 0
    assert len(tracker.follow(blank).ids) == 0
    tracker = CornerTracker()
    start(tracker, texture())
    assert len(tracker.follow(blank).ids) == 0
    assert len(tracker.follow(texture()).ids) == 0, "what is lost stays lost"
    assert len(tracker.corners(50, np.zeros((0, 2)))) > 20


def test_another_picture_keeps_nothing() -> None:
    tracker = CornerTracker()
    start(tracker, texture())
    assert len(tracker.follow(texture(seed=9)).ids) < 20


def test_corners_keep_their_distance() -> None:
    tracker = CornerTracker()
    tracker.follow(texture())
    first = tracker.corners(60, np.zeros((0, 2)))
    assert 40 <= len(first) <= 60
    more = tracker.corners(200, first)
    apart = np.linalg.norm(more[:, None] - first[None], axis=2).min(axis=1)
    assert apart.min() > 5
    assert tracker.corners(0, first).shape == (0, 2) and tracker.corners(-3, first).shape == (0, 2)
    off = np.array([[-500.0, 3.0], [1e6, 1e6]])
    assert len(tracker.corners(60, off)) == len(first), "corners outside the image do no harm"


@pytest.mark.parametrize("size", [(48, 64), (16, 400), (400, 24), (700, 900), (12, 64), (24, 128)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    image, tracker = texture(*size), CornerTracker()
    start(tracker, image)
    after = tracker.follow(image)
    assert np.isfinite(after.pixels).all()


def test_tracks_by_name() -> None:
    tracks = Tracks(np.array([5, 3, 5, 9]), np.arange(8.0).reshape(4, 2))
    unique = tracks.unique()
    np.testing.assert_array_equal(unique.ids, [3, 5, 9])
    np.testing.assert_array_equal(unique.pixels, [[2, 3], [0, 1], [6, 7]])
    called = unique.called(np.array([0, 0, 0, 3, 0, 5, 0, 0, 0, 3]))
    np.testing.assert_array_equal(called.ids, [3, 5])
    np.testing.assert_array_equal(called.pixels, [[2, 3], [0, 1]])
    assert len(no_tracks().called(np.arange(3)).ids) == 0
    both = join(unique, no_tracks())
    np.testing.assert_array_equal(both.ids, unique.ids)
