"""The linear algebra of a bundle adjustment: normal equations, Schur complement, back-substitution.

Blocks are kept per observation, point and pose; the structure (who shares a point with whom) is
sorted once, so that a solve is a handful of passes over arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.spatial.transform import Rotation

from dust3r_ros.types import Array


@dataclass(frozen=True, eq=False)
class Problem:
    """What is adjusted.

    ``w_T_c`` (C, 4, 4) poses, ``camera`` (C,) which focal a pose uses, ``focals`` (F,) pixels,
    ``points`` (P, 3) in w. Observation m: point ``point[m]`` seen by pose ``view[m]`` at
    ``offset[m]`` (M, 2), pixels from the principal point, with standard deviation ``sigma``.
    ``free`` (C,) says which poses move; ``free_focal`` (F,) which focals do, each with a prior
    log-normal around ``focal_prior`` of width ``focal_prior_sigma`` (inf: none).
    """

    w_T_c: Array
    camera: np.ndarray
    focals: Array
    points: Array
    view: np.ndarray
    point: np.ndarray
    offset: Array
    free: np.ndarray
    free_focal: np.ndarray
    focal_prior: Array
    focal_prior_sigma: float = float("inf")
    sigma: float = 1.0


@dataclass(frozen=True, eq=False)
class State:
    c_T_w: Array
    log_focals: Array
    points: Array

    def moved(self, step: tuple[Array, Array, Array], structure: Structure) -> State:
        poses, focals, points = step
        c_T_w = self.c_T_w.copy()
        delta = np.broadcast_to(np.eye(4), (len(poses), 4, 4)).copy()
        delta[:, :3, :3] = Rotation.from_rotvec(poses[:, 3:]).as_matrix()
        delta[:, :3, 3] = poses[:, :3]
        c_T_w[structure.free] = delta @ c_T_w[structure.free]
        log_focals = self.log_focals.copy()
        log_focals[structure.free_focal] += np.clip(focals, -0.5, 0.5)
        return replace(self, c_T_w=c_T_w, log_focals=log_focals, points=self.points + points)


class Structure:
    """Index tables that depend on who sees what, not on the state."""

    def __init__(self, problem: Problem) -> None:
        self.free = np.flatnonzero(problem.free)
        self.free_focal = np.flatnonzero(problem.free_focal)
        slot = np.full(len(problem.w_T_c), -1)
        slot[self.free] = np.arange(len(self.free))
        focal_slot = np.full(len(problem.focals), -1)
        focal_slot[self.free_focal] = np.arange(len(self.free_focal))
        self.slot = slot[problem.view]
        self.focal_slot = focal_slot[problem.camera[problem.view]]
        self.point = problem.point
        # Pairs (a, b) of observations of one point by free poses, slot a <= slot b, grouped by block of S.
        moving = np.flatnonzero(self.slot >= 0)
        moving = moving[np.lexsort((self.slot[moving], problem.point[moving]))]
        a, b = _pairs_within_groups(problem.point[moving])
        a, b = moving[a], moving[b]
        block = self.slot[a] * len(self.free) + self.slot[b]
        order = np.argsort(block, kind="stable")
        self.pair_a, self.pair_b = a[order], b[order]
        self.blocks, self.block_starts = np.unique(block[order], return_index=True)


def _pairs_within_groups(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (i, j), i <= j, with group[i] == group[j]; ``group`` is sorted."""
    n = len(group)
    if n == 0:
        return np.zeros(0, int), np.zeros(0, int)
    ends = np.searchsorted(group, group, side="right")
    counts = ends - np.arange(n)
    i = np.repeat(np.arange(n), counts)
    j = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts) + i
    return i, j


def in_cameras(problem: Problem, state: State) -> Array:
    T = state.c_T_w[problem.view]
    return np.einsum("mij,mj->mi", T[:, :3, :3], state.points[problem.point]) + T[:, :3, 3]


def prior_error(problem: Problem, state: State) -> Array:
    error = (state.log_focals - np.log(problem.focal_prior)) / problem.focal_prior_sigma
    return np.where(problem.free_focal, error, 0.0)


@dataclass(frozen=True, eq=False)
class Blocks:
    U: Array  # (C, 6, 6) free poses
    V: Array  # (P, 3, 3)
    W: Array  # (M, 6, 3) pose x point of each observation
    Wf: Array  # (F, P, 3) focal x point
    Uf: Array  # (C, F, 6) pose x focal
    ff: Array  # (F,)
    bc: Array  # (C, 6)
    bp: Array  # (P, 3)
    bf: Array  # (F,)


def _sum_by(index: np.ndarray, values: Array, size: int) -> Array:
    """Sum of rows of ``values`` by ``index``; negative indices are left out."""
    keep = index >= 0
    width = int(np.prod(values.shape[1:]))
    flat = values[keep].reshape(int(keep.sum()), width)
    cells = (index[keep][:, None] * width + np.arange(width)).ravel()
    return np.bincount(cells, flat.ravel(), size * width).astype(np.float64).reshape((size, *values.shape[1:]))


def normal_equations(
    problem: Problem, structure: Structure, state: State, errors: Array, valid: np.ndarray, huber_px: float
) -> Blocks:
    X = in_cameras(problem, state)
    z = np.where(valid, X[:, 2], 1.0)
    focal = np.exp(state.log_focals)[problem.camera[problem.view]]
    r = np.linalg.norm(errors, axis=1)
    weight = np.where(valid, np.minimum(1.0, huber_px / np.maximum(r, 1e-12)), 0.0) / problem.sigma**2
    root = np.sqrt(weight)[:, None]
    xy = X[:, :2] / z[:, None]
    # d(pixel)/d(X): f/z [1 0 -x/z; 0 1 -y/z]
    D = np.zeros((len(X), 2, 3))
    D[:, 0, 0] = D[:, 1, 1] = focal / z
    D[:, :, 2] = -(focal / z)[:, None] * xy
    D *= root[:, :, None]
    e = errors * root
    # d(X)/d(pose): [I | -[X]x] for a perturbation on the left of c_T_w
    A = np.empty((len(X), 2, 6))
    A[:, :, :3] = D
    A[:, :, 3] = D[:, :, 2] * X[:, None, 1] - D[:, :, 1] * X[:, None, 2]
    A[:, :, 4] = D[:, :, 0] * X[:, None, 2] - D[:, :, 2] * X[:, None, 0]
    A[:, :, 5] = D[:, :, 1] * X[:, None, 0] - D[:, :, 0] * X[:, None, 1]
    B = D @ state.c_T_w[problem.view][:, :3, :3]
    g = focal[:, None] * xy * root  # d(pixel)/d(log focal)
    C, P, F = len(structure.free), len(state.points), len(structure.free_focal)
    At, Bt = np.swapaxes(A, 1, 2), np.swapaxes(B, 1, 2)
    Wf = np.zeros((F, P, 3))
    Uf = np.zeros((C, F, 6))
    ff, bf = np.zeros(F), np.zeros(F)
    prior = prior_error(problem, state)
    for k, index in enumerate(structure.free_focal):
        mine = structure.focal_slot == k
        gk = np.where(mine[:, None], g, 0.0)
        Wf[k] = _sum_by(structure.point, np.einsum("mi,mij->mj", gk, B), P)
        Uf[:, k] = _sum_by(structure.slot, np.einsum("mi,mij->mj", gk, A), C)
        ff[k] = np.sum(gk * gk) + 1.0 / problem.focal_prior_sigma**2
        bf[k] = -np.sum(gk * e) - prior[index] / problem.focal_prior_sigma
    return Blocks(
        U=_sum_by(structure.slot, At @ A, C),
        V=_sum_by(structure.point, Bt @ B, P),
        W=At @ B,
        Wf=Wf,
        Uf=Uf,
        ff=ff,
        bc=-_sum_by(structure.slot, np.einsum("mij,mi->mj", A, e), C),
        bp=-_sum_by(structure.point, np.einsum("mij,mi->mj", B, e), P),
        bf=bf,
    )


def _reduced(blocks: Blocks, structure: Structure, damping: float) -> tuple[Array, Array, Array]:
    """Schur complement S over (poses, focals), its right side and the inverted point blocks."""
    C, F = len(structure.free), len(structure.free_focal)
    n = 6 * C
    V = blocks.V.copy()
    diagonal = np.arange(3)
    V[:, diagonal, diagonal] *= 1.0 + damping
    V[:, diagonal, diagonal] += 1e-12 + 1e-9 * np.trace(blocks.V, axis1=1, axis2=2)[:, None]
    Vi = np.linalg.inv(V)
    T = blocks.W @ Vi[structure.point]  # (M, 6, 3)
    S = np.zeros((n + F, n + F))
    S4 = np.zeros((C, C, 6, 6))
    if len(structure.pair_a):
        products = T[structure.pair_a] @ np.swapaxes(blocks.W[structure.pair_b], 1, 2)
        sums = np.add.reduceat(products, structure.block_starts, axis=0)
        S4.reshape(C * C, 6, 6)[structure.blocks] = -sums
        lower = np.swapaxes(np.swapaxes(S4, 0, 1), 2, 3).copy()
        lower[np.arange(C), np.arange(C)] = 0.0
        S4 += lower
    U = blocks.U.copy()
    six = np.arange(6)
    U[:, six, six] *= 1.0 + damping
    U[:, six, six] += 1e-9
    S4[np.arange(C), np.arange(C)] += U
    S[:n, :n] = S4.transpose(0, 2, 1, 3).reshape(n, n)
    Tb = np.einsum("mij,mj->mi", T, blocks.bp[structure.point])
    rhs = np.concatenate([(blocks.bc - _sum_by(structure.slot, Tb, C)).ravel(), blocks.bf])
    for k in range(F):
        border = blocks.Uf[:, k] - _sum_by(structure.slot, np.einsum("mij,mj->mi", T, blocks.Wf[k][structure.point]), C)
        S[:n, n + k] = S[n + k, :n] = border.ravel()
        WV = np.einsum("pi,pij->pj", blocks.Wf[k], Vi)
        for j in range(F):
            S[n + k, n + j] = -np.sum(WV * blocks.Wf[j])
        S[n + k, n + k] += blocks.ff[k] * (1.0 + damping)
        rhs[n + k] -= np.sum(WV * blocks.bp)
    return S, rhs, Vi


def solve(blocks: Blocks, structure: Structure, damping: float) -> tuple[Array, Array, Array] | None:
    """Step of (poses (C, 6), log focals (F,), points (P, 3)); None where S is not positive definite."""
    S, rhs, Vi = _reduced(blocks, structure, damping)
    C = len(structure.free)
    try:
        x = cho_solve(cho_factor(S, lower=True), rhs) if len(rhs) else rhs
    except (LinAlgError, ValueError):
        return None
    poses, focals = x[: 6 * C].reshape(C, 6), x[6 * C :]
    bp = blocks.bp.copy()
    moving = structure.slot >= 0
    back = np.einsum("mij,mi->mj", blocks.W[moving], poses[structure.slot[moving]])
    bp -= _sum_by(structure.point[moving], back, len(bp))
    for k, value in enumerate(focals):
        bp -= blocks.Wf[k] * value
    return poses, focals, np.einsum("pij,pj->pi", Vi, bp)


def focal_std_of(blocks: Blocks, structure: Structure) -> Array:
    """Standard deviation of each free log focal, the others integrated out; inf where unobservable."""
    F = len(structure.free_focal)
    std = np.zeros(len(structure.free_focal))
    if F == 0:
        return std
    S, _, _ = _reduced(blocks, structure, 1e-9)
    n = len(S) - F
    try:
        marginal = S[n:, n:] - S[n:, :n] @ np.linalg.solve(S[:n, :n], S[:n, n:]) if n else S
        variance = np.diag(np.linalg.inv(marginal))
    except LinAlgError:
        return np.full(F, np.inf)
    return np.where(variance > 0, np.sqrt(np.maximum(variance, 0.0)), np.inf)
