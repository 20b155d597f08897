"""Steps of a bundle adjustment against the normal equations solved whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundles import some_problem

from dust3r_ros.sparse import schur
from dust3r_ros.sparse.bundle_problem import BundleProblem, Huber, Observations, State, fit
from dust3r_ros.sparse.schur import PosePairs, Step, normal_equations, solve, std_of

LOSS = Huber(1e9)


def step_of(problem: BundleProblem, damping: float) -> tuple[Step, Observations, State]:
    observations = Observations(problem)
    state = State.of(problem, observations)
    normal = normal_equations(problem, observations, state, fit(observations, state, LOSS), LOSS)
    step = solve(normal, observations, PosePairs(observations), damping)
    assert step is not None
    return step, observations, state


@pytest.mark.parametrize("bent", [False, True])
def test_a_step_is_that_of_gauss_and_newton(bent: bool) -> None:
    """The same as least squares of the errors linearised by finite differences."""
    problem = some_problem(bent)
    step, observations, state = step_of(problem, 1e-12)
    sizes = [step.poses.size, step.unknowns.size, step.points.size]

    def errors(x: np.ndarray) -> np.ndarray:
        poses, focals, points = np.split(x, np.cumsum(sizes)[:2])
        moved = state.moved(poses.reshape(-1, 6), focals, points.reshape(3, -1), observations)
        return np.append(fit(observations, moved, LOSS).error.ravel(), schur.prior_error(problem, observations, moved))

    columns = 1e-6 * np.eye(sum(sizes))
    J = np.stack([(errors(c) - errors(-c)) / 2e-6 for c in columns], axis=1)
    expected = np.linalg.lstsq(J, -errors(np.zeros(len(columns))), rcond=1e-9)[0]
    found = np.concatenate([step.poses.ravel(), step.unknowns, step.points.ravel()])
    # One pose held leaves the unit of length open, so compare what the steps do to the errors.
    np.testing.assert_allclose(J @ found, J @ expected, atol=2e-4)
    covariance = np.linalg.pinv(J.T @ J, rcond=1e-11)
    at = sizes[0] + np.arange(len(observations.unknowns))
    expected = np.sqrt(np.diag(covariance))[at]
    np.testing.assert_allclose(std_of(step, observations)[tuple(observations.unknowns.T)], expected, rtol=1e-3)


def test_many_poses_are_solved_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sparse system, and sums a few blocks at a time, give the step of the dense one."""
    problem = some_problem()
    dense, *_ = step_of(problem, 1e-3)
    monkeypatch.setattr(schur, "DENSE_POSES", 0)
    monkeypatch.setattr(schur, "_PAIRS_AT_ONCE", 7)
    sparse, *_ = step_of(problem, 1e-3)
    for a, b in zip(
        (dense.poses, dense.unknowns, dense.points), (sparse.poses, sparse.unknowns, sparse.points), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-10)


def test_pairs_of_poses_are_those_that_share_points() -> None:
    problem = some_problem()
    observations = Observations(problem)
    Y = np.random.default_rng(0).standard_normal((3, 6, observations.free))
    pairs = PosePairs(observations)
    own, mixed = pairs.sums(Y)
    S = np.zeros((4, 4, 6, 6))
    for m in range(observations.free):
        for k in range(observations.free):
            if observations.point[m] == observations.point[k]:
                S[observations.pose[m], observations.pose[k]] += Y[:, :, m].T @ Y[:, :, k]
    np.testing.assert_allclose(own, S[np.arange(4), np.arange(4)], atol=1e-10)
    assert (pairs.first < pairs.second).all() and len(mixed) == 6
    np.testing.assert_allclose(mixed, S[pairs.first, pairs.second], atol=1e-10)


def test_a_focal_that_nothing_tells_has_no_spread() -> None:
    problem = some_problem()
    observations = Observations(replace(problem, free_focal=np.array([False, True])))
    nothing = Step(np.zeros((0, 6)), np.zeros(1), np.zeros((3, 0)), np.zeros((1, 1)))
    for step in (None, nothing):
        np.testing.assert_array_equal(std_of(step, observations), [[0] * 6, [np.inf] + [0] * 5])
