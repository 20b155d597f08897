"""Pictures of clouds: who hides whom, how large, from which side."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL
from dust3r_ros.products import splat
from dust3r_ros.products.splat import Surfels, Viewpoint, render, surfels
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
        splat.above(points, path, WIDTH, HEIGHT),
        splat.outside(points, [keyframe()], path, WIDTH, HEIGHT),
    ):
        pixels, depth = view.project(points.cloud.points[outliers:])
        assert (depth > 0).all()
        assert inside(pixels) > 0.9
        spread = np.ptp(pixels, axis=0) / [WIDTH, HEIGHT]
        assert spread.max() > 0.8


def test_from_above_z_points_at_the_viewer_and_handedness_is_kept() -> None:
    view = splat.above(box(4, 3, 2), np.zeros((1, 3)), WIDTH, HEIGHT)
    (origin, x, y), depth = view.project(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]))
    # x to the right, y up on the page, as a map is drawn.
    assert x[0] > origin[0] and x[1] == pytest.approx(origin[1])
    assert y[1] < origin[1] and y[0] == pytest.approx(origin[0])
    assert view.project(np.array([[0.0, 0, 1]]))[1][0] < depth[0]
    assert np.linalg.det(view.w_T_c[:3, :3]) == pytest.approx(1.0)


def test_up_is_up_from_outside() -> None:
    view = splat.outside(box(4, 3, 2), [keyframe()], np.zeros((1, 3)), WIDTH, HEIGHT)
    (low, high), _ = view.project(np.array([[0.0, 0, -1], [0, 0, 1]]))
    assert high[1] < low[1]
    assert np.linalg.det(view.w_T_c[:3, :3]) == pytest.approx(1.0)


def test_a_path_far_from_the_points_is_in_the_picture() -> None:
    path = np.array([[0.0, 0, 0], [30.0, 5.0, 0]])
    points = box(1, 1, 1)
    for view in (
        splat.above(points, path, WIDTH, HEIGHT),
        splat.outside(points, [keyframe()], path, WIDTH, HEIGHT),
    ):
        assert inside(view.project(path)[0]) == 1.0


def test_a_camera_that_looks_straight_down_still_has_a_view_from_outside() -> None:
    down = np.array([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1]])
    view = splat.outside(box(4, 3, 2), [keyframe(down)], np.zeros((1, 3)), WIDTH, HEIGHT)
    assert np.isfinite(view.w_T_c).all() and np.isfinite(view.focal)


BLACK = (0, 0, 0)
RED, GREEN = (255, 0, 0), (0, 255, 0)


def points(
    *rows: tuple[tuple[float, float, float], tuple[int, int, int]], size: float = 0.0, ray=(0, 0, 1.0)
) -> Surfels:
    cloud = Cloud(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 3),
        np.array([row[1] for row in rows], np.uint8).reshape(-1, 3),
        np.full(len(rows), 5.0, np.float32),
    )
    return Surfels(cloud, np.full(len(rows), size), np.tile(np.array(ray, np.float64), (len(rows), 1)))


def camera(**options) -> Viewpoint:
    return Viewpoint(np.eye(4), options.pop("focal", 10.0), 21, 11, **options)


@pytest.mark.parametrize("order", [1, -1])
def test_the_near_point_hides_the_far_one_in_any_order(order: int) -> None:
    image, depth = render(points(*[((0, 0, 2), RED), ((0, 0, 4), GREEN)][::order]), camera(), BLACK)
    assert tuple(image[5, 10]) == RED
    assert depth[5, 10] == 2
    assert np.isfinite(depth).sum() == 1


def test_points_on_one_surface_share_the_pixel() -> None:
    image, _ = render(points(((0, 0, 2), RED), ((0, 0, 2.01), GREEN)), camera(), BLACK)
    assert tuple(image[5, 10]) == (128, 128, 0)


def test_a_point_lands_where_the_pinhole_says_and_as_large_as_its_pixel_was() -> None:
    # x = 1 m right at 2 m, f = 10: 5 pixels right of the middle; 0.55 m wide: 2.75 pixels, drawn as 4.
    image, _ = render(points(((1, 0, 2), RED), size=0.55), camera(), BLACK)
    rows, columns = np.nonzero(image[..., 0])
    assert len(rows) == 16
    assert columns.mean() == pytest.approx(15, abs=0.51)
    assert rows.mean() == pytest.approx(5, abs=0.51)


def test_nothing_behind_the_camera_or_beside_the_picture_is_drawn() -> None:
    image, depth = render(points(((0, 0, -2), RED), ((0, 0, 0), RED), ((90, 0, 2), RED)), camera(), BLACK)
    assert not image.any()
    assert np.isinf(depth).all()


def test_an_orthographic_picture_does_not_shrink_with_depth() -> None:
    view = camera(orthographic=True, focal=2.0)
    pixels, _ = view.project(np.array([[2.0, 0, 1], [2.0, 0, 100]]))
    assert np.allclose(pixels, [[14, 5], [14, 5]])


def test_a_single_gap_in_a_surface_is_closed_and_the_outside_is_not() -> None:
    grid = [((x / 10, y / 10, 1.0), RED) for x in range(-3, 4) for y in range(-3, 4) if (x, y) != (0, 0)]
    image, depth = render(points(*grid), camera(), BLACK)
    assert tuple(image[5, 10]) == RED
    assert depth[5, 10] == pytest.approx(1.0)
    assert np.isfinite(depth).sum() == 49


def test_the_back_of_a_wall_is_left_out() -> None:
    seen_forward = points(((0, 0, 2), RED), ray=(0, 0, 1.0))
    assert len(seen_forward.facing(np.array([0, 0, 1.0]))) == 1
    assert len(seen_forward.facing(np.array([0, 0, -1.0]))) == 0


def test_surfels_of_a_keyframe_have_the_size_of_its_pixels() -> None:
    depth = np.full((4, 6), 3.0, np.float32)
    depth[0, 0] = 0
    keyframe = Keyframe(
        0, 0, 0, "camera", BODY_T_OPTICAL, 6.0, np.zeros((4, 6, 3), np.uint8), depth, np.full((4, 6), 2.0, np.float32)
    )
    result = surfels([keyframe], min_confidence=1.5)
    assert len(result) == 23
    assert np.allclose(result.size, 0.5)
    assert np.allclose(np.linalg.norm(result.ray, axis=1), 1.0)
    assert np.allclose(result.ray.mean(axis=0) / np.linalg.norm(result.ray.mean(axis=0)), [1, 0, 0], atol=0.05)
    assert len(surfels([], 1.5)) == 0
