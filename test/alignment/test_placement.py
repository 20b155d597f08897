"""The closed steps against brute force over the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from dust3r_ros.alignment.moments import retract
from dust3r_ros.alignment.placement import image_equations, move_images, place_pairs
from dust3r_ros.geometry.similarity import weighted_similarity
from dust3r_ros.types import Array

EYE = np.eye(4)[None]


def sums_of(X: Array, Y: Array, w: Array) -> tuple[Array, Array]:
    ones = np.ones((len(X), 1))
    x, y = np.hstack([X, ones]), np.hstack([Y, ones])
    return (w[:, None] * x).T @ y, w @ np.sum(X * X, axis=1)


def pair(seed: int) -> tuple[Array, Array, Array, Array]:
    """Points, their noisy images under a similarity, weights and that similarity."""
    rng = np.random.default_rng(seed)
    S = retract(EYE, np.r_[0.8 * rng.normal(size=3), rng.normal(size=3), 0.5][None])[0]
    X = rng.normal(size=(60, 3)) + np.array([0.0, 0.0, 4.0])
    Y = X @ S[:3, :3].T + S[:3, 3] + 0.05 * rng.normal(size=X.shape)
    return X, Y, rng.uniform(0, 2, len(X)), S


@pytest.mark.parametrize("seed", range(5))
def test_pairs_go_where_umeyama_puts_them_from_near(seed: int) -> None:
    X, Y, w, S = pair(seed)
    start = retract(S[None], 0.1 * np.random.default_rng(seed).normal(size=(1, 7)))
    sums, square = sums_of(X, Y, w)
    for _ in range(4):
        start = place_pairs(start, sums[None], np.array([square]), 0.0)
    np.testing.assert_allclose(start[0], weighted_similarity(X, Y, w).matrix, atol=1e-9)


def test_the_pull_is_that_of_the_log_scale() -> None:
    """The minimum of sum w |y - S x|^2 / 2 - pull log s, found by a general optimiser."""
    X, Y, w, S = pair(7)
    sums, square = sums_of(X, Y, w)
    placed = S[None]
    for _ in range(6):
        placed = place_pairs(placed, sums[None], np.array([square]), 12.0)

    def value(xi: Array) -> float:
        M = retract(placed, xi[None])[0]
        r = X @ M[:3, :3].T + M[:3, 3] - Y
        return float(w @ np.sum(r * r, axis=1) / 2 - 12.0 * np.log(np.cbrt(np.linalg.det(M[:3, :3]))))

    assert np.abs(minimize(value, np.zeros(7), method="BFGS", options={"gtol": 1e-7}).x).max() < 1e-5


def test_a_pair_without_weight_stays() -> None:
    X, Y, w, S = pair(1)
    sums, square = sums_of(X, Y, w)
    stacked = np.stack([0 * sums, sums])
    placed = place_pairs(np.stack([S, S]), stacked, np.array([0.0, square]), 1.0)
    np.testing.assert_array_equal(placed[0], S)
    assert not np.array_equal(placed[1], S)


def view(focal: float = 50.0) -> tuple[Array, Array, Array, Array]:
    """Pixels (2, P), depth (P,), weights (P,) and camera-frame points (3, P) of a small image."""
    rng = np.random.default_rng(0)
    pixels = np.stack(np.meshgrid(np.arange(-16.0, 17, 4), np.arange(-12.0, 13, 4))).reshape(2, -1)
    depth = rng.uniform(2, 5, pixels.shape[1])
    return pixels, depth, rng.uniform(0.5, 2, len(depth)), np.stack([*(pixels / focal * depth), depth])


def settled(mean: Array, weights: Array, pixels: Array, focal: float, shared: int = 1) -> tuple[Array, Array]:
    """Poses and focals of ``shared`` equal images after a few steps towards world points ``mean`` (3, P)."""
    w_T_c, f = np.tile(np.eye(4), (shared, 1, 1)), np.full(shared, focal)
    held = np.zeros(shared, bool)
    for _ in range(8):
        equations = []
        for T, focal_now in zip(w_T_c, f, strict=True):
            seen = T[:3, :3].T @ (mean - T[:3, 3:])
            slopes = pixels / focal_now
            best = (slopes[0] * seen[0] + slopes[1] * seen[1] + seen[2]) / (1 + np.sum(slopes**2, axis=0))
            arrays = (weights[None], seen[None], slopes[None], best[None])
            equations.append(image_equations(*(a.astype(np.float32) for a in arrays))[0])
        w_T_c, f = move_images(w_T_c, f, np.stack(equations), np.zeros(shared, int), held, held)
    return w_T_c, f


def test_an_image_goes_under_its_points() -> None:
    pixels, _, weights, X = view()
    R, t = Rotation.from_rotvec([0.05, -0.08, 0.1]).as_matrix(), np.array([0.2, -0.1, 0.3])
    w_T_c, focal = settled(R @ X + t[:, None], weights, pixels, focal=54.0, shared=2)
    for T in w_T_c:
        np.testing.assert_allclose(T[:3, :3], R, atol=1e-5)
        np.testing.assert_allclose(T[:3, 3], t, atol=1e-4)
    np.testing.assert_allclose(focal, 50.0, rtol=1e-5)


def test_an_images_step_ends_at_the_minimum_over_depth_pose_and_focal() -> None:
    """Of sum w |mean - (pose)(depth * ray)|^2, with noise, where depth is free: found by a general optimiser."""
    pixels, _, weights, X = view()
    mean = X + 0.05 * np.random.default_rng(1).normal(size=X.shape)
    w_T_c, focal = settled(mean, weights, pixels, focal=50.0)

    def value(xi: Array) -> float:
        T = w_T_c[0] @ retract(EYE, np.r_[xi[:6], 0.0][None])[0]
        seen = T[:3, :3].T @ (mean - T[:3, 3:])
        ray = np.vstack([pixels / (focal[0] * np.exp(xi[6])), np.ones(pixels.shape[1])])
        ray /= np.linalg.norm(ray, axis=0)
        return float(weights @ (np.sum(seen**2, axis=0) - np.sum(seen * ray, axis=0) ** 2))

    found = minimize(value, np.zeros(7), method="BFGS", options={"gtol": 1e-8})
    assert np.abs(found.x).max() < 2e-4 and value(np.zeros(7)) < found.fun * (1 + 1e-5)


def test_what_is_held_stays() -> None:
    rng = np.random.default_rng(2)
    J = rng.normal(size=(3, 20, 7))
    equations = np.concatenate([np.swapaxes(J, 1, 2) @ J, rng.normal(size=(3, 7, 1))], axis=2)
    w_T_c, focals = np.tile(np.eye(4), (3, 1, 1)), np.array([40.0, 50.0, 60.0])
    pose, focal = np.array([True, False, False]), np.array([False, True, False])
    moved, found = move_images(w_T_c, focals, equations, np.arange(3), pose, focal)
    assert [np.array_equal(a, b) for a, b in zip(moved, w_T_c, strict=True)] == [True, False, False]
    assert (found == focals).tolist() == [False, True, False]
    # a held pose leaves the focal its own best step
    assert found[0] == pytest.approx(
        40.0 * np.exp(np.clip(equations[0, 6, 7] / equations[0, 6, 6], -0.3, 0.3)), rel=1e-6
    )
