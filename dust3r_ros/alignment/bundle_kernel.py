"""The compiled inner loops of a bundle adjustment, where they were built (``bundle_kernel.c``)."""

from __future__ import annotations

import ctypes

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from dust3r_ros.alignment.reprojection import Huber
from dust3r_ros.alignment.schur import Step, eliminated, priors
from dust3r_ros.alignment.sights import FOCAL, Problem, Sights, State
from dust3r_ros.compiled import LIBRARY, address
from dust3r_ros.types import Array


class _Sights(ctypes.Structure):
    """``kept``: the arrays that it points to."""

    kept: object
    _fields_ = [
        *((name, ctypes.c_long) for name in ("points", "free", "unknowns")),
        *((name, ctypes.c_void_p) for name in ("starts", "pose", "offset", "camera", "radius", "unknown")),
        *((name, ctypes.c_double) for name in ("width", "sigma")),
    ]


class _State(ctypes.Structure):
    """``kept``: the arrays that it points to."""

    kept: object
    _fields_ = [(name, ctypes.c_void_p) for name in ("rotation", "center", "intrinsics", "points")]


class CompiledSteps:
    """What ``bundle.PlainSteps`` does, several times as fast."""

    def __init__(self, problem: Problem, sights: Sights, loss: Huber) -> None:
        assert LIBRARY is not None
        self._library, self._problem, self._sights = LIBRARY, problem, sights
        self._order = np.argsort(sights.point, kind="stable")
        unknown = np.full((len(sights.radius), 4), -1, np.int32)
        unknown[tuple(sights.unknowns.T)] = np.arange(len(sights.unknowns))
        kept = (
            np.searchsorted(sights.point[self._order], np.arange(sights.points + 1)).astype(np.int_),
            sights.pose[self._order].astype(np.int32),
            np.ascontiguousarray(sights.offset.T[self._order], np.float64),
            problem.camera[sights.poses].astype(np.int32),
            sights.radius.astype(np.float64),
            unknown,
        )
        sizes = sights.points, sights.free_poses, len(sights.unknowns)
        self._given = _Sights(*sizes, *(array.ctypes.data for array in kept), loss.width, loss.sigma)
        self._given.kept = kept

    def cost(self, state: State) -> float:
        """Of all errors."""
        return self._errors(state)[0]

    def residual(self, state: State) -> Array:
        """(M,) pixels in the order of the sights, inf behind the camera."""
        _, r, valid = self._errors(state)
        result = np.empty(len(r))
        result[self._order] = np.where(valid, r, np.inf)
        return result

    def _errors(self, state: State) -> tuple[float, Array, np.ndarray]:
        r, valid = np.empty(len(self._order)), np.empty(len(self._order), np.uint8)
        cost = self._library.errors(ctypes.byref(self._given), _given(state), address(r), address(valid))
        return float(cost), r, valid

    def step(self, state: State, damping: float) -> Step | None:
        """The Levenberg-Marquardt step; None where the reduced system is not positive definite."""
        N, K, P = 6 * self._sights.free_poses, len(self._sights.unknowns), self._sights.points
        S, borders, ff, bf = np.zeros((N, N)), np.zeros((1 + K, N)), np.zeros((K, K)), np.zeros(K)
        inner, Y = np.zeros((1 + K, 1 + K)), np.empty((len(self._order), 3, 6))
        G, y = np.empty((P, 3, 3)), np.empty((P, 1 + K, 3))
        outputs = (address(array) for array in (S, borders, ff, bf, inner, Y, G, y))
        self._library.reduce(ctypes.byref(self._given), _given(state), ctypes.c_double(damping), *outputs)
        information, pull = priors(self._problem, self._sights, state)
        ff[np.diag_indices(K)] += information
        try:
            X = borders.T
            if N:
                X = np.asarray(cho_solve(cho_factor(S, lower=True, overwrite_a=True, check_finite=False), X))
            found = eliminated(X, borders, inner, ff, bf + pull, damping)
        except LinAlgError:
            return None
        if found is None:
            return None
        poses, unknowns, information = found
        points = np.empty((3, P))
        arrays = (address(array) for array in (Y, G, y, poses, unknowns, points))
        self._library.back(ctypes.byref(self._given), *arrays)
        return Step(poses, unknowns, points, information)

    def settled(self, state: State) -> tuple[State, float]:
        """Every point where it fits best by itself, and the cost then."""
        moved = np.empty_like(state.points)
        cost = self._library.settle(ctypes.byref(self._given), _given(state), address(moved))
        return State(state.rotation, state.center, state.intrinsics, moved), float(cost)


def _given(state: State) -> object:
    """The state as the library takes it."""
    intrinsics = state.intrinsics.copy()
    intrinsics[:, FOCAL] = state.focals()
    kept = [np.ascontiguousarray(part) for part in (state.rotation, state.center, intrinsics, state.points)]
    given = _State(*(part.ctypes.data for part in kept))
    given.kept = kept
    return ctypes.byref(given)
