"""Pose graph over similarities, from stored moments alone: sparse Gauss-Newton with a robust kernel per edge.

Minimises sum_e rho(sum_p w_p |S_i a_p - S_j b_p|^2 / (W_e s_i s_j)), W_e the edge's total weight, over
``w_S_c`` of N keyframes; no pixels are needed. An edge whose residual stands out is switched off by
Geman and McClure's kernel ("Statistical methods for tomographic image reconstruction", 1987), whose
width shrinks from the residual of the worst edge to that of a typical one (graduated non-convexity).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import bsr_array, csc_array
from scipy.sparse.linalg import splu
from scipy.spatial.transform import Rotation

from dust3r_ros.alignment.moments import DOF, normal_blocks, retract, scale_of, total_weight
from dust3r_ros.errors import GeometryError
from dust3r_ros.types import Array

Ids = NDArray[np.int64]

# Above this many unknowns, use the sparse factorisation: LAPACK's would start threads that, on a busy
# machine, wait for each other longer than the work takes.
_DENSE_UNKNOWNS = 64
# An edge is an outlier candidate if its residual is this many times the typical one, and is switched
# off if the kernel leaves it less than this weight.
OUTLIER_RATIO = 3.0
OFF_WEIGHT = 0.25
_WIDTH_STEP = 4.0
# What float32 rounding of the pixels leaves of a squared residual, relative to the mean squared size
# of the points: no edge is an outlier for that.
_ROUNDING = 1e-9
_DAMPING = 1e-6
_CONVERGED = 1e-5


@dataclass(frozen=True, eq=False)
class PosePrior:
    """What other sources say about keyframe poses.

    ``w_T_c`` (K, 4, 4) of ``keyframes`` (K,); ``covariance`` (K, 6, 6) of rotation vector (rad) and
    translation (world unit), both in the camera's own frame. ``independent``: how many independent
    measurements an edge counts as against them (its pixels are far from independent).
    """

    keyframes: Ids
    w_T_c: Array
    covariance: Array
    independent: float = 16.0


@dataclass(frozen=True, eq=False)
class GraphSolution:
    """``S`` (N, 4, 4); per edge ``residual`` (E,), root mean square distance over sqrt(s_i s_j), and
    ``switched_off`` (E,).
    """

    S: Array
    residual: Array
    switched_off: NDArray[np.bool_]


@dataclass(eq=False)
class SimilarityGraph:
    """Edges ``first``, ``second`` (E,) with ``moments`` (E, 8, 8), points a in the frame of first, b in that of second.

    ``free`` (N, 7): which increments of each keyframe may change (rotation, translation, log scale);
    at least one keyframe must be held in full, or have a prior, in each connected part.
    """

    first: Ids
    second: Ids
    moments: Array
    free: NDArray[np.bool_]
    prior: PosePrior | None = None
    _pattern: _Pattern = field(init=False, repr=False)
    _size: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weight = total_weight(self.moments)
        if not np.all(np.isfinite(weight) & (weight > 0)):
            worst = int(np.argmin(np.where(np.isfinite(weight), weight, -1.0)))
            raise GeometryError(
                f"edge ({self.first[worst]}, {self.second[worst]}) has weight {weight[worst]:.3g}; it must be positive"
            )
        self.moments = self.moments / weight[:, None, None]
        self._size = float(np.max(np.trace(self.moments, axis1=1, axis2=2)))
        self._pattern = _Pattern(self.first, self.second, self.free)

    def solve(self, S: Array, *, robust: bool = True, iterations: int = 20) -> GraphSolution:
        """Solve from the start ``S`` (N, 4, 4); raises ``GeometryError`` if the system is singular.

        ``robust`` switches outlier edges off; a graph whose worst edge is no outlier is solved without the kernel.
        """
        weight = np.ones(len(self.first))
        S, squared = self._descend(S, weight, iterations)
        if robust and len(squared) > 2:
            width = float(np.max(squared))
            while True:
                usual = OUTLIER_RATIO**2 * max(self._usual(squared), _ROUNDING * self._size)
                if not squared.max() > usual or width <= usual:
                    break
                width = max(width / _WIDTH_STEP, usual)
                weight = (width / (width + squared)) ** 2
                S, squared = self._descend(S, weight, iterations)
        return GraphSolution(S, np.sqrt(squared), weight < OFF_WEIGHT)

    def residuals(self, S: Array) -> Array:
        """(E,) root mean square distances over sqrt(s_i s_j)."""
        return np.sqrt(np.maximum(self._blocks(S)[0], 0.0))

    def _usual(self, squared: Array) -> float:
        """Squared residual of a typical edge, bounded below by the rounding of the moments."""
        return max(float(np.median(squared)), 1e-12 * self._size)

    def _blocks(self, S: Array) -> tuple[Array, Array, Array]:
        return normal_blocks(self.moments, S[self.first], S[self.second])

    def _descend(self, S: Array, weight: Array, iterations: int) -> tuple[Array, Array]:
        """Levenberg-Marquardt steps for fixed edge weights."""
        cost, gradient, hessian = self._blocks(S)
        unit = self._usual(cost)
        value, damping = self._value(S, weight, cost, unit), _DAMPING
        for _ in range(iterations):
            g, diagonal, blocks = self._normal(S, weight, gradient, hessian, unit)
            while True:
                xi = self._pattern.solve(-g, diagonal, blocks, damping)
                moved = retract(S, xi)
                found = self._blocks(moved)
                new = self._value(moved, weight, found[0], unit)
                if new <= value * (1 + 1e-12) or damping > 1e6:
                    break
                damping = max(damping * 10, 1e-4)
            if new > value:
                return S, np.maximum(cost, 0.0)
            done = value - new <= _CONVERGED * value
            S, value, damping = moved, new, max(damping / 10, 1e-9)
            cost, gradient, hessian = found
            if done:
                break
        return S, np.maximum(cost, 0.0)

    def _value(self, S: Array, weight: Array, cost: Array, unit: float) -> float:
        value = float(weight @ cost)
        if self.prior is not None:
            r, information, _ = self._prior_terms(S, unit)
            value += float(np.einsum("ki,kij,kj->", r, information, r))
        return value

    def _normal(
        self, S: Array, weight: Array, gradient: Array, hessian: Array, unit: float
    ) -> tuple[Array, Array, Array]:
        """Gradient (N, 7), diagonal blocks (N, 7, 7) and off-diagonal blocks (E, 7, 7)."""
        count = len(S)
        g, diagonal = np.zeros((count, DOF)), np.zeros((count, DOF, DOF))
        gradient, hessian = weight[:, None] * gradient, weight[:, None, None] * hessian
        for ends, part in ((self.first, slice(0, DOF)), (self.second, slice(DOF, None))):
            np.add.at(g, ends, gradient[:, part])
            np.add.at(diagonal, ends, hessian[:, part, part])
        if self.prior is not None:
            r, information, J = self._prior_terms(S, unit)
            JtL: Array = 2.0 * np.swapaxes(J, 1, 2) @ information
            np.add.at(g, self.prior.keyframes, np.einsum("kij,kj->ki", JtL, r))
            np.add.at(diagonal, self.prior.keyframes, JtL @ J)
        return g, diagonal, hessian[:, :DOF, DOF:]

    def _prior_terms(self, S: Array, unit: float) -> tuple[Array, Array, Array]:
        """Residuals (K, 6), information (K, 6, 6) in units of the edges' cost, Jacobians (K, 6, 7)."""
        prior = self.prior
        assert prior is not None
        own, target = S[prior.keyframes], prior.w_T_c
        scale = scale_of(own)
        R, R_t = own[:, :3, :3] / scale[:, None, None], np.swapaxes(target[:, :3, :3], 1, 2)
        turn = Rotation.from_matrix(R_t @ R).as_rotvec()
        r = np.concatenate([turn, np.einsum("kij,kj->ki", R_t, own[:, :3, 3] - target[:, :3, 3])], axis=1)
        J = np.zeros((len(own), 6, DOF))
        J[:, :3, :3] = np.eye(3)
        J[:, 3:, 3:6] = R_t @ own[:, :3, :3]
        information = np.linalg.inv(prior.covariance) * (unit / prior.independent)
        return r, information.astype(np.float64), J


class _Pattern:
    """The layout of the blocks in the normal equations, computed once per graph."""

    def __init__(self, first: Ids, second: Ids, free: NDArray[np.bool_]) -> None:
        self._count = len(free)
        self._free = np.flatnonzero(free.ravel())
        low, high = np.minimum(first, second), np.maximum(first, second)
        self._swap = first > second
        joined, self._slot = np.unique(low * self._count + high, return_inverse=True)
        self._low, self._high = joined // self._count, joined % self._count

    def solve(self, right: Array, diagonal: Array, blocks: Array, damping: float) -> Array:
        """Increments (N, 7), 0 where held; ``damping`` relative to the diagonal."""
        upper = np.zeros((len(self._low), DOF, DOF))
        np.add.at(upper, self._slot, np.where(self._swap[:, None, None], np.swapaxes(blocks, 1, 2), blocks))
        along = np.arange(DOF)
        diagonal = diagonal.copy()
        diagonal[:, along, along] *= 1.0 + damping
        size = self._count * DOF
        xi = np.zeros(size)
        if len(self._free) == 0:
            return xi.reshape(-1, DOF)
        b = right.ravel()[self._free]
        solver = self._dense if len(self._free) <= _DENSE_UNKNOWNS else self._sparse
        xi[self._free] = solver(diagonal, upper, b)
        if not np.isfinite(xi).all():
            raise _singular(len(self._free))
        return xi.reshape(-1, DOF)

    def _dense(self, diagonal: Array, upper: Array, b: Array) -> Array:
        H = np.zeros((self._count, DOF, self._count, DOF))
        each = np.arange(self._count)
        H[each, :, each, :] = diagonal
        H[self._low, :, self._high, :] = upper
        H[self._high, :, self._low, :] = np.swapaxes(upper, 1, 2)
        H = H.reshape(self._count * DOF, -1)[np.ix_(self._free, self._free)]
        try:
            return cho_solve(cho_factor(H, check_finite=False), b)
        except np.linalg.LinAlgError as error:
            raise _singular(len(b)) from error

    def _sparse(self, diagonal: Array, upper: Array, b: Array) -> Array:
        each = np.arange(self._count)
        rows, columns = np.concatenate([each, self._low, self._high]), np.concatenate([each, self._high, self._low])
        data = np.concatenate([diagonal, upper, np.swapaxes(upper, 1, 2)])
        order = np.lexsort((columns, rows))
        starts = np.searchsorted(rows[order], np.arange(self._count + 1))
        H = csc_array(bsr_array((data[order], columns[order], starts), shape=(self._count * DOF, self._count * DOF)))
        if len(b) < H.shape[0]:
            H = H[:, self._free][self._free]
        try:
            return splu(csc_array(H), "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}).solve(b)
        except RuntimeError as error:
            raise _singular(len(b)) from error


def _singular(unknowns: int) -> GeometryError:
    return GeometryError(
        f"the similarity graph of {unknowns} unknowns is singular; each part needs a held keyframe or a prior"
    )
