"""The focal of a camera whose motion is known, from matches alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.essential import focal_from_motion, sampson
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import pose, transform
from dust3r_ros.types import Array

TURNED = pose(Rotation.from_euler("yx", [12, 3], degrees=True).as_matrix(), [0.2, 0.0, 0.05])


def matches(focal: float, b_T_a: Array, noise: float = 0.0, wrong: float = 0.0) -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    points = rng.uniform([-2, -1.5, 2], [2, 1.5, 6], (400, 3))
    a, b = project(points, focal, (0.0, 0.0)), project(transform(b_T_a, points), focal, (0.0, 0.0))
    b = b + rng.normal(0, noise, b.shape)
    b[: int(wrong * len(b))] += rng.uniform(-80, 80, (int(wrong * len(b)), 2))
    return a, b


@pytest.mark.parametrize("focal", [320.0, 520.0, 1300.0])
def test_a_turn_tells_it(focal: float) -> None:
    a, b = matches(focal, TURNED, noise=0.3, wrong=0.2)
    found = focal_from_motion(a, b, TURNED, 640, threshold_px=3.0)
    assert found.focal == pytest.approx(focal, rel=0.02) and found.std < 0.06 and 0.75 < found.share < 0.9


def test_without_noise_it_is_exact() -> None:
    a, b = matches(520.0, TURNED)
    found = focal_from_motion(a, b, TURNED, 640, threshold_px=3.0, motion_px=0.0)
    assert found.focal == pytest.approx(520.0, rel=1e-6) and found.std < 1e-6 and found.share == 1.0
    np.testing.assert_allclose(sampson(a, b, TURNED, 520.0), 0.0, atol=1e-9)


def test_going_straight_ahead_tells_nothing() -> None:
    """Points move away from the middle, whatever the focal."""
    ahead = pose(np.eye(3), [0.0, 0.0, -0.3])
    a, b = matches(520.0, ahead, noise=0.3)
    assert focal_from_motion(a, b, ahead, 640, threshold_px=3.0).std > 0.3


def test_sideways_with_a_wrong_motion_does_not_fit() -> None:
    a, b = matches(520.0, TURNED, noise=0.3)
    wrong = TURNED @ pose(Rotation.from_euler("x", 8, degrees=True).as_matrix(), [0.0, 0.3, 0.0])
    assert focal_from_motion(a, b, wrong, 640, threshold_px=3.0).share < 0.7


def test_what_cannot_be_told_is_refused() -> None:
    a, b = matches(520.0, TURNED)
    with pytest.raises(GeometryError, match="20 matches, not 5"):
        focal_from_motion(a[:5], b[:5], TURNED, 640, threshold_px=3.0)
    with pytest.raises(GeometryError, match="has no translation"):
        focal_from_motion(a, b, pose(TURNED[:3, :3], [0, 0, 0]), 640, threshold_px=3.0)
