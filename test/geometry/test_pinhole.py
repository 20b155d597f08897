from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dust3r_ros.geometry.pinhole import center_of, inside, pixel_grid, project, rays, unmasked, unproject
from dust3r_ros.types import Camera


def test_center_agrees_with_the_camera() -> None:
    assert center_of(48, 64) == Camera("front", 64, 48, 50.0).center == (31.5, 23.5)


def test_the_grid_counts_columns_then_rows_and_is_read_only() -> None:
    grid = pixel_grid(3, 5)
    np.testing.assert_array_equal(grid[2, 4], [4, 2])
    with pytest.raises(ValueError, match="read-only"):
        grid[0, 0] = 1.0


@given(st.integers(1, 40), st.integers(1, 40), st.floats(1, 1000), st.integers(0, 1000))
def test_unprojected_pixels_project_onto_themselves(height: int, width: int, focal: float, seed: int) -> None:
    depth = np.random.default_rng(seed).uniform(0.1, 50, (height, width))
    points = unproject(depth, focal)
    np.testing.assert_array_equal(points[..., 2], depth)
    np.testing.assert_allclose(project(points, focal, center_of(height, width)), pixel_grid(height, width), atol=1e-9)


def test_projection_agrees_with_opencv() -> None:
    points = np.random.default_rng(1).uniform([-1, -1, 1], [1, 1, 4], (50, 3))
    matrix = Camera("front", 640, 480, 500.0).matrix
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, None)[0][:, 0]
    np.testing.assert_allclose(project(points, 500.0, center_of(480, 640)), expected, atol=1e-9)


def test_nothing_behind_the_camera_has_a_pixel() -> None:
    pixels = project(np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), 10.0, (3.0, 4.0))
    np.testing.assert_array_equal(pixels, [[np.nan, np.nan], [np.nan, np.nan], [3.0, 4.0]])


def test_rays_have_unit_depth() -> None:
    np.testing.assert_allclose(rays(np.array([[3.0, 4.0], [13.0, -6.0]]), 10.0, (3.0, 4.0)), [[0, 0, 1], [1, -1, 1]])


def test_inside_leaves_out_the_outermost_pixels_and_what_is_behind_the_camera() -> None:
    pixels = np.array([[0.0, 3.0], [0.1, 3.0], [6.9, 0.5], [7.0, 3.0], [3.0, 5.0], [3.0, 4.9], [np.nan, 2.0]])
    assert inside(pixels, (6, 8)).tolist() == [False, True, True, False, False, True, False]


def test_unmasked_goes_by_the_nearest_pixel() -> None:
    masked = np.zeros((4, 6), np.uint8)
    masked[1, 5] = 255
    pixels = np.array([[4.6, 1.4], [4.4, 1.0], [9.0, 1.0], [5.0, 2.0]])
    assert unmasked(pixels, masked).tolist() == [False, True, False, True]
    assert unmasked(pixels, None).tolist() == [True] * 4
