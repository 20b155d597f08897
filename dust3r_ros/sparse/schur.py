"""The linear algebra of a bundle adjustment: normal equations, Schur complement, back-substitution.

A point's block of the normal equations is the inverse of G^T G; with Y = G W^T, where W is an
observation's block of pose and point, the Schur complement is a sum of products Y^T Y'
over observations of one point. They are summed by pair of poses, one matrix product each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse import bsr_array
from scipy.sparse.linalg import splu

from dust3r_ros.sparse.bundle_problem import (
    FOCAL,
    KINDS,
    BundleProblem,
    Fit,
    Huber,
    Observations,
    PointTerms,
    State,
    intrinsic_slope,
    point_terms,
    whitening,
)
from dust3r_ros.types import Array

DENSE_POSES = 150  # more are solved as a sparse system
_PAIRS_AT_ONCE = 1 << 16
_SIX = np.arange(6)


@dataclass(frozen=True, eq=False)
class Normal:
    """Normal equations over free poses (C), free intrinsics (K) and points (P).

    ``points`` the points' own part; ``ray`` (3, n) of the n observations by free poses; ``U``
    (C, 6, 6) pose, ``Uf`` (K, C, 6) intrinsic x pose, ``Wf`` (K, 3, P) intrinsic x point, ``ff`` (K, K)
    intrinsics; right sides ``bc`` (C, 6) and ``bf`` (K,).
    """

    points: PointTerms
    ray: Array
    U: Array
    Uf: Array
    Wf: Array
    ff: Array
    bc: Array
    bf: Array


def prior_error(problem: BundleProblem, observations: Observations, state: State) -> Array:
    """(K,) deviation of the free intrinsics from their priors, in standard deviations; then (F,) steps of focals."""
    camera, kind = observations.unknowns.T
    middle = np.where(kind == FOCAL, np.log(problem.focal_prior[camera]), 0.0)
    error = np.asarray((state.intrinsics[camera, kind] - middle) / _prior_sigmas(problem, observations))
    if problem.focal_walk is None:
        return error
    return np.concatenate([error, np.diff(state.intrinsics[:, FOCAL], prepend=0.0) / problem.focal_walk])


def _prior_sigmas(problem: BundleProblem, observations: Observations) -> Array:
    sigma = np.full((len(problem.focals), KINDS), np.inf)
    sigma[:, FOCAL] = problem.focal_prior_sigma
    if problem.lens_prior_sigma is not None:
        sigma[:, FOCAL + 1 :] = problem.lens_prior_sigma
    return np.asarray(sigma[tuple(observations.unknowns.T)])


def normal_equations(problem: BundleProblem, observations: Observations, state: State, at: Fit, loss: Huber) -> Normal:
    """Gauss-Newton with the loss as weights, at a state and its fit."""
    terms = point_terms(observations, at, loss)
    C, n = observations.free_poses, observations.free
    kinds = sorted(set(observations.unknowns[:, 1].tolist()))
    slopes = {kind: intrinsic_slope(kind, observations, at) * terms.root for kind in kinds}
    ray = at.ray[:, :n]
    J = np.empty((2, 7 + len(kinds), n))  # derivative with respect to the pose, to the intrinsics; the error
    # A shift of the center moves the ray back; a rotation v about it moves it by v x ray.
    J[:, :3] = -terms.slope[..., :n]
    J[:, 3:6] = _cross(ray, terms.slope[..., :n])
    for k, kind in enumerate(kinds):
        J[:, 6 + k] = slopes[kind][:, :n]
    J[:, -1] = terms.error[:, :n]
    gram = np.empty((C, J.shape[1], J.shape[1]))
    for c in range(C):
        mine = J[:, :, observations.starts[c] : observations.starts[c + 1]]
        gram[c] = (mine @ mine.transpose(0, 2, 1)).sum(axis=0)
    camera = problem.camera[observations.poses[:C]]
    K = len(observations.unknowns)
    Uf, Wf, own = np.zeros((K, C, 6)), np.zeros((K, 3, observations.points)), []
    for k, (focal, kind) in enumerate(observations.unknowns.tolist()):
        own.append(slopes[kind] * (observations.focal == focal))
        Wf[k] = observations.by_point(np.einsum("km,kim->im", own[k], terms.slope))
        Uf[k] = np.where((camera == focal)[:, None], gram[:, :6, 6 + kinds.index(kind)], 0.0)
    ff, bf = _intrinsics_part(np.array(own).reshape(K, terms.error.size), terms, problem, observations, state)
    return Normal(terms, ray, gram[:, :6, :6], Uf, Wf, ff, -gram[:, :6, -1], bf)


def _intrinsics_part(
    slopes: Array, terms: PointTerms, problem: BundleProblem, observations: Observations, state: State
) -> tuple[Array, Array]:
    """(K, K) and right side (K,) of the free intrinsics with their priors; ``slopes`` (K, 2 M)."""
    information, pull = priors(problem, observations, state)
    return slopes @ slopes.T + information, pull - slopes @ terms.error.ravel()


def priors(problem: BundleProblem, observations: Observations, state: State) -> tuple[Array, Array]:
    """The priors' information on the free intrinsics (K, K), and minus their gradient (K,)."""
    sigma, error = _prior_sigmas(problem, observations), prior_error(problem, observations, state)
    K = len(sigma)
    information, pull = np.diag(1.0 / sigma**2), -error[:K] / sigma
    if problem.focal_walk is not None:
        camera, kind = observations.unknowns.T
        own = np.where(kind == FOCAL, camera, -2)
        apart = np.arange(len(problem.focals))[:, None]
        steps = ((apart == own).astype(float) - (apart == own + 1)) / problem.focal_walk[:, None]
        information, pull = information + steps.T @ steps, pull - steps.T @ error[K:]
    return information, pull


def _cross(a: Array, b: Array) -> Array:
    """a x b of (3, M) and (..., 3, M)."""
    result = np.empty_like(b)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        result[..., i, :] = a[j] * b[..., k, :] - a[k] * b[..., j, :]
    return result


class PosePairs:
    """Pairs of observations of one point by two different free poses: found once, summed at each solve."""

    def __init__(self, observations: Observations) -> None:
        self._starts, C = 3 * observations.starts, observations.free_poses
        point, pose = observations.point[: observations.free], observations.pose[: observations.free]
        order = np.lexsort((pose, point))
        a, b = _pairs_within_groups(point[order])
        a, b = order[a], order[b]
        apart = pose[a] != pose[b]  # a pose that saw a point twice would only make steps shorter
        a, b = a[apart], b[apart]
        block = pose[a] * C + pose[b]
        order = np.argsort(block, kind="stable")
        self._a, self._b = a[order], b[order]
        blocks, starts = np.unique(block[order], return_index=True)
        self.first, self.second = np.divmod(blocks, max(C, 1))  # poses of each block, first < second
        self._block_starts = np.append(starts, len(a))

    def sums(self, Y: Array) -> tuple[Array, Array]:
        """Sums of Y^T Y' of ``Y`` (3, 6, n): each pose with itself (C, 6, 6), and each block (B, 6, 6)."""
        rows = np.ascontiguousarray(Y.transpose(2, 0, 1))
        flat = rows.reshape(-1, 6)
        own = np.empty((len(self._starts) - 1, 6, 6))
        for c in range(len(own)):
            mine = flat[self._starts[c] : self._starts[c + 1]]
            own[c] = mine.T @ mine
        mixed = np.empty((len(self.first), 6, 6))
        starts, block = self._block_starts, 0
        while block < len(mixed):  # a few blocks at a time bound the memory
            last = max(int(np.searchsorted(starts, starts[block] + _PAIRS_AT_ONCE, side="right")) - 1, block + 1)
            chunk = slice(starts[block], starts[last])
            a, b = (np.take(rows, index[chunk], axis=0).reshape(-1, 6) for index in (self._a, self._b))
            edges = 3 * (starts[block : last + 1] - starts[block])
            for k in range(last - block):
                mixed[block + k] = a[edges[k] : edges[k + 1]].T @ b[edges[k] : edges[k + 1]]
            block = last
        return own, mixed


def _pairs_within_groups(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (i, j), i < j, with group[i] == group[j]; ``group`` is sorted."""
    counts = np.searchsorted(group, group, side="right") - np.arange(len(group)) - 1
    i = np.repeat(np.arange(len(group)), counts)
    return i, np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts) + i + 1


@dataclass(frozen=True, eq=False)
class Step:
    """Of poses (C, 6), intrinsics (K,) and points (3, P); ``information`` (K, K) on the intrinsics, all else free."""

    poses: Array
    unknowns: Array
    points: Array
    information: Array


def solve(normal: Normal, observations: Observations, pairs: PosePairs, damping: float) -> Step | None:
    """The Levenberg-Marquardt step; None if the reduced system is not positive definite."""
    n, terms = observations.free, normal.points
    point, pose = observations.point[:n], observations.pose[:n]
    G = whitening(terms.information, damping)
    Q = np.einsum("ikm,kjm->ijm", np.take(G, point, axis=2), terms.said[..., :n])
    Y = np.concatenate([-Q, _cross(normal.ray, Q)], axis=1)
    # Right side and intrinsics, treated alike from here: (1 + K, 3, P) of points, (1 + K, C, 6) of poses.
    y = np.einsum("ijp,fjp->fip", G, np.concatenate([terms.pull[None], normal.Wf]))
    borders = np.concatenate([normal.bc[None], normal.Uf])
    borders -= observations.by_pose(np.einsum("ijm,fim->fjm", Y, np.take(y, point, axis=2))).transpose(0, 2, 1)
    inner = np.einsum("aip,bip->ab", y, y)
    own, mixed = pairs.sums(Y)
    own = normal.U - own
    own[:, _SIX, _SIX] += damping * normal.U[:, _SIX, _SIX] + 1e-9
    flat = borders.reshape(len(borders), 6 * observations.free_poses)
    try:
        X = _solved(own, -mixed, pairs, flat.T)
        found = eliminated(X, flat, inner, normal.ff, normal.bf, damping)
    except (LinAlgError, RuntimeError):  # of the dense and the sparse solver
        return None
    if found is None:
        return None
    poses, unknowns, information = found
    back = y[0] - np.einsum("fip,f->ip", y[1:], unknowns)
    back -= observations.by_point(np.einsum("ijm,jm->im", Y, np.take(poses.T, pose, axis=1)))
    return Step(poses, unknowns, np.einsum("jip,jp->ip", G, back), information)


def eliminated(
    X: Array, borders: Array, inner: Array, ff: Array, bf: Array, damping: float
) -> tuple[Array, Array, Array] | None:
    """Poses (C, 6), unknowns (K,) and the information on these (K, K), all else free; None if they are not finite.

    ``X`` (6 C, 1 + K) solves the poses' part for ``borders`` (1 + K, 6 C); ``inner`` (1 + K, 1 + K) is what the
    elimination of points subtracts from the unknowns' ``ff`` (K, K) and ``bf`` (K,). Raises ``LinAlgError``.
    """
    damped = ff + damping * np.diag(np.diag(ff))
    information = damped - inner[1:, 1:] - borders[1:] @ X[:, 1:]
    unknowns = np.linalg.solve(information, bf - inner[1:, 0] - borders[1:] @ X[:, 0])
    if not (np.isfinite(X).all() and np.isfinite(unknowns).all()):
        return None
    return np.asarray(X[:, 0] - X[:, 1:] @ unknowns).reshape(-1, 6), np.asarray(unknowns), information


def _solved(own: Array, mixed: Array, pairs: PosePairs, right: Array) -> Array:
    """S^-1 right (6 C, K) of the symmetric S with blocks ``own`` on its diagonal and ``mixed`` at ``pairs``."""
    C = len(own)
    if C == 0:
        return right
    a, b = pairs.first, pairs.second
    if C <= DENSE_POSES:
        S = np.zeros((C, 6, C, 6))
        S[np.arange(C), :, np.arange(C)] = own
        S[b, :, a] = np.swapaxes(mixed, 1, 2)  # Cholesky reads the lower half
        return np.asarray(
            cho_solve(cho_factor(S.reshape(6 * C, 6 * C), lower=True, check_finite=False), right, check_finite=False)
        )
    row, column = np.concatenate([np.arange(C), a, b]), np.concatenate([np.arange(C), b, a])
    order = np.lexsort((column, row))
    blocks = np.concatenate([own, mixed, np.swapaxes(mixed, 1, 2)])[order]
    starts = np.searchsorted(row[order], np.arange(C + 1))
    S = bsr_array((blocks, column[order], starts), shape=(6 * C, 6 * C)).tocsc()
    factor = splu(S, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return np.asarray(factor.solve(right))


def std_of(step: Step | None, observations: Observations) -> Array:
    """Standard deviations (F, 5) of the intrinsics from an undamped step; inf where unobservable, 0 where held."""
    std = np.zeros((len(observations.radius), KINDS))
    variance = np.full(len(observations.unknowns), np.inf)
    if step is not None:
        try:
            found = np.diag(np.linalg.inv(step.information))
            variance = np.where(found > 0, found, np.inf)
        except LinAlgError:
            pass
    std[tuple(observations.unknowns.T)] = np.sqrt(variance)
    return std
