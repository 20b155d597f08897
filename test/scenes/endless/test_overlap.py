"""Overlap is the share of pixels that another camera sees."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.scenes.endless.casting import cast
from dust3r_ros.scenes.endless.eye import Eye
from dust3r_ros.scenes.endless.overlap import DepthView, overlap, overlaps
from dust3r_ros.scenes.endless.shapes import BOX, HALL, Shape, gather
from dust3r_ros.scenes.endless.stencils import stencils
from dust3r_ros.scenes.trajectory import look_at

WALL = np.full((40, 60), 2.0, np.float32)
K = np.array([[50.0, 0, 29.5], [0, 50.0, 19.5], [0, 0, 1]])


def test_a_step_along_a_wall_shifts_the_overlap() -> None:
    """20 pixels to the side of 60: two thirds are seen."""
    moved = np.eye(4)
    moved[0, 3] = 20 * 2.0 / 50
    first, second = DepthView(WALL, K, np.eye(4)), DepthView(WALL, K, moved)
    assert overlap(first, second) == pytest.approx(2 / 3, abs=1e-6)
    assert overlap(first, first) == 1.0
    assert overlap(first, second, step=4) == pytest.approx(2 / 3, abs=0.03)


def test_a_closer_look_is_wholly_in_the_wider_one() -> None:
    near = K.copy()
    near[:2, :2] *= 2
    wide, close = DepthView(WALL, K, np.eye(4)), DepthView(WALL, near, np.eye(4))
    assert overlap(close, wide) == 1.0 and overlap(wide, close) == pytest.approx(0.25, abs=0.02)


def test_back_to_back_and_skies_share_nothing() -> None:
    turned = np.diag([-1.0, 1, -1, 1])
    assert overlap(DepthView(WALL, K, np.eye(4)), DepthView(WALL, K, turned)) == 0
    sky = DepthView(np.zeros_like(WALL), K, np.eye(4))
    assert overlap(sky, DepthView(WALL, K, np.eye(4))) == 0 and overlap(DepthView(WALL, K, np.eye(4)), sky) == 0


def test_what_is_hidden_is_not_shared() -> None:
    """Against rays from every point to the other camera."""
    hall = Shape(HALL, np.zeros(3), np.diag([4.0, 4.0, 2.0]))
    boxes = [Shape(BOX, np.array([1.0, y, 0.0]), np.diag([0.4, 0.3, 1.0])) for y in (-1.2, 0.1, 1.3)]
    shapes = gather([hall, *boxes])
    views, eyes = [], []
    for position, target in (((-2.0, -1.5, 0.3), (1.0, 0, 0)), ((-1.5, 2.0, -0.2), (1.0, 0.2, 0))):
        eye = Eye(K, look_at(np.array(position), np.array(target)), 60, 40)
        eyes.append(eye)
        views.append(DepthView(cast(shapes, eye, stencils()).depth, K, eye.w_T_c))
    points = views[0].points(1)
    there, way = eyes[1].w_T_c[:3, 3], points - eyes[1].w_T_c[:3, 3]
    local = way @ eyes[1].w_T_c[:3, :3]
    pixel = local[:, :2] / local[:, 2:] * 50 + [29.5, 19.5]
    inside = (local[:, 2] > 0) & (pixel > -0.5).all(axis=1) & (pixel < [59.5, 39.5]).all(axis=1)
    blocked = np.zeros(len(points), bool)
    for box in boxes:
        p, d = (there - box.center) / np.diag(box.axes), way / np.diag(box.axes)
        near, far = np.sort(np.stack([(-1 - p) / d, (1 - p) / d]), axis=0)
        blocked |= (near.max(axis=1) < far.min(axis=1)) & (near.max(axis=1) < 0.999)
    exact = (inside & ~blocked).mean()
    assert 0.2 < exact < inside.mean() - 0.05
    assert overlap(*views) == pytest.approx(exact, abs=0.02)
    matrix = overlaps(views, 1)
    assert matrix[0, 1] == pytest.approx(overlap(*views)) and matrix[1, 0] == pytest.approx(overlap(*views[::-1]))
    assert np.allclose(np.diag(matrix), 1, atol=0.02)
