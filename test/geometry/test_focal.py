from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.focal import estimate_focal, pooled_focal, reference_focal
from dust3r_ros.geometry.pinhole import pixel_grid, rays, unproject


def room(focal: float, seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    return unproject(np.random.default_rng(seed).uniform(1, 5, (height, width)), focal)


@pytest.mark.parametrize("index", [0, 1])
def test_reference(reference: dict[str, np.ndarray], index: int) -> None:
    points, center = reference["focal_pts"][index], tuple(reference["focal_pp"][index])
    assert estimate_focal(points, center=center) == pytest.approx(reference["focal_weiszfeld"][index], rel=1e-6)
    # the reference adds noise to the points, which shrinks focals
    assert estimate_focal(points, center=center) == pytest.approx(reference["focal_true"][index], rel=0.04)


def test_reference_off_centre(reference: dict[str, np.ndarray]) -> None:
    points, center = reference["focal_offcentre_pts"][0], tuple(reference["focal_offcentre_pp"][0])
    found = estimate_focal(points, center=center)
    assert found == pytest.approx(reference["focal_offcentre_weiszfeld"][0], rel=1e-6)
    assert found == pytest.approx(reference["focal_offcentre_true"][0], rel=0.01)


def test_reference_with_bad_depth(reference: dict[str, np.ndarray]) -> None:
    points = reference["focal_badz_pts"][0]
    assert np.sum(points[..., 2] <= 0) > 100
    assert estimate_focal(points, center=(32, 24)) == pytest.approx(reference["focal_badz_weiszfeld"][0], rel=1e-6)


def test_reference_clipping(reference: dict[str, np.ndarray]) -> None:
    for truth, expected in zip(reference["focal_clip_true"], reference["focal_clip_min0.5_max3.5"], strict=True):
        # clipped values are exact; the one between carries the noise of points the reference does not keep
        rel = 1e-6 if expected != pytest.approx(truth, rel=0.01) else 1e-3
        assert estimate_focal(room(truth), limits=(0.5, 3.5)) == pytest.approx(expected, rel=rel)


@given(
    focal=st.floats(20, 500), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99),
    height=st.integers(2, 40), width=st.integers(2, 40),
)  # fmt: skip
def test_known_truth_at_any_scale(focal, scale, seed, height, width) -> None:
    assert estimate_focal(scale * room(focal, seed, height, width), limits=None) == pytest.approx(focal, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_misplaced_points_matter_less_than_to_least_squares(seed: int) -> None:
    """One pixel in five shows the point of another pixel."""
    rng = np.random.default_rng(seed)
    points = room(70.0).reshape(-1, 3)
    wrong = rng.choice(len(points), len(points) // 5, replace=False)
    points[wrong] = points[rng.permutation(wrong)]
    points = points.reshape(48, 64, 3)
    assert estimate_focal(points) == pytest.approx(70, rel=0.03)
    assert estimate_focal(points, iterations=0) < 0.9 * 70


def test_confidence_weighs() -> None:
    good, bad = room(60.0), room(90.0)
    mixed = np.where(pixel_grid(48, 64)[..., :1] < 32, good, bad)
    left = pixel_grid(48, 64)[..., 0] < 32
    assert estimate_focal(mixed, np.where(left, 20.0, 1.0)) == pytest.approx(60)
    assert estimate_focal(mixed, np.where(left, 1.0, 20.0)) == pytest.approx(90)
    assert 60 < estimate_focal(mixed) < 90


def test_pixels_that_are_not_finite_do_not_count() -> None:
    points = room(60.0)
    points[:10] = np.nan
    points[10:20] = np.inf
    points[20:25] = 0.0
    assert estimate_focal(points) == pytest.approx(60)


@pytest.mark.parametrize(
    ("points", "confidence", "named"),
    [
        (np.zeros((4, 6, 3)), None, "none of 24 pixels"),
        (np.full((4, 6, 3), np.nan), None, "none of 24 pixels"),
        (room(60.0), np.ones((48, 64)), "none of 3072 pixels"),
        (room(60.0), np.full((48, 64), np.nan), "none of 3072 pixels"),
        (room(60.0) * [-1, -1, 1], None, "must be positive"),
        (np.zeros((0, 6, 3)), None, r"\(0, 6, 3\)"),
        (room(60.0), np.ones((4, 4)), r"\(4, 4\)"),
    ],
)
def test_no_focal_is_named(points, confidence, named: str) -> None:
    with pytest.raises(GeometryError, match=named):
        estimate_focal(points, confidence)


def test_one_pixel_on_the_axis_tells_nothing() -> None:
    with pytest.raises(GeometryError, match="none of 1 pixels"):
        estimate_focal(np.array([[[0.0, 0.0, 2.0]]]))


def test_reference_focal_spans_sixty_degrees() -> None:
    edge = rays(np.array([[64.0, 0.0]]), reference_focal(48, 64), (32.0, 0.0))[0]
    assert math.degrees(math.atan(edge[0])) == pytest.approx(30)


@given(st.lists(st.floats(10, 1000), min_size=2, max_size=20), st.floats(0.01, 100), st.floats(0.1, 10))
def test_pooled_focal_scales_with_the_focals_and_not_the_weights(focals, factor: float, weight: float) -> None:
    weights = np.linspace(1, 2, len(focals))
    focal, std = pooled_focal(focals, weights)
    assert min(focals) * (1 - 1e-9) <= focal <= max(focals) * (1 + 1e-9)
    scaled, scaled_std = pooled_focal(factor * np.asarray(focals), weight * weights)
    assert scaled == pytest.approx(factor * focal)
    assert scaled_std == pytest.approx(factor * std, abs=1e-6 * scaled)


def test_pooled_deviation_is_that_of_the_mean() -> None:
    """Over many cameras of 20 images, the error of the pooled focal is as large as it says."""
    rng = np.random.default_rng(2)
    errors, claimed = [], []
    for _ in range(500):
        focal, std = pooled_focal(100 * np.exp(rng.normal(scale=0.05, size=20)), rng.uniform(0.5, 2, 20))
        errors.append(focal - 100)
        claimed.append(std)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.sqrt(np.mean(np.square(claimed))), rel=0.1)


def test_neighbours_that_are_off_alike_count_as_one() -> None:
    """Over many cameras of 100 images, of which five in a row have an error in common."""
    rng, errors, claimed = np.random.default_rng(3), [], []
    for _ in range(500):
        focal, std = pooled_focal(100 * np.exp(np.repeat(rng.normal(scale=0.05, size=20), 5)), np.ones(100))
        errors.append(focal - 100)
        claimed.append(std)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.sqrt(np.mean(np.square(claimed))), rel=0.1)


def test_pooled_focal_of_one_image_is_uncertain() -> None:
    assert pooled_focal([70.0, np.nan, 80.0, -3.0], [1.0, 1.0, 0.0, 1.0]) == (pytest.approx(70.0), math.inf)


def test_pooled_focal_of_nothing_is_named() -> None:
    with pytest.raises(GeometryError, match="None of 2 focals"):
        pooled_focal([70.0, 80.0], [0.0, np.nan])
    with pytest.raises(GeometryError, match="2 focals need as many weights"):
        pooled_focal([70.0, 80.0], [1.0])
