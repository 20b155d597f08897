"""Sweeps go down, end where small motions do not help, keep what is held; momentum and the gauge of soft poses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pairs import PairProblem, pair_problem
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from dust3r_ros.alignment.global_start import global_start
from dust3r_ros.alignment.moments import retract, scale_of
from dust3r_ros.alignment.momentum import MOMENTUM, Momentum
from dust3r_ros.alignment.pixel_block import PixelBlock, plan_blocks, sights_of
from dust3r_ros.alignment.priors import gauge, pose_residuals
from dust3r_ros.alignment.problem import Problem, check_problem
from dust3r_ros.alignment.scene import Scene
from dust3r_ros.alignment.similarity_graph import PosePrior
from dust3r_ros.alignment.sweeps import gather, step
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array

N = 4


@pytest.fixture(scope="module")
def noisy() -> PairProblem:
    return pair_problem(N, 48, seed=4)


def begun(problem: Problem, stride: int = 3) -> tuple[Scene, list[PixelBlock]]:
    """A scene at its start, and the blocks of its pixels."""
    sights = sights_of(problem.pairs, N)
    blocks = [make() for make in plan_blocks(problem.pairs, sights, problem.shapes, stride)]
    return Scene.of(problem, global_start(problem, blocks)), blocks


def swept(scene: Scene, blocks: list[PixelBlock], count: int, momentum: Momentum | None = None) -> list[float]:
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
        sights = sights_of(pairs, N)
        blocks = [make() for make in plan_blocks(pairs, sights, [(36, 48)] * N, 3)]
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
