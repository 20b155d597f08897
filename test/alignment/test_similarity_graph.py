"""The similarity graph on rings of keyframes with loops: exact data, noise, outliers, known poses, priors."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.alignment import moments as mo
from dust3r_ros.alignment import similarity_graph as sg
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.similarity import rms_apart
from dust3r_ros.types import Array


class Ring:
    """Keyframes twice around a circle of radius 10, edges to the next ``reach`` and ``loops`` to the lap before."""

    def __init__(self, count: int, loops: int, noise: float = 0.0, reach: int = 2, wrong: float = 0.0) -> None:
        rng = np.random.default_rng(count)
        turn = np.linspace(0, 4 * np.pi, count)
        rotation = Rotation.from_rotvec(np.column_stack([0 * turn, 0 * turn, turn]) + 0.1 * rng.normal(size=(count, 3)))
        self.S = np.tile(np.eye(4), (count, 1, 1))
        self.S[:, :3, :3] = np.exp(0.1 * rng.normal(size=count))[:, None, None] * rotation.as_matrix()
        self.S[:, :3, 3] = np.column_stack([10 * np.cos(turn), 10 * np.sin(turn), np.sin(3 * turn)])
        ends = [(k, k + step) for step in range(1, reach + 1) for k in range(count - step)]
        old = rng.integers(0, count // 2, loops)
        ends += [(int(k), int(k) + count // 2) for k in old]
        self.first, self.second = np.array(ends).T
        self.bad = np.zeros(len(ends), bool)
        self.bad[len(ends) - int(wrong * loops) :] = True
        points = self.S[self.first][:, None, :3, 3] + 2 * rng.normal(size=(len(ends), 40, 3))
        a, b = (apply(mo.inverse(self.S[end]), points) for end in (self.first, self.second))
        moved = mo.retract(np.tile(np.eye(4), (len(ends), 1, 1)), rng.normal(size=(len(ends), 7)))
        a = np.where(self.bad[:, None, None], apply(moved, a), a) + noise * rng.normal(size=a.shape)
        self.M = mo.moments(a, b, rng.uniform(0.5, 2, a.shape[:2]))

    @property
    def held_first(self) -> np.ndarray:
        free = np.ones((len(self.S), 7), bool)
        free[0] = False
        return free

    def graph(self, free: np.ndarray | None = None, prior: sg.PosePrior | None = None) -> sg.SimilarityGraph:
        return sg.SimilarityGraph(self.first, self.second, self.M, self.held_first if free is None else free, prior)

    def chained(self) -> Array:
        """The start: along the edges to the next keyframe, errors and all."""
        step = mo.closed_form(self.M)[0]
        S = [self.S[0]]
        for k in range(len(self.S) - 1):
            S.append(S[-1] @ mo.inverse(step[k]))
        return np.stack(S)

    def ate(self, S: Array) -> float:
        return centres_apart(S, self.S)


def apply(S: Array, points: Array) -> Array:
    return np.einsum("eij,epj->epi", S[:, :3, :3], points) + S[:, None, :3, 3]


def centres_apart(S: Array, truth: Array) -> float:
    return rms_apart(S[:, :3, 3], truth[:, :3, 3])


def shaken(S: Array, size: float, seed: int = 0) -> Array:
    moved = mo.retract(S, size * np.random.default_rng(seed).normal(size=(len(S), 7)))
    moved[0] = S[0]
    return moved


def test_exact_moments_give_the_exact_similarities_from_a_bad_start() -> None:
    ring = Ring(30, 20)
    solution = ring.graph().solve(shaken(ring.S, 0.15), iterations=40)
    np.testing.assert_allclose(solution.S, ring.S, atol=1e-5)
    assert not solution.switched_off.any() and solution.residual.max() < 1e-4


def test_the_solution_is_a_minimum_of_the_cost_over_the_edges() -> None:
    ring = Ring(20, 20, noise=0.05)
    S = ring.graph().solve(ring.chained(), robust=False, iterations=40).S

    def total(S: Array) -> float:
        weight = mo.total_weight(ring.M)
        return float(np.sum(mo.normal_blocks(ring.M, S[ring.first], S[ring.second])[0] / weight))

    least = total(S)
    rng = np.random.default_rng(3)
    for _ in range(50):
        direction = rng.normal(size=(len(S), 7))
        direction[0] = 0.0
        slopes = [(total(mo.retract(S, h * direction)) - least) / h for h in (1e-4, -1e-4)]
        assert slopes[0] > 0 > slopes[1]
        # both sides rise alike: the first derivative vanishes against the second
        assert abs(slopes[0] + slopes[1]) < 0.05 * (slopes[0] - slopes[1])


def test_loops_take_the_drift_away() -> None:
    ring = Ring(60, 40, noise=0.1)
    start = ring.chained()
    assert ring.ate(ring.graph().solve(start).S) < 0.3 * ring.ate(start)


def test_sparse_and_dense_solvers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(40, 30, noise=0.05)
    start = shaken(ring.S, 0.05)
    monkeypatch.setattr(sg, "_DENSE_UNKNOWNS", 10**6)
    dense = ring.graph().solve(start)
    monkeypatch.setattr(sg, "_DENSE_UNKNOWNS", 0)
    np.testing.assert_allclose(ring.graph().solve(start).S, dense.S, atol=1e-6)


def test_wrong_loops_are_switched_off_and_reported() -> None:
    """30 % of the loop edges say something else; the others win."""
    clean, spoiled = Ring(80, 60, noise=0.05), Ring(80, 60, noise=0.05, wrong=0.3)
    assert spoiled.bad.sum() == 18
    with_wrong = spoiled.graph().solve(spoiled.chained())
    without = clean.graph().solve(clean.chained())
    np.testing.assert_array_equal(with_wrong.switched_off, spoiled.bad)
    assert spoiled.ate(with_wrong.S) < 1.1 * clean.ate(without.S)
    not_robust = spoiled.graph().solve(spoiled.chained(), robust=False)
    assert spoiled.ate(not_robust.S) > 3 * spoiled.ate(with_wrong.S) and not not_robust.switched_off.any()


def test_known_poses_stay_and_scales_remain_free() -> None:
    ring = Ring(20, 15, noise=0.05)
    free = np.ones((20, 7), bool)
    free[[0, 7, 12], :6] = False
    start = shaken(ring.S, 0.05)
    for k in (0, 7, 12):
        start[k, :3, :3] = ring.S[k, :3, :3] * 1.2
        start[k, :3, 3] = ring.S[k, :3, 3]
    S = ring.graph(free).solve(start).S
    np.testing.assert_array_equal(S[[0, 7, 12], :3, 3], ring.S[[0, 7, 12], :3, 3])
    turn = S[7, :3, :3] @ ring.S[7, :3, :3].T
    np.testing.assert_allclose(turn / np.cbrt(np.linalg.det(turn)), np.eye(3), atol=1e-9)
    np.testing.assert_allclose(mo.scale_of(S), mo.scale_of(ring.S), rtol=0.05)


@pytest.mark.parametrize(("sigma", "follows"), [(1e-4, True), (1e3, False)])
def test_a_prior_pulls_as_its_covariance_says(sigma: float, follows: bool) -> None:
    ring = Ring(20, 15, noise=0.05)
    free_solution = ring.graph().solve(ring.S)
    target = ring.S[10:11].copy()
    target[:, :3, :3] /= mo.scale_of(target)[:, None, None]
    target[0, :3, 3] += [0.5, 0.0, 0.0]
    prior = sg.PosePrior(np.array([10]), target, sigma**2 * np.eye(6)[None])
    S = ring.graph(prior=prior).solve(ring.S).S
    wanted = target[0] if follows else free_solution.S[10]
    np.testing.assert_allclose(S[10, :3, 3], wanted[:3, 3], atol=2e-2 if follows else 1e-4)


def test_a_prior_alone_fixes_the_gauge() -> None:
    """No keyframe is held; two poses with covariance say where the map lies and how large it is."""
    ring = Ring(12, 8, noise=0.01)
    known = np.array([0, 5])
    target = ring.S[known].copy()
    target[:, :3, :3] /= mo.scale_of(target)[:, None, None]
    prior = sg.PosePrior(known, target, np.tile(1e-6 * np.eye(6), (2, 1, 1)))
    grown = np.diag([1.3, 1.3, 1.3, 1.0]) @ ring.S
    S = ring.graph(np.ones((12, 7), bool), prior).solve(grown, iterations=60).S
    assert np.abs(S[:, :3, 3] - ring.S[:, :3, 3]).max() < 0.1


def test_an_edge_without_weight_is_refused_by_name() -> None:
    ring = Ring(6, 2)
    ring.M[3] = 0.0
    with pytest.raises(GeometryError, match=rf"edge \({ring.first[3]}, {ring.second[3]}\) has weight 0"):
        ring.graph()


def test_nothing_free_is_no_work() -> None:
    ring = Ring(6, 2)
    np.testing.assert_array_equal(ring.graph(np.zeros((6, 7), bool)).solve(ring.S).S, ring.S)


@pytest.mark.long
def test_a_thousand_keyframes_and_six_thousand_edges() -> None:
    ring = Ring(1000, 1010, noise=0.02, reach=5)
    assert len(ring.first) == 5995
    start = shaken(ring.S, 0.05)
    begin = time.process_time()
    solution = ring.graph().solve(start, robust=False, iterations=3)
    seconds = time.process_time() - begin
    assert ring.ate(solution.S) < 0.1 * ring.ate(start)
    assert seconds < 3.0


def test_a_long_loop_gives_way_in_a_few_steps() -> None:
    """Drift of scale and heading over 400 keyframes, taken out by the edges that close the loop."""
    ring = Ring(400, 6, noise=0.1)
    start = ring.chained()
    graph = ring.graph()
    solution = graph.solve(start, robust=False, iterations=10)
    on = graph.solve(solution.S, robust=False)
    assert centres_apart(on.S, solution.S) < 1e-3 < 0.5 < ring.ate(start)
    assert ring.ate(solution.S) < 0.3 * ring.ate(start)
