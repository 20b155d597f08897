"""Sweeps go down, end where small motions do not help, keep what is held; momentum and the gauge of soft poses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pairs import PairProblem, pair_problem
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from dust3r_ros.alignment.batch.global_start import global_start
from dust3r_ros.alignment.batch.pixel_block import PixelBlock, observations_of, plan_blocks
from dust3r_ros.alignment.batch.priors import gauge, pose_residuals
from dust3r_ros.alignment.batch.problem import AlignmentProblem, check_problem
from dust3r_ros.alignment.batch.sweeps import (
    MOMENTUM,
    Momentum,
    Unknowns,
    gather,
    image_equations,
    move_images,
    place_pairs,
    step,
)
from dust3r_ros.alignment.moments import retract, scale_of
from dust3r_ros.alignment.similarity_graph import PosePrior
from dust3r_ros.geometry.rigid import invert
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


N = 4


@pytest.fixture(scope="module")
def noisy() -> PairProblem:
    return pair_problem(N, 48, seed=4)


def begun(problem: AlignmentProblem, stride: int = 3) -> tuple[Unknowns, list[PixelBlock]]:
    """A scene at its start, and the blocks of its pixels."""
    observations = observations_of(problem.pairs, N)
    blocks = [make() for make in plan_blocks(problem.pairs, observations, problem.shapes, stride)]
    return Unknowns.of(problem, global_start(problem, blocks)), blocks


def swept(scene: Unknowns, blocks: list[PixelBlock], count: int, momentum: Momentum | None = None) -> list[float]:
    """Values before every sweep."""
    depths: dict[int, np.ndarray] = {}
    values = []
    for _ in range(count):
        values.append(step(scene, gather(scene, [block.itself for block in blocks], depths)))
        if momentum:
            momentum.carry(scene, depths)
    return values


def test_sweeps_go_down_and_settle(noisy: PairProblem) -> None:
    values = swept(*begun(check_problem(noisy.pairs)), 40)
    falls = -np.diff(values) / values[-1]
    assert (falls[1:] > -1e-4).all()  # the first depths come from elsewhere
    assert values[0] > 1.02 * values[-1] and abs(falls[-1]) < 1e-5


def test_momentum_takes_fewer_sweeps_to_the_same_place(noisy: PairProblem) -> None:
    problem = check_problem(noisy.pairs)
    plain, carried = swept(*begun(problem), 60), swept(*begun(problem), 60, Momentum())
    assert carried[-1] == pytest.approx(plain[-1], rel=2e-5)
    arrived = [next(i for i, v in enumerate(values) if v < (1 + 2e-4) * plain[-1]) for values in (plain, carried)]
    assert arrived[1] < arrived[0]


def test_momentum_goes_on_by_its_part_of_the_last_change(noisy: PairProblem) -> None:
    scene, _ = begun(check_problem(noisy.pairs))
    rng = np.random.default_rng(0)
    before, depth = scene.w_T_c.copy(), np.ones((1, 3), np.float32)
    depths, momentum = {0: depth}, Momentum()
    momentum.carry(scene, depths)
    xi = 1e-3 * rng.standard_normal((N, 7))
    xi[:, 6] = 0.0
    pairs = retract(scene.w_S_pair, 1e-3 * rng.standard_normal((len(scene.w_S_pair), 7)))
    old_pairs, focals = scene.w_S_pair, scene.focals
    scene.w_T_c, scene.w_S_pair, scene.focals = retract(before, xi), pairs, 1.01 * focals
    depths[0] = depth + np.float32(0.2)
    momentum.carry(scene, depths)
    np.testing.assert_allclose(scene.w_T_c, retract(before, (1 + MOMENTUM) * xi), atol=1e-5)
    np.testing.assert_allclose(depths[0], 1.2 + 0.2 * MOMENTUM, rtol=1e-5)
    np.testing.assert_allclose(scene.focals, 1.01 ** (1 + MOMENTUM) * focals)
    growth = np.log(scale_of(scene.w_S_pair) / scale_of(pairs)) / np.log(scale_of(pairs) / scale_of(old_pairs))
    np.testing.assert_allclose(growth, MOMENTUM, rtol=1e-6)
    for S in scene.w_S_pair:
        R = S[:3, :3] / np.cbrt(np.linalg.det(S[:3, :3]))
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-9)


def test_held_poses_and_focals_do_not_move_a_bit(noisy: PairProblem) -> None:
    poses, focals = np.full((N, 4, 4), np.nan), np.full(N, np.nan)
    poses[1], focals[2] = noisy.w_T_c[1], 1.03 * noisy.focal
    scene, blocks = begun(check_problem(noisy.pairs, np.arange(N), focals, poses))
    swept(scene, blocks, 6, Momentum())
    np.testing.assert_array_equal(scene.w_T_c[1], noisy.w_T_c[1])
    assert scene.focals[2] == 1.03 * noisy.focal
    assert (scene.focals[[0, 1, 3]] != scene.focals[2]).all()


def test_pairs_that_are_off_have_no_part(noisy: PairProblem) -> None:
    """Whatever they say: the same as without them."""
    spoiled = noisy.pairs[3]
    lie = replace(spoiled, points_second=spoiled.points_second * np.float32(3), points_first=spoiled.points_first[::-1])
    scenes = []
    for pair in (spoiled, lie):
        scene, blocks = begun(check_problem(noisy.pairs))
        pairs = [*noisy.pairs[:3], pair, *noisy.pairs[4:]]
        observations = observations_of(pairs, N)
        blocks = [make() for make in plan_blocks(pairs, observations, [(36, 48)] * N, 3)]
        scene.on[3] = False
        swept(scene, blocks, 5)
        scenes.append(scene)
    np.testing.assert_allclose(scenes[0].w_T_c, scenes[1].w_T_c, atol=1e-9)


def drawn(count: int) -> tuple[Array, PosePrior]:
    """Poses (N, 4, 4) and a prior of ``count`` of them, in another world."""
    rng = np.random.default_rng(7)
    own = retract(np.tile(np.eye(4), (N, 1, 1)), np.concatenate([rng.normal(size=(N, 6)), np.zeros((N, 1))], axis=1))
    moved = retract(own, np.concatenate([0.02 * rng.normal(size=(N, 6)), np.zeros((N, 1))], axis=1))
    G = retract(np.eye(4)[None], np.array([[0.02, -0.03, 0.01, 0.1, -0.2, 0.1, 0.05]]))[0]
    moved = G @ moved
    moved[:, :3, :3] /= scale_of(moved)[:, None, None]
    root = rng.normal(size=(N, 6, 6))
    covariance = 1e-3 * (root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(6))
    return own, PosePrior(np.arange(count), moved[:count], covariance[:count])


def test_the_gauge_is_where_the_prior_is_least() -> None:
    """Against a general optimiser over the seven numbers of a similarity."""
    own, prior = drawn(N)

    def value(xi: Array) -> float:
        G = retract(np.eye(4)[None], np.array(xi)[None])[0]
        moved = G @ own
        moved[:, :3, :3] /= scale_of(moved)[:, None, None]
        r, _ = pose_residuals(moved, prior.w_T_c)
        return float(np.einsum("ki,kij,kj->", r, np.linalg.inv(prior.covariance), r))

    least = minimize(value, np.zeros(7), method="BFGS", options={"gtol": 1e-6}).fun
    w_T_c = own
    for _ in range(6):
        s, R, t = gauge(prior, w_T_c, True)
        G = np.eye(4)
        G[:3, :3], G[:3, 3] = s * R, t
        w_T_c = G @ w_T_c
        w_T_c[:, :3, :3] /= s
    r, _ = pose_residuals(w_T_c, prior.w_T_c)
    assert np.einsum("ki,kij,kj->", r, np.linalg.inv(prior.covariance), r) < 1.02 * least < 0.2 * value(np.zeros(7))
    assert gauge(prior, own, False)[0] == 1.0


def test_one_pose_leaves_the_scale_alone() -> None:
    own, prior = drawn(1)
    w_T_c = own
    for _ in range(6):
        s, R, t = gauge(prior, w_T_c, True)
        w_T_c = np.stack([np.block([[R @ T[:3, :3], (s * R @ T[:3, 3] + t)[:, None]], [np.eye(4)[3:]]]) for T in w_T_c])
    np.testing.assert_allclose(w_T_c[0], prior.w_T_c[0], atol=1e-8)


def test_jacobians_of_pose_residuals_are_the_derivatives() -> None:
    _, prior = drawn(N)
    near = retract(prior.w_T_c, np.tile([0.0, 0.0, 0.0, 0.3, 0.1, -0.2, 0.0], (N, 1)))
    near[:, :3, :3] = near[:, :3, :3] @ Rotation.from_rotvec([0.02, 0.0, 0.01]).as_matrix()
    r, J = pose_residuals(near, prior.w_T_c)
    for column in range(6):
        xi = np.zeros((N, 7))
        xi[:, column] = 1e-6
        changed, _ = pose_residuals(retract(near, xi), prior.w_T_c)
        np.testing.assert_allclose((changed - r) / 1e-6, J[:, :, column], atol=0.02)
    np.testing.assert_allclose(invert(prior.w_T_c) @ prior.w_T_c, np.tile(np.eye(4), (N, 1, 1)), atol=1e-12)
