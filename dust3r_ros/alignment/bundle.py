"""Bundle adjustment: poses, one focal and lens per camera and points from their reprojection.

Levenberg-Marquardt on the reprojection error with a Huber kernel; points are eliminated by the
Schur complement (Triggs et al., "Bundle Adjustment - A Modern Synthesis", 1999). After each step
the points settle under the new poses before it is judged (Jeong et al., "Pushing the Envelope of
Modern Methods for Bundle Adjustment", PAMI 2012): focal and depth change together along a curved
valley, and a step that moves points on straight lines would have to be short there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dust3r_ros.alignment.reprojection import Fit, Huber, fit, settle
from dust3r_ros.alignment.schur import PosePairs, Step, normal_equations, prior_error, solve, std_of
from dust3r_ros.alignment.sights import FOCAL, RADIAL, Problem, Sights, State
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.types import Array

__all__ = ["Problem", "Solution", "adjust"]

_START_DAMPING, _MIN_DAMPING, _MAX_DAMPING = 1e-4, 1e-9, 1e6
_UNDAMPED = 1e-9  # relative: the unit of length may be open


@dataclass(frozen=True, eq=False)
class Solution:
    """Adjusted ``w_T_c``, ``focals``, ``lenses`` and ``points``; ``residual`` (M,) pixels.

    ``focal_std`` of the free log focals, ``radial_std`` (F,) of the lenses' radial terms, 0 where held.
    """

    w_T_c: Array
    focals: Array
    points: Array
    residual: Array
    focal_std: Array
    cost: float
    lenses: tuple[Lens, ...]
    radial_std: Array


def adjust(problem: Problem, *, huber_px: float = 2.0, iterations: int = 20, tolerance: float = 1e-4) -> Solution:
    """Minimise the robust reprojection error from where ``problem`` stands.

    Stops when an accepted step lowers the cost by less than ``tolerance`` of it.
    """
    sights, loss = Sights(problem), Huber(huber_px, problem.sigma)
    pairs = PosePairs(sights)
    state = State.of(problem, sights)
    at = fit(sights, state, loss)
    cost, damping, normal = _cost(problem, sights, state, at), _START_DAMPING, None
    for _ in range(iterations):
        if normal is None:
            normal = normal_equations(problem, sights, state, at, loss)
        step = solve(normal, sights, pairs, damping)
        trial, trial_at = (state, at) if step is None else _after(step, sights, state, loss)
        trial_cost = _cost(problem, sights, trial, trial_at)
        if not trial_cost < cost:
            damping *= 8.0
            if damping > _MAX_DAMPING:
                break
            continue
        gain = (cost - trial_cost) / max(cost, 1e-300)
        state, at, cost, normal = trial, trial_at, trial_cost, None
        damping = max(damping / 4.0, _MIN_DAMPING)
        if gain < tolerance:
            break
    step = None
    if len(sights.unknowns):
        normal = normal or normal_equations(problem, sights, state, at, loss)
        step = solve(normal, sights, pairs, _UNDAMPED)
    std = std_of(step, sights)
    residual = np.empty(len(at.r))
    residual[sights.order] = np.where(at.valid, at.r, np.inf)
    points = np.ascontiguousarray(state.points.T)
    focal_std, lenses = std[problem.free_focal, FOCAL], state.lenses(sights)
    return Solution(state.poses(sights), state.focals(), points, residual, focal_std, cost, lenses, std[:, RADIAL])


def _after(step: Step, sights: Sights, state: State, loss: Huber) -> tuple[State, Fit]:
    moved = state.moved(step.poses, step.unknowns, step.points, sights)
    return settle(sights, moved, fit(sights, moved, loss), loss)


def _cost(problem: Problem, sights: Sights, state: State, at: Fit) -> float:
    return float(at.cost.sum()) + 0.5 * float(np.sum(prior_error(problem, sights, state) ** 2))
