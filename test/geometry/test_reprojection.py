"""Poses from reprojection errors: what is minimised, by the compiled loops and without them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry import reprojection
from dust3r_ros.geometry.reprojection import minimise, settle
from dust3r_ros.geometry.rigid import pose, transform
from dust3r_ros.types import Array

FOCAL = 530.0


def moved(c_T_w: Array, turn: float, shift: float) -> Array:
    return pose(cv2.Rodrigues(np.array([turn, -turn, turn]))[0], np.array([shift, shift, -shift])) @ c_T_w


def matches(seed: int, count: int, wrong: int, center: tuple[float, float]) -> tuple[Array, Array, Array]:
    """Points, where a camera sees them to half a pixel, some anywhere, and the camera."""
    rng = np.random.default_rng(seed)
    points, c_T_w = rng.uniform([-2, -1.5, 2], [2, 1.5, 6], (count, 3)), moved(np.eye(4), 0.1, 0.2)
    seen = transform(c_T_w, points)
    pixels = FOCAL * seen[:, :2] / seen[:, 2:] + center + rng.normal(0, 0.5, (count, 2))
    pixels[:wrong] += rng.normal(0, 20.0, (wrong, 2))
    return points, pixels, c_T_w


@pytest.mark.parametrize("free_focal", [False, True])
@pytest.mark.parametrize("count", [6, 41, 400])
def test_a_compiler_changes_nothing(count: int, free_focal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reprojection.LIBRARY is not None
    points, pixels, c_T_w = matches(count, count, count // 5, (3.0, -2.0))
    start = moved(c_T_w, 0.01, 0.02), FOCAL * (0.95 if free_focal else 1.0), (3.0, -2.0), free_focal
    compiled = minimise(points, pixels, *start)
    monkeypatch.setattr(reprojection, "LIBRARY", None)
    plain = minimise(points, pixels, *start)
    np.testing.assert_allclose(compiled[0], plain[0], atol=1e-7)
    assert compiled[1] == pytest.approx(plain[1], rel=1e-7)
    assert free_focal or compiled[1] == FOCAL


@pytest.mark.parametrize("compiled", [True, False])
def test_exact_pixels_count_more_than_rough_ones(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(reprojection, "LIBRARY", None)
    points, pixels, c_T_w = matches(3, 200, 0, (0.0, 0.0))
    exact = np.arange(200) % 4 == 0
    seen = transform(c_T_w, points)
    pixels[exact] = FOCAL * seen[exact, :2] / seen[exact, 2:] + np.random.default_rng(0).normal(0, 0.02, (50, 2))
    given = points, pixels, moved(c_T_w, 0.01, 0.02), FOCAL, (0.0, 0.0), False
    alike, weighed = (minimise(*given, std)[0] for std in (None, np.where(exact, 0.02, 0.5)))
    assert np.abs(weighed - c_T_w).max() < 0.2 * np.abs(alike - c_T_w).max()
    tenfold = minimise(*given, np.where(exact, 0.2, 5.0))[0]
    np.testing.assert_allclose(tenfold, weighed, atol=1e-6, err_msg="relative to each other")
    if compiled:
        monkeypatch.setattr(reprojection, "LIBRARY", None)
        np.testing.assert_allclose(minimise(*given, np.where(exact, 0.02, 0.5))[0], weighed, atol=1e-7)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_pose_settles_on_most_matches(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(reprojection, "LIBRARY", None)
    points, pixels, c_T_w = matches(0, 300, 60, (0.0, 0.0))
    start = moved(c_T_w, 0.003, 0.005)
    kept = start.copy()
    settled = settle(points, pixels, start, FOCAL, (16.0, 4.0), 150)
    np.testing.assert_array_equal(start, kept)
    np.testing.assert_allclose(settled, c_T_w, atol=2e-3)
    within = np.linalg.norm(pixels - FOCAL * (seen := transform(settled, points))[:, :2] / seen[:, 2:], axis=1) < 4.0
    best, _ = minimise(points[within], pixels[within], settled, FOCAL, (0.0, 0.0), False)
    np.testing.assert_allclose(settled, best, atol=2e-4)
    with pytest.raises(GeometryError, match="fits 290 of 300"):
        settle(points, pixels, start, FOCAL, (16.0, 4.0), 290)
    with pytest.raises(GeometryError, match="better guess"):
        settle(points, pixels, moved(c_T_w, 0.3, 1.0), FOCAL, (16.0, 4.0), 150)


@pytest.mark.parametrize("compiled", [True, False])
def test_points_on_a_line_leave_the_pose_free(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(reprojection, "LIBRARY", None)
    points = np.array([0.0, 0.0, 3.0]) + np.linspace(-1, 1, 50)[:, None] * np.array([1.0, 0.5, 0.2])
    pixels = FOCAL * points[:, :2] / points[:, 2:]
    with pytest.raises(GeometryError, match="leave the pose free"):
        minimise(points, pixels, np.eye(4), FOCAL, (0.0, 0.0), False)
    if compiled:
        with pytest.raises(GeometryError, match="0 matches leave the pose free"):
            minimise(points[:0], pixels[:0], np.eye(4), FOCAL, (0.0, 0.0), False)
