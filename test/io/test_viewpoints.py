"""Where the preview looks from: the map fills the picture, outliers do not count, the path is always in it."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.alignment.cloud import Cloud
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL
from dust3r_ros.io import viewpoints
from dust3r_ros.io.splat import Surfels
from dust3r_ros.types import Keyframe

WIDTH, HEIGHT = 400, 300


def box(*size: float, outliers: int = 0) -> Surfels:
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (4000, 3)) * size
    points[:outliers] *= 1000
    cloud = Cloud(points.astype(np.float32), np.zeros((4000, 3), np.uint8), np.ones(4000, np.float32))
    return Surfels(cloud, np.zeros(4000), np.zeros((4000, 3)))


def inside(pixels: np.ndarray) -> float:
    return float(np.mean(np.all((pixels >= 0) & (pixels <= [WIDTH - 1, HEIGHT - 1]), axis=1)))


def keyframe(w_T_c: np.ndarray = BODY_T_OPTICAL) -> Keyframe:
    nothing = np.zeros((3, 4), np.float32)
    return Keyframe(0, 0, 0, "camera", w_T_c, 4.0, np.zeros((3, 4, 3), np.uint8), nothing, nothing)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("outliers", [0, 40])
@pytest.mark.parametrize("size", [(4.0, 3.0, 2.0), (3.0, 9.0, 1.0), (10.0, 0.0, 0.0)])
def test_the_map_fills_both_pictures(size, outliers: int, scale: float) -> None:
    points = box(*(scale * np.array(size)), outliers=outliers)
    path = np.zeros((1, 3))
    for view in (
        viewpoints.above(points, path, WIDTH, HEIGHT),
        viewpoints.outside(points, [keyframe()], path, WIDTH, HEIGHT),
    ):
        pixels, depth = view.project(points.cloud.points[outliers:])
        assert (depth > 0).all()
        assert inside(pixels) > 0.9
        spread = np.ptp(pixels, axis=0) / [WIDTH, HEIGHT]
        assert spread.max() > 0.8


def test_from_above_z_points_at_the_viewer_and_handedness_is_kept() -> None:
    view = viewpoints.above(box(4, 3, 2), np.zeros((1, 3)), WIDTH, HEIGHT)
    (origin, x, y), depth = view.project(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]))
    # x to the right, y up on the page, as a map is drawn.
    assert x[0] > origin[0] and x[1] == pytest.approx(origin[1])
    assert y[1] < origin[1] and y[0] == pytest.approx(origin[0])
    assert view.project(np.array([[0.0, 0, 1]]))[1][0] < depth[0]
    assert np.linalg.det(view.w_T_c[:3, :3]) == pytest.approx(1.0)


def test_up_is_up_from_outside() -> None:
    view = viewpoints.outside(box(4, 3, 2), [keyframe()], np.zeros((1, 3)), WIDTH, HEIGHT)
    (low, high), _ = view.project(np.array([[0.0, 0, -1], [0, 0, 1]]))
    assert high[1] < low[1]
    assert np.linalg.det(view.w_T_c[:3, :3]) == pytest.approx(1.0)


def test_a_path_far_from_the_points_is_in_the_picture() -> None:
    path = np.array([[0.0, 0, 0], [30.0, 5.0, 0]])
    points = box(1, 1, 1)
    for view in (
        viewpoints.above(points, path, WIDTH, HEIGHT),
        viewpoints.outside(points, [keyframe()], path, WIDTH, HEIGHT),
    ):
        assert inside(view.project(path)[0]) == 1.0


def test_a_camera_that_looks_straight_down_still_has_a_view_from_outside() -> None:
    down = np.array([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1]])
    view = viewpoints.outside(box(4, 3, 2), [keyframe(down)], np.zeros((1, 3)), WIDTH, HEIGHT)
    assert np.isfinite(view.w_T_c).all() and np.isfinite(view.focal)
