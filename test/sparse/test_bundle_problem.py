"""The order of observations in a bundle adjustment, their errors, and points that settle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundles import problem_of
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import arc

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.sparse.bundle_problem import (
    KINDS,
    Huber,
    Observations,
    State,
    Summing,
    fit,
    intrinsic_slope,
    point_terms,
    settle,
    whitening,
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 6), max_size=40), st.integers(0, 2))
def test_sums_by_group(group: list[int], axes: int) -> None:
    values = np.random.default_rng(len(group)).standard_normal((*(2, 3)[:axes], len(group)))
    expected = np.zeros((*values.shape[:-1], 8))
    for m, g in enumerate(group):
        expected[..., g] += values[..., m]
    np.testing.assert_allclose(Summing(np.array(group, int), 8).sums(values), expected, atol=1e-12)


def test_observations_of_free_poses_come_first_and_each_poses_together() -> None:
    scene = arc(views=5, points=7)
    problem = problem_of(scene)
    shuffle = np.random.default_rng(0).permutation(len(problem.view))[:20]
    problem = replace(
        problem,
        view=problem.view[shuffle],
        point=problem.point[shuffle],
        offset=problem.offset[shuffle],
        free=np.array([False, True, False, True, True]),
    )
    observations = Observations(problem)
    np.testing.assert_array_equal(observations.poses[observations.pose], problem.view[observations.order])
    np.testing.assert_array_equal(observations.offset.T, problem.offset[observations.order])
    assert problem.free[problem.view[observations.order[: observations.free]]].all()
    assert not problem.free[problem.view[observations.order[observations.free :]]].any()
    for c in range(3):
        mine = observations.pose == c
        assert (
            mine[observations.starts[c] : observations.starts[c + 1]].all()
            and mine.sum() == np.diff(observations.starts)[c]
        )


def test_a_state_comes_back_in_the_order_of_the_problem_and_moves_what_is_free() -> None:
    lens = Lens(200.0, -0.07, (3.0, -4.0), 0.03, -0.02)
    problem = replace(problem_of(arc(views=4)), free=np.array([False, True, False, True]), lenses=[lens])
    observations = Observations(problem)
    state = State.of(problem, observations)
    np.testing.assert_allclose(state.poses(observations), problem.w_T_c, atol=1e-15)
    found = state.lenses(observations)[0]
    assert found.radials == lens.radials
    np.testing.assert_allclose(found.center, lens.center)
    step = np.zeros((2, 6))
    step[1] = [0.1, 0.2, 0.3, 0.0, 0.0, np.pi / 2]
    moved = state.moved(step, np.array([0.1]), np.zeros_like(state.points), observations)
    after = moved.poses(observations)
    np.testing.assert_allclose(after[:3], problem.w_T_c[:3], atol=1e-15)
    np.testing.assert_allclose(after[3, :3, 3], problem.w_T_c[3, :3, 3] + [0.1, 0.2, 0.3], atol=1e-12)
    np.testing.assert_allclose(moved.focals(), problem.focals * np.exp(0.1))
    turned = after[3, :3, :3].T @ problem.w_T_c[3, :3, :3]
    assert abs(np.trace(turned) - 1.0) < 1e-12, "a quarter turn"


def test_the_weights_of_the_loss_give_its_slope() -> None:
    loss, r, step = Huber(1.5, 0.7), np.array([0.1, 1.0, 1.4, 1.6, 5.0, 80.0]), 1e-6
    slope = (loss.cost(r + step) - loss.cost(r - step)) / (2 * step)
    np.testing.assert_allclose(loss.root_weight(r) ** 2 * r, slope, rtol=1e-6)
    assert np.isfinite(loss.root_weight(np.zeros(1))).all() and loss.cost(np.zeros(1))[0] == 0.0
    np.testing.assert_allclose(loss.cost(3.0 * r, np.full(6, 3.0)), loss.cost(r), rtol=1e-12)
    np.testing.assert_allclose(3.0 * loss.root_weight(3.0 * r, np.full(6, 3.0)), loss.root_weight(r), rtol=1e-12)


def test_errors_are_in_pixels_of_the_image() -> None:
    lens = Lens(150.0, -0.1, (6.0, -9.0), 0.03, -0.02)
    problem = replace(problem_of(arc(views=4, points=9), 0.5), lenses=[lens])
    observations = Observations(problem)
    state = State.of(problem, observations)
    plain = fit(observations, State.of(replace(problem, lenses=[]), observations), Huber(1e9))
    ideal = (plain.error + observations.offset).T
    found = fit(observations, state, Huber(1e9)).error.T
    np.testing.assert_allclose(found, lens.seen(ideal) - observations.offset.T, atol=1e-9)


@pytest.mark.parametrize("lenses", [[], [Lens(150.0, -0.1, (6.0, -9.0), 0.03, -0.02)]], ids=["plain", "bent"])
def test_slopes_are_those_of_the_errors(lenses: list[Lens]) -> None:
    problem = replace(problem_of(arc(views=4, points=9), 0.5), lenses=lenses)
    observations, loss = Observations(problem), Huber(1e9)
    state = State.of(problem, observations)
    terms = point_terms(observations, fit(observations, state, loss), loss)
    for axis in range(3):
        shift = np.zeros((3, 1))
        shift[axis] = 1e-6
        ends = [fit(observations, replace(state, points=state.points + s * shift), loss).error for s in (1, -1)]
        np.testing.assert_allclose(terms.slope[:, axis], (ends[0] - ends[1]) / 2e-6, atol=1e-5)
    np.testing.assert_allclose(terms.error, fit(observations, state, loss).error, rtol=1e-12)


@pytest.mark.parametrize("kind", range(KINDS))
def test_slopes_by_the_intrinsics(kind: int) -> None:
    problem = replace(problem_of(arc(views=4, points=9), 0.5), lenses=[Lens(150.0, -0.1, (6.0, -9.0), 0.03, -0.02)])
    observations, loss = Observations(problem), Huber(1e9)
    state = State.of(problem, observations)
    ends = []
    for step in (1e-6, -1e-6):
        intrinsics = state.intrinsics.copy()
        intrinsics[0, kind] += step
        ends.append(fit(observations, replace(state, intrinsics=intrinsics), loss).error)
    slope = intrinsic_slope(kind, observations, fit(observations, state, loss))
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, atol=1e-5)


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_whitening_is_the_root_of_the_inverse(damping: float) -> None:
    A = np.random.default_rng(0).standard_normal((6, 3, 3))
    V = A @ np.swapaxes(A, 1, 2) + 0.1 * np.eye(3)
    G = whitening(V.transpose(1, 2, 0), damping).transpose(2, 0, 1)
    damped = V * (1 + damping * np.eye(3))
    np.testing.assert_allclose(np.swapaxes(G, 1, 2) @ G, np.linalg.inv(damped), rtol=1e-5, atol=1e-7)
    assert (np.triu(G, 1) == 0).all()


def test_nothing_known_of_a_point_moves_it_nowhere() -> None:
    """Without information, or with one ray's only, the factors stay finite."""
    ray = np.diag([1.0, 1.0, 0.0])
    for V in (np.zeros((3, 3)), ray):
        assert np.isfinite(whitening(V[:, :, None], 0.0)).all()


def test_points_settle_where_their_rays_meet() -> None:
    scene = arc()
    problem = problem_of(scene)
    off = problem.points + 0.05 * np.random.default_rng(1).standard_normal(problem.points.shape)
    observations, loss = Observations(problem), Huber(1e9)
    state = replace(State.of(problem, observations), points=off.T.copy())
    at = fit(observations, state, loss)
    for _ in range(6):
        before = observations.by_point(at.cost)
        state, at = settle(observations, state, at, loss)
        assert (observations.by_point(at.cost) <= before + 1e-12).all(), "no point gets worse"
    np.testing.assert_allclose(state.points.T, scene.points, atol=1e-8)


def test_a_point_behind_a_camera_has_no_slope_there() -> None:
    scene = arc()
    problem = problem_of(scene)
    points = problem.points.copy()
    points[0] = scene.w_T_c[2, :3, 3] - scene.w_T_c[2, :3, 2]
    observations, loss = Observations(problem), Huber(1.5)
    at = fit(observations, replace(State.of(problem, observations), points=points.T.copy()), loss)
    behind = (observations.poses[observations.pose] == 2) & (observations.point == 0)
    assert not at.valid[behind].any() and (at.cost[behind] > 100).all()
    terms = point_terms(observations, at, loss)
    assert (terms.slope[..., behind] == 0).all() and np.isfinite(terms.slope).all()
