"""The compiled steps of a bundle adjustment against those with NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundles import disturbed, problem_of, some_problem
from synthetic import arc

from dust3r_ros.alignment import bundle
from dust3r_ros.alignment.bundle import PlainSteps, adjust
from dust3r_ros.alignment.bundle_kernel import CompiledSteps
from dust3r_ros.alignment.reprojection import Huber
from dust3r_ros.alignment.sights import Problem, Sights, State
from dust3r_ros.compiled import LIBRARY


def both(problem: Problem, width: float) -> tuple[PlainSteps, CompiledSteps, State, Sights]:
    sights, loss = Sights(problem), Huber(width, problem.sigma)
    plain, compiled = PlainSteps(problem, sights, loss), CompiledSteps(problem, sights, loss)
    return plain, compiled, State.of(problem, sights), sights


def test_it_was_built() -> None:
    """By what makes the environment; where it was not, adjustments take several times as long."""
    assert LIBRARY is not None


@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize("width", [1e9, 1.5])
def test_steps_are_the_same(bent: bool, width: float) -> None:
    plain, compiled, state, sights = both(some_problem(bent), width)
    assert compiled.cost(state) == pytest.approx(plain.cost(state), rel=1e-12)
    np.testing.assert_allclose(compiled.residual(state), plain.residual(state), rtol=1e-12)
    for damping in (1e-6, 1e-3, 10.0):
        expected, found = plain.step(state, damping), compiled.step(state, damping)
        assert expected is not None and found is not None
        for name in ("poses", "unknowns", "points", "information"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-8)
        moved = state.moved(found.poses, found.unknowns, found.points, sights)
        (a, cost_a), (b, cost_b) = plain.settled(moved), compiled.settled(moved)
        np.testing.assert_allclose(b.points, a.points, rtol=1e-9)
        assert cost_b == pytest.approx(cost_a, rel=1e-10)


def test_points_behind_the_camera_and_points_that_nobody_sees() -> None:
    problem = some_problem()
    problem.points[3] = problem.w_T_c[0][:3, 3] - problem.w_T_c[0][:3, 2]
    seen = problem.point != 5
    problem = replace(problem, view=problem.view[seen], point=problem.point[seen], offset=problem.offset[seen])
    plain, compiled, state, _ = both(problem, 1.5)
    expected, found = plain.residual(state), compiled.residual(state)
    assert np.isinf(expected).any()
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    a, b = plain.step(state, 1e-3), compiled.step(state, 1e-3)
    assert a is not None and b is not None
    np.testing.assert_allclose(b.points, a.points, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("held", ["poses", "intrinsics"])
def test_only_a_part_moves(held: str) -> None:
    problem = some_problem()
    if held == "poses":
        problem = replace(problem, free=np.zeros(5, bool))
    else:
        problem = replace(problem, free_focal=np.zeros(2, bool))
    plain, compiled, state, _ = both(problem, 1.5)
    a, b = plain.step(state, 1e-3), compiled.step(state, 1e-3)
    assert a is not None and b is not None
    np.testing.assert_allclose(b.poses, a.poses, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(b.unknowns, a.unknowns, rtol=1e-7, atol=1e-10)


def test_an_adjustment_ends_where_it_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = disturbed(problem_of(arc(views=6, points=60, seed=3), 0.7), size=0.02)
    compiled = adjust(problem, iterations=30)
    monkeypatch.setattr(bundle, "LIBRARY", None)
    plain = adjust(problem, iterations=30)
    assert compiled.cost == pytest.approx(plain.cost, rel=1e-6)
    np.testing.assert_allclose(compiled.focals, plain.focals, rtol=1e-6)
    np.testing.assert_allclose(compiled.focal_std, plain.focal_std, rtol=1e-4)
