"""geometry/essential.py: views that only turned are told from views that moved."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.geometry.essential import turning_error
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.types import Array


def offsets(focal: float, rotation: Array, translation: Array, noise: float) -> tuple[Array, Array]:
    rng = np.random.default_rng(3)
    points = np.stack([rng.uniform(-2, 2, 400), rng.uniform(-1.5, 1.5, 400), rng.uniform(2, 6, 400)], axis=1)
    a = project(points, focal, (0.0, 0.0))
    b = project(points @ rotation.T + translation, focal, (0.0, 0.0))
    return a + noise * rng.standard_normal(a.shape), b + noise * rng.standard_normal(b.shape)


@pytest.mark.parametrize("focal", [260.0, 530.0, 1500.0])
@pytest.mark.parametrize("degrees", [2.0, 12.0])
def test_turning_leaves_the_noise(focal: float, degrees: float) -> None:
    rotation = Rotation.from_euler("yx", [degrees, 0.3 * degrees], degrees=True).as_matrix()
    a, b = offsets(focal, rotation, np.zeros(3), 0.3)
    assert turning_error(a, b, 250.0, 2500.0) < 1.0


def test_turning_about_a_principal_point_off_the_centre() -> None:
    """With a lens that bends straight lines, too; what looks like two pixels of parallax is none."""
    rotation = Rotation.from_euler("yx", [12.0, 3.0], degrees=True).as_matrix()
    a, b = offsets(600.0, rotation, np.zeros(3), 0.15)
    shown = np.all(np.abs(a) < 280.0, axis=1) & np.all(np.abs(b) < 280.0, axis=1)
    a, b = (
        seen * (1.0 - 0.05 * np.sum(seen**2, axis=1, keepdims=True) / 320.0**2) + [-24.0, 12.0]
        for seen in (a[shown], b[shown])
    )
    assert len(a) > 100 and turning_error(a, b, 250.0, 2500.0) < 1.0


@pytest.mark.parametrize("direction", [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.6, 0.3, 0.5]])
def test_moving_leaves_parallax(direction: list[float]) -> None:
    rotation = Rotation.from_euler("y", 4.0, degrees=True).as_matrix()
    a, b = offsets(530.0, rotation, 0.3 * np.array(direction), 0.3)
    assert turning_error(a, b, 250.0, 2500.0) > 3.0


@pytest.mark.parametrize("step", [0.4, 0.8])
def test_above_a_plane_a_known_focal_tells_a_step_from_a_turn(step: float) -> None:
    """A drone that looks straight down: with a longer focal, and a lens that bends, a turn looks alike."""
    rng = np.random.default_rng(5)
    plane = np.stack([rng.uniform(-2.4, 2.4, 400), rng.uniform(-1.8, 1.8, 400), np.full(400, 4.0)], axis=1)
    a, b = project(plane, 500.0, (0.0, 0.0)), project(plane + np.array([step, 0.0, 0.0]), 500.0, (0.0, 0.0))
    a, b = a + 0.1 * rng.standard_normal(a.shape), b + 0.1 * rng.standard_normal(b.shape)
    assert turning_error(a, b, 0.4 * 640.0, 4.0 * 640.0) < 0.5 * turning_error(a, b, 490.0, 510.0)
    assert turning_error(a, b, 490.0, 510.0) > 1.0
    turn = Rotation.from_euler("y", np.arctan(step / 4.0)).as_matrix()
    assert turning_error(a, project(plane @ turn.T, 500.0, (0.0, 0.0)), 490.0, 510.0) < 0.5


def test_wrong_matches_do_not_hide_turning() -> None:
    rotation = Rotation.from_euler("y", 6.0, degrees=True).as_matrix()
    a, b = offsets(530.0, rotation, np.zeros(3), 0.3)
    b[:60] += np.random.default_rng(0).uniform(-80, 80, (60, 2))
    assert turning_error(a, b, 250.0, 2500.0) < 1.5


def test_too_few_to_tell() -> None:
    assert turning_error(np.zeros((2, 2)), np.zeros((2, 2)), 250.0, 2500.0) == float("inf")
