"""One camera's images on their way in."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import InputError
from dust3r_ros.features.features import FEATURES
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.pinhole import pixel_grid
from dust3r_ros.mapping.camera_stream import Cameras, CameraStream
from dust3r_ros.tracking import Tracks, no_tracks


def stream(width: int = 320, height: int = 240, **config: int) -> CameraStream:
    config = {"tracking_size": max(width, height), **config}
    return CameraStream("front", 0, width, height, MapperConfig(**config))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width].copy()


@pytest.mark.parametrize(
    "width, height, tracking",
    [
        (320, 240, 640),
        (320, 240, 800),
        (480, 320, 640),
        (1280, 720, 640),
        (720, 1280, 400),
        (333, 251, 128),
        (97, 64, 64),
    ],
)
def test_sizes(width: int, height: int, tracking: int) -> None:
    made = stream(width, height, tracking_size=tracking)
    gray = made.gray(noise(height, width))
    assert gray.ndim == 2 and gray.dtype == np.uint8
    longer = max(width, height)
    assert max(gray.shape) == made.long_edge == (2 * longer if 2 * longer <= tracking else min(tracking, longer))
    assert gray.shape[1] / gray.shape[0] == pytest.approx(width / height, rel=0.02)
    assert made.tracking_scale == pytest.approx(made.long_edge / max(width, height))


@pytest.mark.parametrize("width, height", [(752, 480), (640, 480), (1241, 376)])
def test_the_tracked_image_shows_all_of_the_native_one(width: int, height: int) -> None:
    """Also where its sides, of whole pixels, are not quite scaled alike."""
    made = stream(width, height, tracking_size=640)
    half = np.array(made.gray(noise(height, width)).shape[::-1]) / 2.0
    corners = made.resize.to_native(made.to_working(np.stack([-half, half])))
    np.testing.assert_allclose(corners, [[-0.5, -0.5], [width - 0.5, height - 0.5]], atol=1e-9)
    np.testing.assert_allclose(made.from_working(made.to_working(np.stack([-half, half]))), [-half, half], atol=1e-9)


def test_the_first_size_stays() -> None:
    made = stream()
    with pytest.raises(InputError, match=r"320x240 to 160x120"):
        made.gray(np.zeros((120, 160, 3), np.uint8))
    with pytest.raises(InputError, match="front"):
        made.gray(np.zeros((320, 240, 3), np.uint8))


@pytest.mark.parametrize("width, height", [(320, 240), (1280, 960), (500, 700)])
def test_the_middle_of_all_images_is_the_same_point(width: int, height: int) -> None:
    made = stream(width, height)
    center = made.to_working(np.zeros((1, 2)))[0]
    np.testing.assert_allclose(center, [(made.resize.width - 1) / 2, (made.resize.height - 1) / 2], atol=0.6)
    # One tracked pixel aside is as far in the working image as the focal says.
    aside = made.to_working(np.array([[10.0, 0.0]]))[0] - center
    assert aside[0] / 10.0 == pytest.approx(made.focal_to_working(1.0), rel=0.02)


def test_offsets_count_from_the_middle() -> None:
    made = stream()
    np.testing.assert_allclose(made.centred(np.array([[159.5, 119.5], [160.5, 119.5]])), [[0, 0], [1, 0]])


def test_motion_and_overlap_count_from_the_keyframe() -> None:
    made = stream()
    image = made.gray(noise(240, 320))
    made.follow(image)
    anchor = Tracks(np.arange(10), np.zeros((10, 2)))
    made.anchor(0, anchor)
    assert made.motion(anchor) == 0.0 and made.overlap(anchor) == 1.0
    moved = Tracks(np.arange(2, 8), np.tile([32.0, 0.0], (6, 1)))
    assert made.motion(moved) == pytest.approx(0.1) and made.overlap(moved) == pytest.approx(0.6)
    strangers = Tracks(np.arange(50, 60), np.zeros((10, 2)))
    assert made.motion(strangers) == float("inf") and made.overlap(strangers) == 0.0
    made.anchor(0, no_tracks())
    assert made.overlap(moved) == 0.0 and made.motion(no_tracks()) == float("inf")


def test_corners_are_followed_as_offsets() -> None:
    made = stream()
    image = noise(240, 320)
    made.follow(made.gray(image))
    corners = made.corners(150, np.zeros((0, 2)))
    assert len(corners) > 50 and (np.abs(corners) <= [160, 120]).all()
    made.anchor(0, Tracks(np.arange(len(corners)), corners))
    shifted = np.roll(image, 5, axis=1)
    after = made.follow(made.gray(shifted))
    move = after.pixels - corners[after.ids]
    assert len(after.ids) > 0.6 * len(corners)
    np.testing.assert_allclose(np.median(move, axis=0), [5.0, 0.0], atol=0.1)
    made.restart()
    assert len(made.follow(made.gray(image)).ids) == 0


@pytest.mark.parametrize("step, live, fewer", [(3, False, True), (97, False, False), (97, True, True)])
def test_photographs_have_more_features_than_images_of_a_video(step: int, live: bool, fewer: bool) -> None:
    """Where corners cannot be followed, steps are wide, and of the features fewer match; live, images are left out."""
    made, image = stream(640, 480), np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    image, made.live = cv2.GaussianBlur(image, (0, 0), 1.0), live
    counts = []
    for k in range(6):
        gray = made.gray(np.roll(image, step * k, axis=1))
        made.see(gray)
        made.follow(gray)
        corners = made.corners(300, np.zeros((0, 2)))
        made.anchor(k, Tracks(np.arange(len(corners)), corners))
        counts.append(len(made.features(gray).pixels))
    assert all((count <= FEATURES) == fewer for count in counts[1:])


@pytest.mark.parametrize("std, known", [(0.0, np.inf), (0.1, 0.1)])
def test_a_guess_of_which_no_deviation_is_known_is_the_usual_one(std: float, known: float) -> None:
    cameras = Cameras(MapperConfig())
    cameras.give("front", 320, 240, 280.0, std, guess=True)
    intrinsics = cameras.open("front", 320, 240)[1]
    assert not intrinsics.given and intrinsics.prior == intrinsics.focal and intrinsics.guess_std == known


def test_a_rectified_image_is_what_a_pinhole_sees() -> None:
    """A chequered wall drawn through a lens comes out straight; what the camera did not see is told."""
    made = stream(320, 240, working_size=320)
    lens = Lens(160.0, -0.1, (4.0, -3.0))
    height, width = made.resize.height, made.resize.width
    offsets = pixel_grid(height, width).reshape(-1, 2) - [(width - 1) / 2, (height - 1) / 2]

    def wall(at: np.ndarray) -> np.ndarray:
        value = 127 + 60 * np.sin(at[:, 0] / 9.0) + 60 * np.sin(at[:, 1] / 7.0)
        return np.repeat(value.reshape(height, width, 1), 3, axis=2)

    seen = np.round(wall(lens.ideal(offsets))).astype(np.uint8)
    straight, inside = made.rectified(seen, lens)
    assert inside is not None and 0.7 < inside.mean() < 0.9 and inside[height // 2, width // 2]
    np.testing.assert_allclose(straight[inside], wall(offsets)[inside], atol=3.0)
    again, everywhere = made.rectified(seen, Lens(160.0))
    assert again is seen and everywhere is None
