from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.essential import essential_pose
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import angle_deg, invert, pose, transform

CAMERAS = (300.0, 280.0, (160.0, 120.0), (150.0, 110.0))


def matches(
    seed: int, translation: tuple[float, float, float], noise: float = 0.0, outliers: float = 0.0, count: int = 400
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels in both cameras and a_T_b; the first share of the matches are outliers."""
    rng = np.random.default_rng(seed)
    points = rng.uniform([-3, -2, 4], [3, 2, 9], (count, 3))
    a_T_b = pose(Rotation.from_rotvec(rng.normal(scale=0.08, size=3)).as_matrix(), translation)
    a = project(points, CAMERAS[0], CAMERAS[2])
    b = project(transform(invert(a_T_b), points), CAMERAS[1], CAMERAS[3])
    a, b = (pixels + rng.normal(scale=noise, size=pixels.shape) for pixels in (a, b))
    wrong = int(outliers * count)
    b[:wrong] = rng.uniform([0, 0], [320, 240], (wrong, 2))
    return a, b, a_T_b


def angle_between(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


directions = st.sampled_from([(0.6, 0.1, 0.0), (-0.5, 0.2, 0.1), (0.0, 0.0, 0.8), (0.0, -0.6, 0.2), (0.2, 0.2, -0.6)])


@given(st.integers(0, 2**32 - 1), directions)
def test_exact_matches_give_the_exact_pose(seed: int, translation: tuple[float, float, float]) -> None:
    a, b, truth = matches(seed, translation, count=100)
    found, inliers = essential_pose(a, b, *CAMERAS)
    assert inliers.all()
    assert np.linalg.norm(found[:3, 3]) == pytest.approx(1.0)
    assert angle_deg(found[:3, :3].T @ truth[:3, :3]) < 1e-3
    assert angle_between(found[:3, 3], truth[:3, 3]) < 1e-2


@given(st.integers(0, 2**32 - 1), directions)
def test_a_third_of_outliers(seed: int, translation: tuple[float, float, float]) -> None:
    a, b, truth = matches(seed, translation, noise=0.3, outliers=0.33)
    found, inliers = essential_pose(a, b, *CAMERAS)
    assert angle_deg(found[:3, :3].T @ truth[:3, :3]) < 0.3
    assert angle_between(found[:3, 3], truth[:3, 3]) < 3.0
    assert inliers[132:].mean() > 0.95 and inliers[:132].mean() < 0.1


def test_swapping_the_views_inverts_the_pose() -> None:
    a, b, _ = matches(1, (0.6, 0.1, 0.0), noise=0.2)
    forth, _ = essential_pose(a, b, *CAMERAS)
    back, _ = essential_pose(b, a, CAMERAS[1], CAMERAS[0], CAMERAS[3], CAMERAS[2])
    np.testing.assert_allclose(invert(back), forth, atol=2e-3)


def test_more_matches_are_nearer() -> None:
    def error(count: int) -> float:
        errors = []
        for seed in range(15):
            a, b, truth = matches(seed, (0.6, 0.1, 0.0), noise=0.5, count=count)
            errors.append(angle_deg(essential_pose(a, b, *CAMERAS)[0][:3, :3].T @ truth[:3, :3]))
        return float(np.sqrt(np.mean(np.square(errors))))

    assert error(60) > 2.5 * error(1500)


def test_same_seed_same_result() -> None:
    a, b, _ = matches(2, (0.6, 0.1, 0.0), noise=0.5, outliers=0.3, count=3000)
    first, second = (essential_pose(a, b, *CAMERAS, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_matches_that_are_not_finite_are_no_inliers() -> None:
    a, b, _ = matches(3, (0.6, 0.1, 0.0))
    a[4], b[9, 0] = np.nan, np.inf
    assert np.flatnonzero(~essential_pose(a, b, *CAMERAS)[1]).tolist() == [4, 9]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("outliers", [0.0, 0.2])
def test_turning_alone_has_no_direction(seed: int, outliers: float) -> None:
    a, b, _ = matches(seed, (0.0, 0.0, 0.0), noise=0.3, outliers=outliers)
    with pytest.raises(GeometryError, match="parallax"):
        essential_pose(a, b, *CAMERAS)


def test_too_little_is_named() -> None:
    a, b, _ = matches(4, (0.6, 0.1, 0.0))
    with pytest.raises(GeometryError, match="at least 15 finite matches, not 9 of 9"):
        essential_pose(a[:9], b[:9], *CAMERAS)
    with pytest.raises(GeometryError, match=r"\(400, 2\) and \(399, 2\)"):
        essential_pose(a, b[1:], *CAMERAS)
    with pytest.raises(GeometryError, match="of 400 matches within 1 px"):
        essential_pose(a, np.random.default_rng(0).permutation(b), *CAMERAS, min_inliers=100)
    with pytest.raises(GeometryError):
        essential_pose(np.full((40, 2), 7.0), np.full((40, 2), 9.0), *CAMERAS)
