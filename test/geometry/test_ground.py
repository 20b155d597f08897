"""The ground is found under tables, tilt, noise and stray points, and never invented above what is seen."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.ground import Ground, find_ground, level_ground

EYE = np.array([0.0, 0.0, 1.2])


def plate(rng: np.random.Generator, count: int, size: tuple[float, float], z: float, noise: float) -> np.ndarray:
    """(count, 3) points of a level rectangle in front of the camera."""
    points = np.zeros((count, 3))
    points[:, 0] = 1.0 + size[0] * rng.random(count)
    points[:, 1] = size[1] * (rng.random(count) - 0.5)
    points[:, 2] = z + noise * rng.standard_normal(count)
    return points


def furnished(seed: int, noise: float = 0.01) -> np.ndarray:
    """A floor, a table larger than the seen floor, and a wall."""
    rng = np.random.default_rng(seed)
    wall = plate(rng, 1500, (0.0, 4.0), 0.0, noise)
    wall[:, 0] = 4.0 + noise * rng.standard_normal(1500)
    wall[:, 2] = 2.5 * rng.random(1500)
    floor, table = plate(rng, 400, (3.0, 4.0), 0.0, noise), plate(rng, 900, (1.0, 1.0), 0.7, noise)
    return np.concatenate([floor, table, wall])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tilt_deg", [0.0, 12.0, 28.0])
@pytest.mark.parametrize("scale", [1.0, 0.05, 40.0])
def test_the_floor_is_found_below_a_larger_table(seed: int, tilt_deg: float, scale: float) -> None:
    turn = Rotation.from_rotvec(np.radians(tilt_deg) * np.array([0.6, 0.8, 0.0])).as_matrix()
    points = furnished(seed)
    ground = find_ground(scale * points @ turn.T, np.broadcast_to(scale * turn @ EYE, points.shape))
    assert np.degrees(np.arccos(ground.normal @ turn[:, 2])) < 1.0
    assert ground.tilt_deg == pytest.approx(tilt_deg, abs=1.0)
    assert ground.height(scale * turn @ EYE) == pytest.approx(1.2 * scale, abs=0.02 * scale)
    on_table = scale * turn @ np.array([1.5, 0.2, 0.7])
    assert ground.height(on_table) == pytest.approx(0.7 * scale, abs=0.02 * scale)
    on_floor = scale * turn @ np.array([1.5, 0.2, 0.0])
    assert np.allclose(ground.drop(on_table), ground.drop(on_floor), atol=0.03 * scale)


def test_a_few_points_below_do_not_pull_it_down() -> None:
    points = furnished(0)
    stray = np.random.default_rng(9).uniform([1, -2, -3], [4, 2, -0.3], (50, 3))
    both = np.concatenate([points, stray, [[np.nan, 0, 0], [0, np.inf, 0]]])
    assert find_ground(both, np.broadcast_to(EYE, both.shape)).height(EYE) == pytest.approx(1.2, abs=0.02)


def test_without_a_plane_it_lies_below_nearly_everything() -> None:
    points = np.random.default_rng(1).uniform([1, -2, 0], [5, 2, 2], (2000, 3)) ** 1.0
    points[:, 2] = np.random.default_rng(2).normal(1.0, 3.0, 2000)
    ground = find_ground(points, np.broadcast_to(EYE, points.shape))
    assert (ground.height(points) < 0).mean() == pytest.approx(0.03, abs=0.005)
    assert ground.normal[2] > 0.8


def test_the_same_points_give_the_same_ground() -> None:
    points = furnished(3)
    first, second = (find_ground(points, np.broadcast_to(EYE, points.shape)) for _ in range(2))
    assert np.array_equal(first.normal, second.normal) and first.offset == second.offset


def test_a_given_height_needs_no_points() -> None:
    ground = level_ground(np.array([[0, 0, 1.0], [3, 1, 1.1], [5, 5, 9.0]]), 0.4)
    assert isinstance(ground, Ground) and ground.height(np.array([7.0, 8.0, 0.7])) == pytest.approx(0.0)


def test_too_little_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"from 19 points; at least 20"):
        find_ground(np.zeros((19, 3)), np.ones((19, 3)))
    with pytest.raises(GeometryError, match=r"camera height is -0\.1"):
        level_ground(np.zeros((2, 3)), -0.1)
    with pytest.raises(GeometryError, match="at least one"):
        level_ground(np.zeros((0, 3)), 1.0)
