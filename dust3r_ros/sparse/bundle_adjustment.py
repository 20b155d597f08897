"""Bundle adjustment of poses, points, and one focal and lens per camera by reprojection.

Levenberg-Marquardt on the reprojection error with a Huber kernel; points are eliminated by the
Schur complement (Triggs et al., "Bundle Adjustment - A Modern Synthesis", 1999). After each step
the points settle under the new poses before it is judged (Jeong et al., "Pushing the Envelope of
Modern Methods for Bundle Adjustment", PAMI 2012): focal and depth change together along a curved
valley, where a step that moves points on straight lines would have to be short. The inner loops
use compiled code if it was built (``bundle_kernel.c``).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import TypeVar

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from dust3r_ros.geometry.compiled import LIBRARY
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.processes import each
from dust3r_ros.sparse.bundle_problem import (
    FOCAL,
    KINDS,
    RADIAL,
    BundleProblem,
    Fit,
    Huber,
    Observations,
    State,
    fit,
    settle,
)
from dust3r_ros.sparse.schur import (
    DENSE_POSES,
    Normal,
    PosePairs,
    Step,
    eliminated,
    normal_equations,
    prior_error,
    priors,
    solve,
    std_of,
)
from dust3r_ros.types import Array


class _Observations(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_long) for name in ("first", "end", "points", "free", "unknowns")),
        *((name, ctypes.c_void_p) for name in ("starts", "pose", "offset", "spread", "camera", "radius", "unknown")),
        *((name, ctypes.c_double) for name in ("width", "sigma")),
    ]


class _State(ctypes.Structure):
    """``kept``: the arrays that it points to."""

    kept: object
    _fields_ = [(name, ctypes.c_void_p) for name in ("rotation", "center", "intrinsics", "turning", "points")]


_MANY = 4000  # observations: as many are divided between two threads

_Output = TypeVar("_Output")


class CompiledSteps:
    """The same as ``PlainSteps``, several times as fast.

    The points of a large problem are divided in two, on whatever machine: so that the sums are the same everywhere.
    """

    def __init__(self, problem: BundleProblem, observations: Observations, loss: Huber) -> None:
        assert LIBRARY is not None
        self._library, self._problem, self._observations = LIBRARY, problem, observations
        self._order = np.argsort(observations.point, kind="stable")
        unknown = np.full((len(observations.radius), KINDS), -1, np.int32)
        unknown[tuple(observations.unknowns.T)] = np.arange(len(observations.unknowns))
        kept = (
            np.searchsorted(observations.point[self._order], np.arange(observations.points + 1)).astype(np.int_),
            observations.pose[self._order].astype(np.int32),
            np.ascontiguousarray(observations.offset.T[self._order], np.float64),
            np.ascontiguousarray(observations.spread[self._order], np.float64),
            problem.camera[observations.poses].astype(np.int32),
            observations.radius.astype(np.float64),
            unknown,
        )
        M, P, K = len(self._order), observations.points, len(observations.unknowns)
        middle = [int(np.searchsorted(kept[0], M / 2))] if M >= _MANY else []
        addresses = [array.ctypes.data for array in kept]
        self._parts = [
            _Observations(*part, P, observations.free_poses, K, *addresses, loss.width, loss.sigma)
            for part in pairwise([0, *middle, P])
        ]
        self._kept = kept
        # The largest arrays of a step: written anew by each.
        self._room = np.empty((M, 3, 6)), np.empty((P, 3, 3)), np.empty((P, 1 + K, 3))

    def cost(self, state: State) -> float:
        """Of all errors."""
        return self._errors(state)[0]

    def residual(self, state: State) -> Array:
        """(M,) pixels in the order of the observations, inf behind the camera."""
        _, r, valid = self._errors(state)
        result = np.empty(len(r))
        result[self._order] = np.where(valid, r, np.inf)
        return result

    def _errors(self, state: State) -> tuple[float, Array, np.ndarray]:
        r, valid = np.empty(len(self._order)), np.empty(len(self._order), np.uint8)
        given = _given(state)
        costs = self._each(lambda part: self._library.errors(part, given, r.ctypes, valid.ctypes))
        return float(sum(costs)), r, valid

    def _each(self, work: Callable[[object], _Output]) -> list[_Output]:
        """``work`` of every part of the points, at the same time."""
        return each(lambda part: work(ctypes.byref(part)), self._parts)

    def step(self, state: State, damping: float) -> Step | None:
        """The Levenberg-Marquardt step; None where the reduced system is not positive definite."""
        N, K, P = 6 * self._observations.free_poses, len(self._observations.unknowns), self._observations.points
        room, given = [array.ctypes for array in self._room], _given(state)

        def reduced(part: object) -> list[Array]:
            sums = [np.zeros(shape) for shape in ((N, N), (1 + K, N), (K, K), (K,), (1 + K, 1 + K))]
            self._library.reduce(part, given, ctypes.c_double(damping), *(part.ctypes for part in sums), *room)
            return sums

        S, borders, ff, bf, inner = (reduce(np.add, sums) for sums in zip(*self._each(reduced), strict=True))
        information, pull = priors(self._problem, self._observations, state)
        ff += information
        try:
            X = borders.T
            if N:
                X = np.asarray(
                    cho_solve(cho_factor(S, lower=True, overwrite_a=True, check_finite=False), X, check_finite=False)
                )
            found = eliminated(X, borders, inner, ff, bf + pull, damping)
        except LinAlgError:
            return None
        if found is None:
            return None
        poses, unknowns, information = found
        points = np.empty((3, P))
        self._each(lambda part: self._library.back(part, *room, *(part.ctypes for part in (poses, unknowns, points))))
        return Step(poses, unknowns, points, information)

    def settled(self, state: State) -> tuple[State, float]:
        """Every point moved to its own best fit, and the resulting cost."""
        moved, given = np.empty_like(state.points), _given(state)
        costs = self._each(lambda part: self._library.settle(part, given, moved.ctypes))
        return State(state.rotation, state.center, state.intrinsics, moved), float(sum(costs))


def _given(state: State) -> object:
    """The state in the library's layout."""
    intrinsics = state.intrinsics.copy()
    intrinsics[:, FOCAL] = state.focals()
    parts = state.rotation, state.center, intrinsics, state.turning(), state.points
    kept = [np.ascontiguousarray(part) for part in parts]
    given = _State(*(part.ctypes.data for part in kept))
    given.kept = kept
    return ctypes.byref(given)


# Hardly any at first: what the observations determine weakly (a focal and its lens, as a rule) would creep, by gains so
# small that it stops far from the optimum. Steps that fail in a row raise it by this factor, its square, its cube, ...
_START_DAMPING, _MIN_DAMPING, _MAX_DAMPING, _HARDER = 1e-8, 1e-9, 1e6, 8.0
_UNDAMPED = 1e-9  # relative: the unit of length may be arbitrary


@dataclass(frozen=True, eq=False)
class Solution:
    """Adjusted ``w_T_c``, ``focals``, ``lenses`` and ``points``; ``residual`` (M,) pixels.

    ``focal_std`` of the free log focals, ``lens_std`` (F, 5) of the lenses' radial terms and centers (x, y), the latter
    in radii; 0 where held.
    """

    w_T_c: Array
    focals: Array
    points: Array
    residual: Array
    focal_std: Array
    cost: float
    lenses: tuple[Lens, ...]
    lens_std: Array


def adjust(problem: BundleProblem, *, huber_px: float = 2.0, iterations: int = 20, tolerance: float = 1e-4) -> Solution:
    """Minimise the robust reprojection error, starting from ``problem``.

    Stops when an accepted step lowers the cost by less than ``tolerance`` of it.
    """
    observations, loss = Observations(problem), Huber(huber_px, problem.sigma)
    compiled = LIBRARY is not None and observations.free_poses <= DENSE_POSES
    steps = CompiledSteps(problem, observations, loss) if compiled else PlainSteps(problem, observations, loss)
    state = State.of(problem, observations)
    cost, damping, failed = steps.cost(state) + _prior_cost(problem, observations, state), _START_DAMPING, 0
    for _ in range(iterations):
        step = steps.step(state, damping)
        trial, trial_cost = state, cost
        if step is not None:
            trial, trial_cost = steps.settled(state.moved(step.poses, step.unknowns, step.points, observations))
            trial_cost += _prior_cost(problem, observations, trial)
        if not trial_cost < cost:
            failed += 1
            damping *= _HARDER**failed
            if damping > _MAX_DAMPING:
                break
            continue
        gain = (cost - trial_cost) / max(cost, 1e-300)
        state, cost, failed = trial, trial_cost, 0
        damping = max(damping / 4.0, _MIN_DAMPING)
        if gain < tolerance:
            break
    std = std_of(steps.step(state, _UNDAMPED) if len(observations.unknowns) else None, observations)
    residual = np.empty(len(observations.order))
    residual[observations.order] = steps.residual(state)
    points = np.ascontiguousarray(state.points.T)
    focal_std, lenses = std[problem.free_focal, FOCAL], state.lenses(observations)
    return Solution(
        state.poses(observations), state.focals(), points, residual, focal_std, cost, lenses, std[:, RADIAL:]
    )


class PlainSteps:
    """The parts of a step in NumPy; intermediate results of the last state are cached."""

    def __init__(self, problem: BundleProblem, observations: Observations, loss: Huber) -> None:
        self._problem, self._observations, self._loss = problem, observations, loss
        self._pairs = PosePairs(observations)
        self._fitted: tuple[State, Fit] | None = None
        self._settled: tuple[State, Fit] | None = None
        self._normal: tuple[State, Normal] | None = None

    def cost(self, state: State) -> float:
        """Of all errors."""
        return float(self._fit(state).cost.sum())

    def residual(self, state: State) -> Array:
        """(M,) pixels in the order of the observations, inf behind the camera."""
        at = self._fit(state)
        return np.where(at.valid, at.r, np.inf)

    def step(self, state: State, damping: float) -> Step | None:
        """The Levenberg-Marquardt step; None where the reduced system is not positive definite."""
        if self._normal is None or self._normal[0] is not state:
            normal = normal_equations(self._problem, self._observations, state, self._fit(state), self._loss)
            self._normal = state, normal
        return solve(self._normal[1], self._observations, self._pairs, damping)

    def settled(self, state: State) -> tuple[State, float]:
        """Every point moved to its own best fit, and the resulting cost."""
        state, at = settle(self._observations, state, fit(self._observations, state, self._loss), self._loss)
        self._settled = state, at
        return state, float(at.cost.sum())

    def _fit(self, state: State) -> Fit:
        for known in (self._fitted, self._settled):
            if known is not None and known[0] is state:
                self._fitted = known
                return known[1]
        self._fitted = state, fit(self._observations, state, self._loss)
        return self._fitted[1]


def _prior_cost(problem: BundleProblem, observations: Observations, state: State) -> float:
    return 0.5 * float(np.sum(prior_error(problem, observations, state) ** 2))
