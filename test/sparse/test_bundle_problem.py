"""The order in which a bundle adjustment keeps its observations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from bundles import problem_of
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import arc

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.sparse.bundle_problem import Observations, State, Summing


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
    lens = Lens(200.0, -0.07, (3.0, -4.0))
    problem = replace(problem_of(arc(views=4)), free=np.array([False, True, False, True]), lenses=[lens])
    observations = Observations(problem)
    state = State.of(problem, observations)
    np.testing.assert_allclose(state.poses(observations), problem.w_T_c, atol=1e-15)
    np.testing.assert_allclose(state.offsets(observations).T, lens.ideal(problem.offset[observations.order]))
    assert state.lenses(observations)[0].radial == lens.radial
    np.testing.assert_allclose(state.lenses(observations)[0].center, lens.center)
    step = np.zeros((2, 6))
    step[1] = [0.1, 0.2, 0.3, 0.0, 0.0, np.pi / 2]
    moved = state.moved(step, np.array([0.1]), np.zeros_like(state.points), observations)
    after = moved.poses(observations)
    np.testing.assert_allclose(after[:3], problem.w_T_c[:3], atol=1e-15)
    np.testing.assert_allclose(after[3, :3, 3], problem.w_T_c[3, :3, 3] + [0.1, 0.2, 0.3], atol=1e-12)
    np.testing.assert_allclose(moved.focals(), problem.focals * np.exp(0.1))
    turned = after[3, :3, :3].T @ problem.w_T_c[3, :3, :3]
    assert abs(np.trace(turned) - 1.0) < 1e-12, "a quarter turn"
