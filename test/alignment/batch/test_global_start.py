"""Where the alignment starts: near the truth, in the world of what is known, connected whatever is switched off."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from pairs import PairProblem, pair_problem

from dust3r_ros.alignment import align
from dust3r_ros.alignment.batch.global_start import GlobalStart, global_start, joined, tree
from dust3r_ros.alignment.batch.pixel_block import observations_of, plan_blocks
from dust3r_ros.alignment.batch.problem import check_problem
from dust3r_ros.alignment.moments import inverse, scale_of
from dust3r_ros.geometry.rigid import angle_deg, invert
from dust3r_ros.geometry.similarity import weighted_similarity
from dust3r_ros.types import PairPrediction

N = 5


@pytest.fixture(scope="module")
def noisy() -> PairProblem:
    return pair_problem(N, 64, seed=6)


def started(pairs: list[PairPrediction], **known: object) -> GlobalStart:
    problem = check_problem(pairs, **known)  # type: ignore[arg-type]
    observations = observations_of(problem.pairs, len(problem.shapes))
    return global_start(problem, [make() for make in plan_blocks(problem.pairs, observations, problem.shapes, 4)])


def test_the_start_of_exact_pairs_is_the_truth() -> None:
    exact = pair_problem(N, 64, noise=0.0)
    start = started(exact.pairs)
    S = weighted_similarity(start.w_T_c[:, :3, 3], exact.w_T_c[:, :3, 3])
    np.testing.assert_allclose(S.apply(start.w_T_c[:, :3, 3]), exact.w_T_c[:, :3, 3], atol=1e-4)
    np.testing.assert_allclose(start.focals, exact.focal, rtol=1e-5)
    # the frame of a pair is that of its first image, in the unit of the pair
    for pair, unit, w_S_pair in zip(exact.pairs, exact.units, start.w_S_pair, strict=True):
        np.testing.assert_allclose(S.scale * scale_of(w_S_pair) * unit, 1.0, rtol=1e-4)
        np.testing.assert_allclose(w_S_pair[:3, 3], start.w_T_c[pair.first, :3, 3], atol=1e-4)
    assert not start.switched_off.any() and start.residual.max() < 1e-4


def only_at(pair: PairPrediction, rows: list[int], columns: slice) -> PairPrediction:
    """The pair, sure of a few pixels of both views."""
    changed = {}
    for name in ("confidence_first", "confidence_second"):
        changed[name] = np.ones_like(getattr(pair, name))
        changed[name][rows, columns] = 3.0
    return replace(pair, **changed)


def test_a_start_is_the_same_however_images_are_cut() -> None:
    exact = pair_problem(N, 64, noise=0.0)
    upper = list(range(0, 24, 2))  # nothing is known of the lower half; 4, which is never first, borrows its depth
    pairs = [only_at(pair, upper, slice(None)) for pair in exact.pairs if pair.first != 4]
    problem = check_problem(pairs)
    observations = observations_of(problem.pairs, N)
    for plane in (1, 600):
        blocks = [make() for make in plan_blocks(problem.pairs, observations, problem.shapes, 4, plane)]
        assert len(blocks) > N
        start = global_start(problem, blocks)
        S = weighted_similarity(start.w_T_c[:, :3, 3], exact.w_T_c[:, :3, 3])
        np.testing.assert_allclose(S.apply(start.w_T_c[:, :3, 3]), exact.w_T_c[:, :3, 3], atol=1e-4)
        np.testing.assert_allclose(start.focals, exact.focal, rtol=1e-5)


def test_a_pair_whose_few_confident_pixels_fall_between_samples_finds_its_place() -> None:
    """Of images so large that an alignment looks at every 13th row and column; 4 is first in no pair, and nothing is
    known of the lower half of it."""
    exact = pair_problem(N, 256, noise=0.0)
    pairs = [
        only_at(pair, [0, 20, 41, 65], slice(0, 256, 10)) if 4 in (pair.first, pair.second) else pair
        for pair in exact.pairs
        if pair.first != 4 and (pair.first, pair.second) not in {(1, 4), (2, 4), (3, 4)}
    ]
    found = align(pairs)
    S = weighted_similarity(found.w_T_c[:4, :3, 3], exact.w_T_c[:4, :3, 3])
    np.testing.assert_allclose(S.apply(found.w_T_c[:, :3, 3]), exact.w_T_c[:, :3, 3], atol=0.1)


def test_the_start_of_noisy_pairs_is_near(noisy: PairProblem) -> None:
    start = started(noisy.pairs)
    S = weighted_similarity(start.w_T_c[:, :3, 3], noisy.w_T_c[:, :3, 3])
    away = np.linalg.norm(S.apply(start.w_T_c[:, :3, 3]) - noisy.w_T_c[:, :3, 3], axis=1)
    assert np.sqrt(np.mean(away**2)) < 0.1
    np.testing.assert_allclose(start.focals, noisy.focal, rtol=0.03)
    for i, j in permutations(range(N), 2):
        turns = [(invert(w_T_c[i]) @ w_T_c[j])[:3, :3] for w_T_c in (start.w_T_c, noisy.w_T_c)]
        assert angle_deg(turns[0].T @ turns[1]) < 2


def test_held_poses_and_depth_set_the_world(noisy: PairProblem) -> None:
    poses = np.full((N, 4, 4), np.nan)
    poses[[0, 2]] = noisy.w_T_c[[0, 2]]
    start = started(noisy.pairs, poses=poses)
    np.testing.assert_array_equal(start.w_T_c[[0, 2]], noisy.w_T_c[[0, 2]])
    assert np.linalg.norm(start.w_T_c[:, :3, 3] - noisy.w_T_c[:, :3, 3], axis=1).max() < 0.3
    start = started(noisy.pairs, depths=[None, noisy.depths[1], None, None, None])
    step = [np.linalg.norm(T[0, :3, 3] - T[3, :3, 3]) for T in (start.w_T_c, noisy.w_T_c)]
    assert step[0] == pytest.approx(step[1], rel=0.1)
    np.testing.assert_allclose(scale_of(start.w_S_pair) * noisy.units, 1.0, rtol=0.12)


def test_the_tree_follows_the_best_pairs() -> None:
    """Of each edge the known step; the weakest pairs, which lie, are not used."""
    rng = np.random.default_rng(0)
    truth = np.tile(np.eye(4), (4, 1, 1))
    truth[:, :3, 3] = rng.normal(size=(4, 3))
    ends = np.array([(0, 1), (2, 1), (2, 3), (0, 3), (1, 3)])
    steps = inverse(truth[ends[:, 1]]) @ truth[ends[:, 0]]
    score = np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    steps[3:, :3, 3] += 5.0
    S, root = tree(ends, score, steps)
    assert root == 0
    np.testing.assert_allclose(S, inverse(truth[[0]]) @ truth, atol=1e-12)


def test_switching_off_does_not_tear_images_apart() -> None:
    ends = np.array([(0, 1), (1, 2), (2, 3), (1, 3), (3, 4)])
    off = np.array([False, False, True, True, True])
    kept = joined(ends, np.array([0.0, 0.0, 3.0, 2.0, 9.0]), off)
    # 3 hangs on by the better of its two, 4 on the only one it has
    assert kept.tolist() == [False, False, True, False, False]
    assert off.sum() == 3  # the argument is left alone
