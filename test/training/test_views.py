"""Crops: whatever size and camera a view has, what comes out is a true view of the same world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import NoisyRoom

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.training.views import (
    Cropping,
    TrainingView,
    ViewPair,
    Window,
    crop_pair,
    crop_view,
    jitter,
    length,
    resample,
)


@pytest.fixture
def view() -> TrainingView:
    return NoisyRoom().view(np.array([0.3, -0.2, 0.1]), 0.7)


def test_points_project_to_their_pixels(view: TrainingView) -> None:
    skewed = replace(view, K=view.K + np.array([[0, 0.5, 0], [0, 3.0, 0], [0, 0, 0]]))
    for one in (view, skewed):
        pixels = one.points_c() @ one.K.T
        v, u = np.mgrid[: one.depth.shape[0], : one.depth.shape[1]]
        np.testing.assert_allclose(pixels[..., 0] / pixels[..., 2], u, atol=1e-9)
        np.testing.assert_allclose(pixels[..., 1] / pixels[..., 2], v, atol=1e-9)
        np.testing.assert_allclose(pixels[..., 2], one.depth)


def test_points_in_the_world_lie_on_the_walls(view: TrainingView) -> None:
    reach = np.abs(transform(view.w_T_c, view.points_c())) / [2.5, 2.0, 1.5]
    np.testing.assert_allclose(reach.max(axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": np.zeros((4, 5), np.uint8)}, "image"),
        ({"image": np.zeros((64, 80, 3), np.float32)}, "image"),
        ({"depth": np.zeros((64, 79), np.float32)}, "depth of shape"),
        ({"depth": np.full((64, 80), np.nan, np.float32)}, "must be 0"),
        ({"depth": np.full((64, 80), -1, np.float32)}, "must be 0"),
        ({"K": np.zeros((3, 3))}, "focals above 0"),
        ({"K": np.full((3, 3), np.nan)}, "finite"),
        ({"w_T_c": np.full((4, 4), np.inf)}, "pose"),
        ({"w_T_c": np.diag([2.0, 2, 2, 1])}, "rotation"),
    ],
)
def test_what_no_camera_gives_is_refused(view: TrainingView, change: dict[str, np.ndarray], words: str) -> None:
    view.check("a.jpg")
    with pytest.raises(InputError, match=f"a.jpg.*{words}"):
        replace(view, **change).check("a.jpg")


def test_length() -> None:
    assert length(NoisyRoom()) is None and length(NoisyRoom(count=7)) == 7


def ramp(width: int = 90, height: int = 70, K: np.ndarray | None = None) -> TrainingView:
    """An image whose red and green say where a pixel lies (3 x column, 3 x row); depth likewise."""
    v, u = np.mgrid[:height, :width]
    image = np.stack([2.5 * u, 3.0 * v, 0 * u], axis=-1)
    K = np.array([[70.0, 0, 40.0], [0, 84.0, 37.0], [0, 0, 1]]) if K is None else K
    return TrainingView((image + 0.5).astype(np.uint8), (1.0 + u + 1000 * v).astype(np.float32), K, np.eye(4))


@given(
    size=st.sampled_from([(32, 32), (48, 64), (64, 32), (160, 176)]),
    seed=st.integers(0, 1000),
    zoom=st.floats(1, 3),
    centred=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_pixel_is_where_the_intrinsics_say(size: tuple[int, int], seed: int, zoom: float, centred: bool) -> None:
    """The ray of a pixel, projected by the camera before, ends where the pixel's colour and depth come from."""
    view = ramp()
    cut = crop_view(view, size, np.random.default_rng(seed), Cropping(zoom, centred, 0.0, upscale=8.0))
    assert cut.image.shape == (*size, 3) and cut.image.dtype == np.uint8 and cut.depth.dtype == np.float32
    assert cut.K[0, 0] == pytest.approx(cut.K[1, 1])
    v, u = np.mgrid[: size[0], : size[1]]
    x, y = (u - cut.K[0, 2]) / cut.K[0, 0], (v - cut.K[1, 2]) / cut.K[1, 1]
    before_u, before_v = x * view.K[0, 0] + view.K[0, 2], y * view.K[1, 1] + view.K[1, 2]
    assert (
        before_u.min() >= -0.501 and before_u.max() <= 89.501 and before_v.min() >= -0.501 and before_v.max() <= 69.501
    )
    depth_u, depth_v = (cut.depth - 1) % 1000, (cut.depth - 1) // 1000
    assert np.abs(depth_u - before_u).max() <= 0.501 and np.abs(depth_v - before_v).max() <= 0.501
    inside = (slice(4, -4), slice(4, -4))
    assert np.abs(cut.image[..., 0][inside] / 2.5 - before_u[inside]).max() < 0.8
    assert np.abs(cut.image[..., 1][inside] / 3.0 - before_v[inside]).max() < 0.8
    if centred:
        np.testing.assert_allclose(cut.K[:2, 2], [(size[1] - 1) / 2, (size[0] - 1) / 2], atol=1e-6)


def test_random_focal_lengths_and_places() -> None:
    view, rng = ramp(), np.random.default_rng(0)
    cuts = [crop_view(view, (32, 32), rng, Cropping(zoom=2.0, centred=False)) for _ in range(200)]
    focals = np.array([cut.K[0, 0] for cut in cuts])
    assert focals.max() / focals.min() > 1.8 and focals.max() / focals.min() <= 2.0001
    assert np.std([cut.K[0, 2] for cut in cuts]) > 2
    plain = {tuple(crop_view(view, (32, 32), rng, Cropping()).K.ravel()) for _ in range(5)}
    assert len(plain) == 1


def test_small_images_are_not_blown_up_for_the_sake_of_zoom() -> None:
    view, rng = ramp(), np.random.default_rng(0)
    whole = crop_view(view, (140, 140), rng, Cropping()).K[0, 0]
    for _ in range(20):
        assert crop_view(view, (140, 140), rng, Cropping(zoom=9.0, upscale=2.2)).K[0, 0] <= max(2.2 * 70, whole) + 1e-6


def test_the_whole_image_at_its_own_size_is_the_image() -> None:
    view = ramp(64, 48, np.array([[70.0, 0, 31.5], [0, 70.0, 23.5], [0, 0, 1]]))
    cut = resample(view, Window(0.0, 0.0, 64.0, 48.0), (48, 64))
    assert (cut.image == view.image).all() and (cut.depth == view.depth).all() and (cut.K == view.K).all()


def test_shrinking_averages_colour_and_picks_depth() -> None:
    """A checkerboard of single pixels becomes grey; depth stays one of the two that were there."""
    board = (np.indices((256, 256)).sum(axis=0) % 2).astype(np.uint8)
    K = np.array([[200.0, 0, 127.5], [0, 200.0, 127.5], [0, 0, 1]])
    view = TrainingView(np.repeat(255 * board[..., None], 3, axis=2), 1.0 + board.astype(np.float32), K, np.eye(4))
    for size in ((64, 64), (32, 32)):
        cut = crop_view(view, size, np.random.default_rng(0), Cropping())
        assert np.abs(cut.image.astype(int) - 127).max() < 12
        assert set(np.unique(cut.depth)) <= {1.0, 2.0}


def test_a_point_seen_by_both_views_stays_one_point() -> None:
    """In the room, points of one cropped view that the other sees lie on its surface there."""
    pair = NoisyRoom(size=(120, 150)).pair(3, np.random.default_rng(0))
    cut = crop_pair(pair, (64, 96), np.random.default_rng(1), Cropping(zoom=1.3, colour=0.5))
    for view in (cut.first, cut.second):
        reach = np.abs(transform(view.w_T_c, view.points_c())) / [2.5, 2.0, 1.5]
        assert np.median(np.abs(reach.max(axis=-1) - 1)) < 0.01


def test_what_cannot_be_cropped_is_reported_by_name() -> None:
    view = ramp()
    outside = replace(view, K=np.array([[70.0, 0, 300.0], [0, 70.0, 37.0], [0, 0, 1]]))
    with pytest.raises(InputError, match=r"set 5: the principal point .* leaves no window"):
        crop_pair(ViewPair(view, outside, "set 5"), (32, 32), np.random.default_rng(0), Cropping())
    blind = replace(view, depth=np.zeros_like(view.depth))
    with pytest.raises(InputError, match=r"set 6: only 0.0 % of the depth"):
        crop_pair(ViewPair(blind, blind, "set 6"), (32, 32), np.random.default_rng(0), Cropping())


def test_jitter_changes_colours_and_nothing_else() -> None:
    image = NoisyRoom().view(np.zeros(3), 0.3).image
    one, other = jitter(image, np.random.default_rng(1), 0.4), jitter(image, np.random.default_rng(2), 0.4)
    assert one.shape == image.shape and one.dtype == np.uint8
    assert (one != image).any() and (one != other).any()
    assert (jitter(image, np.random.default_rng(1), 0.4) == one).all()
    assert np.abs(jitter(image, np.random.default_rng(1), 0.0).astype(int) - image).max() <= 1
    grey = np.full((4, 4, 3), 128, np.uint8)
    assert (jitter(grey, np.random.default_rng(3), 0.4) == jitter(grey, np.random.default_rng(3), 0.4)[0, 0]).all()
