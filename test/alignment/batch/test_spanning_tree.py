from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from pairs import PairProblem, pair_problem

from dust3r_ros.alignment.batch.spanning_tree import maximum_spanning_tree, pair_scores, start_focals, tree_start
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.rigid import angle_deg, invert
from dust3r_ros.geometry.similarity import weighted_similarity
from dust3r_ros.types import PairPrediction


@pytest.fixture(scope="module")
def problem() -> PairProblem:
    return pair_problem(5, 64)


@pytest.fixture(scope="module")
def exact() -> PairProblem:
    return pair_problem(5, 64, noise=0.0)


def with_scores(edges: dict[tuple[int, int], float]) -> list[PairPrediction]:
    """Pairs of 2 x 2 pixels whose score is the number given."""
    points, one = np.zeros((2, 2, 3), np.float32), np.ones((2, 2), np.float32)
    return [PairPrediction(i, j, points, np.float32(score) * one, points, one) for (i, j), score in edges.items()]


def test_the_tree_is_the_best_of_all_trees() -> None:
    rng = np.random.default_rng(4)
    pairs = with_scores({(i, j): float(rng.uniform(1, 9)) for i in range(5) for j in range(5) if i != j})
    scores = pair_scores(pairs)

    def connects(chosen: tuple[int, ...]) -> bool:
        part = list(range(5))
        for e in chosen:
            a, b = part[pairs[e].first], part[pairs[e].second]
            part = [a if p == b else p for p in part]
        return len(set(part)) == 1

    best = max(scores[list(chosen)].sum() for chosen in combinations(range(len(pairs)), 4) if connects(chosen))
    tree = maximum_spanning_tree(pairs)
    assert connects(tuple(tree))
    assert scores[tree].sum() == pytest.approx(best)


def test_the_tree_grows_from_the_best_pair_and_stays_in_one_piece() -> None:
    pairs = with_scores({(0, 1): 5.0, (2, 3): 9.0, (1, 2): 2.0, (3, 4): 3.0, (4, 0): 1.0})
    assert [(pairs[e].first, pairs[e].second) for e in maximum_spanning_tree(pairs)] == [(2, 3), (3, 4), (1, 2), (0, 1)]


def test_pairs_that_leave_images_apart_have_no_tree() -> None:
    with pytest.raises(GeometryError, match="2 pairs connect at most 3 of 4 images"):
        maximum_spanning_tree(with_scores({(0, 1): 5.0, (2, 3): 9.0}))


def test_perfect_pairs_give_the_truth(exact: PairProblem) -> None:
    start = tree_start(exact.pairs)
    S = weighted_similarity(start.w_T_c[:, :3, 3], exact.w_T_c[:, :3, 3])
    for found, true in zip(start.w_T_c, exact.w_T_c, strict=True):
        assert np.linalg.norm(S.apply(found[:3, 3]) - true[:3, 3]) < 1e-3
        assert angle_deg(S.rotation @ found[:3, :3] @ true[:3, :3].T) < 0.05
    np.testing.assert_allclose(start.focals, exact.focal, rtol=1e-3)
    for depth, true in zip(start.depths, exact.depths, strict=True):
        np.testing.assert_allclose(S.scale * depth, true, rtol=5e-3)


def test_the_best_pairs_first_image_is_the_world(problem: PairProblem) -> None:
    best = problem.pairs[maximum_spanning_tree(problem.pairs)[0]]
    np.testing.assert_allclose(tree_start(problem.pairs).w_T_c[best.first], np.eye(4), atol=1e-12)


@pytest.mark.parametrize("flip", [False, True])
def test_a_chain_of_pairs_in_one_direction_is_enough(exact: PairProblem, flip: bool) -> None:
    """Without flip all but one image are only ever second views, so PnP places them; with it, similarities do."""
    chain = [(i + 1, i) if flip else (i, i + 1) for i in range(4)]
    start = tree_start([pair for pair in exact.pairs if (pair.first, pair.second) in chain])
    S = weighted_similarity(start.w_T_c[:, :3, 3], exact.w_T_c[:, :3, 3])
    np.testing.assert_allclose(S.apply(start.w_T_c[:, :3, 3]), exact.w_T_c[:, :3, 3], atol=0.02)


def test_known_focals_stay_and_an_image_without_its_own_gets_the_usual(problem: PairProblem) -> None:
    given = np.full(5, np.nan)
    given[2] = 61.0
    assert start_focals(problem.pairs, given)[2] == 61.0
    never_first = [pair for pair in problem.pairs if pair.first != 3]
    assert start_focals(never_first)[3] == pytest.approx(problem.focal, rel=0.05)


@pytest.mark.parametrize("known", [[1], [0, 3], [0, 1, 2, 3, 4]])
def test_known_poses_are_kept_and_place_the_others(exact: PairProblem, known: list[int]) -> None:
    given = np.full((5, 4, 4), np.nan)
    given[known] = exact.w_T_c[known]
    start = tree_start(exact.pairs, poses=given)
    np.testing.assert_array_equal(start.w_T_c[known], exact.w_T_c[known])
    for image in range(5):
        relative = invert(exact.w_T_c[image]) @ start.w_T_c[image]
        assert angle_deg(relative[:3, :3]) < 0.1
        if len(known) > 1:
            assert np.linalg.norm(relative[:3, 3]) < 0.01
            np.testing.assert_allclose(start.depths[image], exact.depths[image], rtol=0.01)


def test_depth_is_positive_also_where_points_lie_behind_the_camera(problem: PairProblem) -> None:
    broken = []
    for pair in problem.pairs:
        points = pair.points_first.copy()
        points[:5, :5] *= -1
        broken.append(replace(pair, points_first=points))
    assert all((depth > 0).all() for depth in tree_start(broken).depths)


def test_an_image_that_cannot_be_placed_is_named() -> None:
    """Image 1 is only a second view, with all its points on a line."""
    rng = np.random.default_rng(0)
    cloud = rng.uniform([-1, -1, 3], [1, 1, 5], (12, 16, 3)).astype(np.float32)
    line = (np.linspace(0, 1, 192).reshape(12, 16, 1) * np.array([1.0, 0.5, 0.2]) + [0, 0, 3]).astype(np.float32)
    sure = np.full((12, 16), 5.0, np.float32)
    with pytest.raises(GeometryError, match="image 1 cannot be placed"):
        tree_start([PairPrediction(0, 1, cloud, sure, line, sure)], focals=np.array([15.0, 15.0]))
