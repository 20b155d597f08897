"""Bundle adjustment: poses, one focal per camera and points from their reprojection.

Levenberg-Marquardt on the reprojection error with a Huber kernel; points are eliminated by the
Schur complement (Triggs et al., "Bundle Adjustment - A Modern Synthesis", 1999).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dust3r_ros.alignment.schur import (
    Problem,
    State,
    Structure,
    focal_std_of,
    in_cameras,
    normal_equations,
    prior_error,
    solve,
)
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array

__all__ = ["Problem", "Solution", "adjust"]

_MIN_DEPTH = 1e-6


@dataclass(frozen=True, eq=False)
class Solution:
    """Adjusted ``w_T_c``, ``focals``, ``points``; ``residual`` (M,) pixels, ``focal_std`` of the free log focals."""

    w_T_c: Array
    focals: Array
    points: Array
    residual: Array
    focal_std: Array
    cost: float


def adjust(problem: Problem, *, huber_px: float = 2.0, iterations: int = 20, tolerance: float = 1e-4) -> Solution:
    """Minimise the robust reprojection error from where ``problem`` stands.

    Stops when an accepted step lowers the cost by less than ``tolerance`` of it.
    """
    structure = Structure(problem)
    state = State(invert(problem.w_T_c), np.log(problem.focals), problem.points)
    errors, valid = _residuals(problem, state)
    cost = _cost(problem, state, errors, valid, huber_px)
    damping = 1e-4
    blocks = None
    for _ in range(iterations):
        if blocks is None:
            blocks = normal_equations(problem, structure, state, errors, valid, huber_px)
        step = solve(blocks, structure, damping)
        trial = state.moved(step, structure) if step is not None else None
        if trial is not None:
            trial_errors, trial_valid = _residuals(problem, trial)
            trial_cost = _cost(problem, trial, trial_errors, trial_valid, huber_px)
        if trial is None or not trial_cost < cost:
            damping *= 8.0
            if damping > 1e6:
                break
            continue
        gain = (cost - trial_cost) / max(cost, 1e-300)
        state, errors, valid, cost, blocks = trial, trial_errors, trial_valid, trial_cost, None
        damping = max(damping / 4.0, 1e-9)
        if gain < tolerance:
            break
    blocks = normal_equations(problem, structure, state, errors, valid, huber_px)
    residual = np.where(valid, np.linalg.norm(errors, axis=1), np.inf)
    return Solution(
        invert(state.c_T_w), np.exp(state.log_focals), state.points, residual, focal_std_of(blocks, structure), cost
    )


def _residuals(problem: Problem, state: State) -> tuple[Array, np.ndarray]:
    """Errors (M, 2) in pixels and which points lie before their camera (M,)."""
    X = in_cameras(problem, state)
    valid = X[:, 2] > _MIN_DEPTH
    z = np.where(valid, X[:, 2], 1.0)
    focal = np.exp(state.log_focals)[problem.camera[problem.view]]
    return focal[:, None] * X[:, :2] / z[:, None] - problem.offset, valid


def _cost(problem: Problem, state: State, errors: Array, valid: np.ndarray, huber_px: float) -> float:
    """Robust cost; a point behind its camera costs as an error of 100 pixels."""
    r = np.where(valid, np.linalg.norm(errors, axis=1), 100.0)
    huber = np.where(r <= huber_px, 0.5 * r * r, huber_px * (r - 0.5 * huber_px)) / problem.sigma**2
    return float(huber.sum()) + 0.5 * float(np.sum(prior_error(problem, state) ** 2))
