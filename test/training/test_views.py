"""Views: points from depth, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_worlds import NoisyRoom

from dust3r_ros.errors import InputError
from dust3r_ros.training.views import TrainingView, length


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
    reach = np.abs(view.points_w()) / [2.5, 2.0, 1.5]
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


def test_swapped() -> None:
    pair = NoisyRoom().pair(0, np.random.default_rng(0))
    assert pair.swapped().first is pair.second and pair.swapped().swapped().first is pair.first
