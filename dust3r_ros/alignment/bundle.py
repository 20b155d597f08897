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

from dust3r_ros.alignment.bundle_kernel import CompiledSteps
from dust3r_ros.alignment.reprojection import Fit, Huber, fit, settle
from dust3r_ros.alignment.schur import (
    DENSE_POSES,
    Normal,
    PosePairs,
    Step,
    normal_equations,
    prior_error,
    solve,
    std_of,
)
from dust3r_ros.alignment.sights import FOCAL, RADIAL, Problem, Sights, State
from dust3r_ros.compiled import LIBRARY
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.types import Array

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
    compiled = LIBRARY is not None and sights.free_poses <= DENSE_POSES
    steps = CompiledSteps(problem, sights, loss) if compiled else PlainSteps(problem, sights, loss)
    state = State.of(problem, sights)
    cost, damping = steps.cost(state) + _prior_cost(problem, sights, state), _START_DAMPING
    for _ in range(iterations):
        step = steps.step(state, damping)
        trial, trial_cost = state, cost
        if step is not None:
            trial, trial_cost = steps.settled(state.moved(step.poses, step.unknowns, step.points, sights))
            trial_cost += _prior_cost(problem, sights, trial)
        if not trial_cost < cost:
            damping *= 8.0
            if damping > _MAX_DAMPING:
                break
            continue
        gain = (cost - trial_cost) / max(cost, 1e-300)
        state, cost = trial, trial_cost
        damping = max(damping / 4.0, _MIN_DAMPING)
        if gain < tolerance:
            break
    std = std_of(steps.step(state, _UNDAMPED) if len(sights.unknowns) else None, sights)
    residual = np.empty(len(sights.order))
    residual[sights.order] = steps.residual(state)
    points = np.ascontiguousarray(state.points.T)
    focal_std, lenses = std[problem.free_focal, FOCAL], state.lenses(sights)
    return Solution(state.poses(sights), state.focals(), points, residual, focal_std, cost, lenses, std[:, RADIAL])


class PlainSteps:
    """The parts of a step with NumPy; what a state needs again is kept for the state asked last."""

    def __init__(self, problem: Problem, sights: Sights, loss: Huber) -> None:
        self._problem, self._sights, self._loss = problem, sights, loss
        self._pairs = PosePairs(sights)
        self._fitted: tuple[State, Fit] | None = None
        self._settled: tuple[State, Fit] | None = None
        self._normal: tuple[State, Normal] | None = None

    def cost(self, state: State) -> float:
        """Of all errors."""
        return float(self._fit(state).cost.sum())

    def residual(self, state: State) -> Array:
        """(M,) pixels in the order of the sights, inf behind the camera."""
        at = self._fit(state)
        return np.where(at.valid, at.r, np.inf)

    def step(self, state: State, damping: float) -> Step | None:
        """The Levenberg-Marquardt step; None where the reduced system is not positive definite."""
        if self._normal is None or self._normal[0] is not state:
            normal = normal_equations(self._problem, self._sights, state, self._fit(state), self._loss)
            self._normal = state, normal
        return solve(self._normal[1], self._sights, self._pairs, damping)

    def settled(self, state: State) -> tuple[State, float]:
        """Every point where it fits best by itself, and the cost then."""
        state, at = settle(self._sights, state, fit(self._sights, state, self._loss), self._loss)
        self._settled = state, at
        return state, float(at.cost.sum())

    def _fit(self, state: State) -> Fit:
        for known in (self._fitted, self._settled):
            if known is not None and known[0] is state:
                self._fitted = known
                return known[1]
        self._fitted = state, fit(self._sights, state, self._loss)
        return self._fitted[1]


def _prior_cost(problem: Problem, sights: Sights, state: State) -> float:
    return 0.5 * float(np.sum(prior_error(problem, sights, state) ** 2))
