"""Overlap of views: what is out of the image, hidden, unknown or too far off is not shared."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.geometry.rigid import invert, pose, transform
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.training.datasets.pairs import glance, overlaps, shared_points
from dust3r_ros.types import Array, Array32

K = np.array([[100.0, 0, 63.5], [0, 100, 47.5], [0, 0, 1]])
WALL = np.full((96, 128), 2.0, np.float32)  # 2.56 m wide


def at(x: float, z: float = 0.0) -> Array:
    return pose(np.eye(3), [x, 0.0, z])


def shared(*views: tuple[Array32, Array]) -> Array32:
    return overlaps([glance(depth, K, T) for depth, T in views])


@pytest.mark.parametrize("part", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_step_to_the_side_takes_that_part_away(part: float) -> None:
    found = shared((WALL, at(0)), (WALL, at(2.56 * part)))
    assert found[0, 0] == found[1, 1] == 1 and found[0, 1] == found[1, 0]
    assert found[0, 1] == pytest.approx(1 - part, abs=0.04)


def test_of_a_close_up_it_is_the_smaller_direction() -> None:
    near = np.full_like(WALL, 1.0)
    assert shared((WALL, at(0)), (near, at(0, 1.0)))[0, 1] == pytest.approx(0.25, abs=0.05)


def test_what_is_hidden_is_not_shared() -> None:
    """A board before the left half of the one camera: it sees another half of the wall, and the board alone."""
    board = WALL.copy()
    board[:, :64] = 1.0
    assert shared((WALL, at(0)), (board, at(0)))[0, 1] == pytest.approx(0.5, abs=0.04)


def test_of_a_rendered_room_it_is_what_every_pixel_says(walk: RenderedSequence) -> None:
    """Neighbours around a box, which hides a part of the room from each."""
    lens = np.array([[walk.focal, 0, 63.5], [0, walk.focal, 47.5], [0, 0, 1]])
    found = overlaps([glance(depth, lens, T) for depth, T in zip(walk.depths, walk.w_T_c, strict=True)])
    v, u = np.mgrid[:96, :128]
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(lens).T

    def part(i: int, j: int) -> float:
        points = transform(walk.w_T_c[i], rays * walk.depths[i][..., None]).reshape(-1, 3)
        camera = transform(invert(walk.w_T_c[j]), points)
        x, y = np.rint((camera @ lens.T)[:, :2] / np.where(camera[:, 2:] > 0, camera[:, 2:], np.nan)).T
        inside = (x >= 0) & (y >= 0) & (x < 128) & (y < 96)
        there = walk.depths[j][y[inside].astype(int), x[inside].astype(int)]
        return float((np.abs(camera[inside, 2] / there - 1) < 0.05).sum() / inside.size)

    for i, j in ((0, 1), (0, 2), (1, 2), (1, 4), (2, 4), (0, 4)):
        assert found[i, j] == pytest.approx(min(part(i, j), part(j, i)), abs=0.05)


def test_what_stands_behind_shares_nothing() -> None:
    turned = pose(np.diag([-1.0, 1, -1]), [0, 0, 0])
    assert shared((WALL, at(0)), (WALL, turned))[0, 1] == 0


def test_sparse_depth_shares_as_dense_does() -> None:
    """As of a lidar: one pixel in thirty."""
    keep = np.random.default_rng(0).random(WALL.shape) < 1 / 30
    assert keep.mean() < 0.04
    found = shared((np.where(keep, WALL, 0), at(0)), (np.where(keep[::-1], WALL, 0), at(1.28)))
    dense = shared((WALL, at(0)), (WALL, at(1.28)))
    # Cells that hold no point of the other view do not see.
    assert 0.2 < found[0, 1] < dense[0, 1]


def test_a_view_without_depth_shares_nothing() -> None:
    dot = np.zeros_like(WALL)
    dot[:4, :4] = 2.0
    found = shared((WALL, at(0)), (np.zeros_like(WALL), at(0)), (dot, at(0)), (np.zeros((1, 1), np.float32), at(0)))
    np.testing.assert_array_equal(found[0], [1, 0, 0, 0])
    assert overlaps([]).shape == (0, 0)


def test_a_size_that_is_no_multiple_of_the_cells() -> None:
    """The odd margin counts as the rest."""
    depth = np.full((101, 75), 2.0, np.float32)
    lens = np.array([[80.0, 0, 37], [0, 80, 50], [0, 0, 1]])
    view = glance(depth, lens, at(0))
    assert overlaps([view, view])[0, 1] == 1
    pixels = view.points @ lens.T
    assert (np.ptp(pixels[:, :2] / pixels[:, 2:], axis=0) > [68, 94]).all()


def test_shared_points_are_counted_of_the_richer_image() -> None:
    seen = [np.array(points, np.uint64) for points in ([1, 2, 3, 4], [3, 4, 2**40], [2**40, 2**40], [])]
    found = shared_points(seen)
    np.testing.assert_allclose(found[:3, :3], [[1, 0.5, 0], [0.5, 1, 1 / 3], [0, 1 / 3, 1]])
    assert not found[3].any() and not shared_points([np.zeros(0, np.uint64)] * 2).any()
