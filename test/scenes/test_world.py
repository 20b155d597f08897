"""Rendered images and depth against geometry that is known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.scenes.rooms import room
from dust3r_ros.scenes.sequence import look_at
from dust3r_ros.scenes.solids import Globe, Lamp, box_panels
from dust3r_ros.scenes.surfaces import Surface
from dust3r_ros.scenes.textures import Pattern, poster, tiles
from dust3r_ros.scenes.world import World, build, person, together

LOW, HIGH = np.array([-2.0, -1.5, 0.0]), np.array([2.0, 1.5, 2.5])
BALL = Globe(np.array([1.0, 0.2, 1.2]), 0.3, tiles)


@pytest.fixture(scope="module")
def world() -> World:
    """An empty room with one ball in the air."""
    shell: list[tuple[Surface, Pattern]] = [(panel, poster) for panel in box_panels(LOW, HIGH, inside=True).values()]
    return build(shell, [BALL], Lamp(np.array([0.0, 0.0, 2.3])), seed=5, per_metre=100)


def on_ball(world: World, w_T_c: np.ndarray) -> np.ndarray:
    """(120, 160) which pixels show the ball to a camera of focal 100."""
    depth = world.render(w_T_c, 160, 120, 100.0).depth.astype(np.float64)
    points = transform(w_T_c, unproject(depth, 100.0))
    return np.abs(np.linalg.norm(points - BALL.center, axis=-1) - BALL.radius) < 1e-4


def test_depth_of_a_wall_in_front_is_its_distance(world: World) -> None:
    view = world.render(look_at(np.array([-1.0, 0, 1.2]), np.array([-1.0, 5, 1.2])), 64, 48, 60.0)
    assert np.allclose(view.depth[10:38], 1.5, atol=1e-5)


def test_every_depth_is_a_point_on_the_walls_or_the_ball(world: World) -> None:
    T = look_at(np.array([-1.5, -0.8, 1.0]), np.array([1.0, 0.3, 1.3]), roll=0.1)
    view = world.render(T, 160, 120, 120.0)
    points = transform(T, unproject(view.depth.astype(np.float64), 120.0)).reshape(-1, 3)
    to_shell = np.minimum(np.abs(points - LOW), np.abs(points - HIGH)).min(axis=1)
    to_ball = np.abs(np.linalg.norm(points - BALL.center, axis=1) - BALL.radius)
    assert np.minimum(to_shell, to_ball).max() < 1e-4
    assert 100 < (to_ball < 1e-4).sum() < 5000
    # The ball hides what is behind it: no wall point within its outline as seen from the camera.
    ways = (points - T[:3, 3]) / np.linalg.norm(points - T[:3, 3], axis=1, keepdims=True)
    to_center = BALL.center - T[:3, 3]
    miss = np.linalg.norm(to_center - (ways @ to_center)[:, None] * ways, axis=1)
    assert (to_ball[miss < BALL.radius - 1e-3] < 1e-4).all()


def test_image_is_right_side_up_and_not_mirrored(world: World) -> None:
    T = look_at(np.array([-1.0, 0.0, 1.2]), np.array([2.0, 0.0, 1.2]))
    # The ball is at y = 0.2, to the left for who looks along x with z up, and above who looks from z = 0.6.
    row, column = np.argwhere(on_ball(world, T)).mean(0)
    assert column == pytest.approx(79.5 - 100 * 0.2 / 2, abs=1) and row == pytest.approx(59.5, abs=0.5)
    from_below = look_at(np.array([-1.0, 0.0, 0.6]), np.array([2.0, 0.0, 0.6]))
    row, column = np.argwhere(on_ball(world, from_below)).mean(0)
    assert row == pytest.approx(59.5 - 100 * 0.6 / 2, abs=2)


def test_supersampling_converges(world: World) -> None:
    T = look_at(np.array([-1.5, -0.8, 1.0]), np.array([1.0, 0.3, 1.3]))
    rough, usual, fine = (world.render(T, 80, 60, 60.0, supersample=s).image.astype(float) for s in (1, 2, 6))
    assert np.abs(usual - fine).mean() < 0.6 * np.abs(rough - fine).mean()
    assert np.array_equal(
        world.render(T, 80, 60, 60.0, supersample=1).depth, world.render(T, 80, 60, 60.0, supersample=3).depth
    )


def test_outside_of_the_world_there_is_nothing(world: World) -> None:
    view = world.render(look_at(np.array([9.0, 0, 1.2]), np.array([20.0, 0, 1.2])), 32, 24, 30.0)
    assert not view.depth.any() and not view.image.any()


@pytest.mark.parametrize("width, height, focal, supersample", [(0, 10, 5.0, 1), (10, 10, 0.0, 1), (10, 10, 5.0, 0)])
def test_impossible_cameras_are_refused(world: World, width: int, height: int, focal: float, supersample: int) -> None:
    with pytest.raises(InputError, match="positive"):
        world.render(np.eye(4), width, height, focal, supersample)


def test_somebody_stands_where_a_world_is_moved_to(world: World) -> None:
    """1.7 m high, before the wall; what was there is not moved."""
    view, place = look_at(np.array([-1.5, -1.0, 0.9]), np.array([1.5, -1.0, 0.9])), np.array([0.5, -1.0, 0.0])
    empty = world.render(view, 80, 90, 40.0).depth
    seen = together(world, person().shifted(place)).render(view, 80, 90, 40.0).depth
    nearer = seen < empty - 1e-4
    assert seen[nearer].min() == pytest.approx(2.0 - 0.24, abs=0.01)
    rows = np.flatnonzero(nearer.any(axis=1))
    assert (rows[-1] - rows[0] + 1) * 2.0 / 40.0 == pytest.approx(1.7, abs=0.3)
    assert np.array_equal(seen[~nearer], empty[~nearer])


def test_rooms_are_decided_by_their_seed() -> None:
    known, again, other = room(0), room.__wrapped__(0), room(3)
    assert known is not again and len(known.textures) == len(again.textures)
    for a, b in zip(known.textures, again.textures, strict=True):
        assert np.array_equal(a.levels[0], b.levels[0])
    T = look_at(np.array([-1.5, -1.0, 1.4]), np.array([0.5, 0.4, 0.9]))
    images = [w.render(T, 80, 60, 66.0).image for w in (known, again, other)]
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])
