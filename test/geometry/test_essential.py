"""Relative poses by the compiled loops and without them; the focal of a camera whose motion is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry import essential
from dust3r_ros.geometry.essential import focal_from_motion, sampson
from dust3r_ros.geometry.pinhole import project, rays
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
    assert found.focal == pytest.approx(focal, rel=0.02) and found.std < 0.06


def test_without_noise_it_is_exact() -> None:
    a, b = matches(520.0, TURNED)
    found = focal_from_motion(a, b, TURNED, 640, threshold_px=3.0, motion_px=0.0)
    assert found.focal == pytest.approx(520.0, rel=1e-6) and found.std < 1e-6
    np.testing.assert_allclose(sampson(a, b, TURNED, 520.0), 0.0, atol=1e-9)


def test_going_straight_ahead_tells_nothing() -> None:
    """Points move away from the middle, whatever the focal."""
    ahead = pose(np.eye(3), [0.0, 0.0, -0.3])
    a, b = matches(520.0, ahead, noise=0.3)
    assert focal_from_motion(a, b, ahead, 640, threshold_px=3.0).std > 0.3


def test_sideways_with_a_wrong_motion_does_not_fit() -> None:
    a, b = matches(520.0, TURNED, noise=0.3)
    wrong = TURNED @ pose(Rotation.from_euler("x", 8, degrees=True).as_matrix(), [0.0, 0.3, 0.0])
    found = focal_from_motion(a, b, wrong, 640, threshold_px=3.0)
    assert np.mean(np.abs(sampson(a, b, wrong, found.focal)) < 3.0) < 0.7


def test_what_cannot_be_told_is_refused() -> None:
    a, b = matches(520.0, TURNED)
    with pytest.raises(GeometryError, match="20 matches, not 5"):
        focal_from_motion(a[:5], b[:5], TURNED, 640, threshold_px=3.0)
    with pytest.raises(GeometryError, match="has no translation"):
        focal_from_motion(a, b, pose(TURNED[:3, :3], [0, 0, 0]), 640, threshold_px=3.0)


def two_views(seed: int, wrong: float) -> tuple[Array, Array, Array]:
    """Rays of 260 matches, to a quarter of a pixel at a focal of 520, some of them wrong; the motion."""
    rng = np.random.default_rng(seed)
    turn = Rotation.from_euler("yx", rng.normal(0, 6, 2), degrees=True).as_matrix()
    b_T_a, points = pose(turn, rng.normal(0, 0.2, 3)), rng.uniform([-2, -1.5, 2], [2, 1.5, 6], (260, 3))
    a, b = project(points, 520.0, (0.0, 0.0)), project(transform(b_T_a, points), 520.0, (0.0, 0.0))
    b = b + rng.normal(0, 0.25, b.shape)
    bad = rng.permutation(len(b))[: int(wrong * len(b))]
    b[bad] += rng.uniform(-60, 60, (len(bad), 2))
    b_T_a[:3, 3] /= np.linalg.norm(b_T_a[:3, 3])
    return rays(a, 520.0, (0.0, 0.0)), rays(b, 520.0, (0.0, 0.0)), b_T_a


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold_px", [0.3, 1.0])
def test_the_compiled_search_finds_the_motion(seed: int, threshold_px: float) -> None:
    assert essential.LIBRARY is not None
    a, b, b_T_a = two_views(seed, wrong=0.4)
    found, inliers = essential._searched(a, b, threshold_px / 520.0, 1000)
    _, plain = essential._ransac(a, b, threshold_px / 520.0, 1000)
    assert inliers.sum() >= 0.95 * plain.sum()
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-9)
    turn = Rotation.from_matrix(found[:3, :3].T @ b_T_a[:3, :3]).magnitude()
    assert np.degrees(turn) < 0.3 and np.degrees(np.arccos(found[:3, 3] @ b_T_a[:3, 3])) < 2.0
    again, _ = essential._searched(a, b, threshold_px / 520.0, 1000)
    np.testing.assert_array_equal(found, again)


def test_five_matches_are_enough_for_the_compiled_search() -> None:
    """Without noise, one of the solutions is the motion."""
    rng = np.random.default_rng(2)
    points = rng.uniform([-2, -1.5, 2], [2, 1.5, 6], (200, 3))
    a, b = (rays(project(p, 520.0, (0.0, 0.0)), 520.0, (0.0, 0.0)) for p in (points, transform(TURNED, points)))
    found, inliers = essential._searched(a, b, 1e-4, 1)
    assert inliers.all()
    np.testing.assert_allclose(found[:3, :3], TURNED[:3, :3], atol=1e-9)
    np.testing.assert_allclose(found[:3, 3], TURNED[:3, 3] / np.linalg.norm(TURNED[:3, 3]), atol=1e-9)


@pytest.mark.parametrize("count", [0, 4])
def test_the_compiled_search_finds_nothing_in_too_few(count: int) -> None:
    few = np.insert(np.random.default_rng(0).normal(size=(count, 2)), 2, 1.0, axis=1)
    assert not essential._searched(few, few, 1e-3, 100)[1].any()


@pytest.mark.parametrize("seed", range(3))
def test_a_compiler_changes_nothing_in_the_refinement(seed: int) -> None:
    assert essential.LIBRARY is not None
    a, b, b_T_a = two_views(seed, wrong=0.1)
    start = pose(Rotation.from_euler("xyz", [0.5, -0.5, 0.3], degrees=True).as_matrix(), [0, 0, 0]) @ b_T_a
    compiled, plain = (refine(start, a, b, 520.0) for refine in (essential._refined, essential._plainly_refined))
    np.testing.assert_allclose(compiled, plain, atol=1e-9)
    assert np.abs(compiled - start).max() > 1e-3
