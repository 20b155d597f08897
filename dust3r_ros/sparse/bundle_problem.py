"""The variables of a bundle adjustment (poses, focals, lenses, points), its observations and their errors.

Inside the adjustment the observation is the last axis of an array (components first) and those of
one pose are contiguous, so that a step is a few dozen passes over contiguous numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from dust3r_ros.geometry.lens import Lens, shown_radius, turning_radius
from dust3r_ros.types import Array

_MAX_STEP = (0.5, 0.1, 0.1, 0.1, 0.1, 0.1)  # of log focal, radial terms and center
KINDS = 6  # of intrinsics of a camera
FOCAL, RADIAL, SECOND, THIRD, CENTER_X, CENTER_Y = range(KINDS)  # their columns


@dataclass(frozen=True, eq=False)
class BundleProblem:
    """The input of a bundle adjustment.

    ``w_T_c`` (C, 4, 4) poses, ``camera`` (C,) which focal a pose uses, ``focals`` (F,) pixels,
    ``points`` (P, 3) in w. Observation m: point ``point[m]`` seen by pose ``view[m]`` at
    ``offset[m]`` (M, 2), pixels from the image centre, with standard deviation ``sigma``, times
    ``spread[m]`` (M,) if there is any; a pose sees a point once.
    ``free`` (C,) says which poses move; ``free_focal`` (F,) which focals do, each with a prior
    log-normal around ``focal_prior`` of width ``focal_prior_sigma`` (one or (F,); inf: none). ``focal_walk`` (F,), if
    there: by how much the log of a focal differs from that of the camera before it, a standard deviation. ``lenses``
    (F), all plain if empty; ``free_lens`` (F, 5) says which lenses' three radial terms and centers (x, y) move, each
    with a prior around 0 of width ``lens_prior_sigma`` (F, 5); centers are in units of the lens's radius.
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
    focal_prior_sigma: float | Array = float("inf")
    focal_walk: Array | None = None
    sigma: float = 1.0
    spread: Array | None = None
    lenses: Sequence[Lens] = ()
    free_lens: np.ndarray | None = None
    lens_prior_sigma: Array | None = None


def grouped(keys: np.ndarray, values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each of the ``keys`` (M,), which are sorted, with its ``values`` (of M)."""
    every, starts = np.unique(keys, return_index=True)
    return zip(every.tolist(), np.split(values, starts[1:]), strict=False)  # none of none is one empty part


def ranks(index: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The unique values of ``index`` (M,), all below ``size``, in order, and the rank of each entry."""
    used = np.bincount(index, minlength=size) > 0
    return np.flatnonzero(used), (np.cumsum(used) - 1)[index]


class Summing:
    """Sums of values by their ``group`` (M,), for ``count`` groups."""

    def __init__(self, group: np.ndarray, count: int) -> None:
        starts = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=count))])
        members = np.argsort(group, kind="stable")
        self._matrix = csr_array((np.ones(len(group)), members, starts), shape=(count, len(group)))

    def sums(self, values: Array) -> Array:
        """(..., count) of values (..., M)."""
        rows = values.reshape(int(np.prod(values.shape[:-1])), values.shape[-1])
        return np.ascontiguousarray((self._matrix @ rows.T).T).reshape(*values.shape[:-1], self._matrix.shape[0])


class Observations:
    """The observations of a problem, those of free poses first and each pose's together.

    ``poses`` (C,) of the problem in that order, ``free_poses`` of them free. Per observation:
    ``order`` (its index in the problem), ``pose``, ``point``, ``focal``, ``spread`` (M,) and ``offset`` (2, M).
    The first ``free`` observations are of free poses, those of pose c in ``starts[c]:starts[c + 1]``.
    ``unknowns`` (K, 2) are the free intrinsics: which camera, which of ``FOCAL``, ``RADIAL``,
    ``SECOND``, ``THIRD``, ``CENTER_X`` and ``CENTER_Y``; ``radius`` (F,) where a lens's radial terms apply in full.
    """

    def __init__(self, problem: BundleProblem) -> None:
        self.poses = np.argsort(~problem.free, kind="stable")
        rank = np.empty_like(self.poses)
        rank[self.poses] = np.arange(len(rank))
        self.order = np.lexsort((problem.point, rank[problem.view]))
        view = problem.view[self.order]
        self.pose, self.point = rank[view], problem.point[self.order]
        self.focal = problem.camera[view]
        self.offset = np.ascontiguousarray(problem.offset[self.order].T)
        self.spread = np.ones(len(view)) if problem.spread is None else problem.spread[self.order]
        self.free_poses = int(problem.free.sum())
        held = np.zeros((len(problem.focals), KINDS - 1), bool)
        free = np.column_stack([problem.free_focal, held if problem.free_lens is None else problem.free_lens])
        self.unknowns = np.argwhere(free)
        self.radius = np.array([lens.radius for lens in problem.lenses]) if problem.lenses else np.ones(len(free))
        self.starts = np.searchsorted(self.pose, np.arange(self.free_poses + 1))
        self.free = int(self.starts[-1])
        self.points = len(problem.points)
        self._by_point = Summing(self.point, self.points)
        self._by_point_free = Summing(self.point[: self.free], self.points)
        self._by_pose = Summing(self.pose[: self.free], self.free_poses)

    def by_point(self, values: Array) -> Array:
        """Sums (..., P) of ``values`` (..., M), or of the free observations only, over each point's observations."""
        every = values.shape[-1] == len(self.point)
        return (self._by_point if every else self._by_point_free).sums(values)

    def by_pose(self, values: Array) -> Array:
        """Sums (..., free poses) of ``values`` (..., free observations)."""
        return self._by_pose.sums(values)


@dataclass(frozen=True, eq=False)
class State:
    """``rotation`` (C, 3, 3) from w into each camera and ``center`` (C, 3) in the order of the observations.

    ``intrinsics`` (F, 6): log focal, radial terms and center of the lens, in units of its radius;
    ``points`` (3, P) as in the problem.
    """

    rotation: Array
    center: Array
    intrinsics: Array
    points: Array

    @staticmethod
    def of(problem: BundleProblem, observations: Observations) -> State:
        """The initial state of a problem."""
        w_T_c = problem.w_T_c[observations.poses]
        rotation = np.ascontiguousarray(np.swapaxes(w_T_c[:, :3, :3], 1, 2))
        intrinsics = np.zeros((len(problem.focals), KINDS))
        intrinsics[:, FOCAL] = np.log(problem.focals)
        for row, lens in zip(intrinsics, problem.lenses, strict=False):
            row[RADIAL:] = lens.terms
        return State(rotation, w_T_c[:, :3, 3].copy(), intrinsics, np.ascontiguousarray(problem.points.T))

    def moved(self, poses: Array, unknowns: Array, points: Array, observations: Observations) -> State:
        """The state after a step of the free poses (C, 6), free intrinsics (K,) and points (3, P).

        A pose's step is the shift of its center and the rotation about it, both in w.
        """
        n = len(poses)
        rotation, center, intrinsics = self.rotation.copy(), self.center.copy(), self.intrinsics.copy()
        rotation[:n] = rotation[:n] @ _turns(poses[:, 3:])
        center[:n] += poses[:, :3]
        camera, kind = observations.unknowns.T
        limit = np.take(_MAX_STEP, kind)
        intrinsics[camera, kind] += np.clip(unknowns, -limit, limit)
        return State(rotation, center, intrinsics, self.points + points)

    def focals(self) -> Array:
        """(F,) pixels."""
        return np.asarray(np.exp(self.intrinsics[:, FOCAL]))

    def lenses(self, observations: Observations) -> tuple[Lens, ...]:
        """The lenses of the cameras."""
        return tuple(
            Lens(float(radius), float(radial), (float(radius * x), float(radius * y)), float(second), float(third))
            for radius, (_, radial, second, third, x, y) in zip(observations.radius, self.intrinsics, strict=True)
        )

    def turning(self) -> Array:
        """(F,) the turning radii of the lenses."""
        return np.array([turning_radius(*row[RADIAL:CENTER_X].tolist()) for row in self.intrinsics])

    def poses(self, observations: Observations) -> Array:
        """``w_T_c`` (C, 4, 4) in the order of the problem."""
        result = np.zeros((len(self.center), 4, 4))
        result[observations.poses, :3, :3] = np.swapaxes(self.rotation, 1, 2)
        result[observations.poses, :3, 3] = self.center
        result[:, 3, 3] = 1.0
        return result


def _turns(vectors: Array) -> Array:
    """(C, 3, 3) the rotations about ``vectors`` (C, 3) by their lengths (Rodrigues)."""
    angle = np.linalg.norm(vectors, axis=1)[:, None, None]
    cross = np.zeros((len(vectors), 3, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        cross[:, k, j], cross[:, j, k] = vectors[:, i], -vectors[:, i]
    turn = np.sinc(angle / np.pi) * cross + 0.5 * np.sinc(0.5 * angle / np.pi) ** 2 * (cross @ cross)
    return np.asarray(np.eye(3) + turn)


_MIN_DEPTH = 1e-6
_BEHIND_PX = 100.0
_LOADING = 1e-9  # of a point's information: keeps a point in place along directions that nothing determines


@dataclass(frozen=True)
class Huber:
    """Huber's loss: squares up to ``width`` pixels, linear beyond; ``sigma`` is the unit of pixel errors.

    Both times the ``spread`` (M,) of an observation.
    """

    width: float
    sigma: float = 1.0

    def cost(self, r: Array, spread: Array | float = 1.0) -> Array:
        """Loss of errors (M,) >= 0 in pixels."""
        within = np.minimum(r, self.width * spread)
        return within * (r - 0.5 * within) / (self.sigma * spread) ** 2

    def root_weight(self, r: Array, spread: Array | float = 1.0) -> Array:
        """(M,) factors of the errors whose squares then act like the loss."""
        return np.sqrt(np.minimum(1.0, self.width * spread / np.maximum(r, 1e-12))) / (self.sigma * spread)


@dataclass(frozen=True, eq=False)
class Fit:
    """How a state explains the observations.

    ``rotation`` (3, 3, M) and ``focal`` (M,) of the observing pose; ``ray`` (3, M) from its center to the point, in w;
    ``xy`` (2, M) and ``z`` (M,) of the point in the camera, ``xy`` divided by ``z``. ``shown`` (2, M): where the lens
    shows it, from the lens's center, in radii; ``along`` and ``across`` (M,): how much the lens enlarges there, in the
    direction from its center and across it. ``error`` (2, M) and its length ``r`` (M,) in pixels of the image: measured
    after the distortion is removed, errors would shrink with a lens that shrinks its image, and the cost with them.
    ``valid`` (M,) whether the point lies before the camera; ``cost`` (M,). A point behind its camera costs as an error
    of 100 pixels.
    """

    rotation: Array
    focal: Array
    ray: Array
    xy: Array
    z: Array
    shown: Array
    along: Array
    across: Array
    error: Array
    r: Array
    valid: np.ndarray
    cost: Array

    def through_lens(self, changes: Array) -> Array:
        """Changes (2, ..., M) of the positions in the images of pinholes, as the lenses show them."""
        if not self.along.ndim:
            return changes
        outward = self.shown / np.maximum(np.linalg.norm(self.shown, axis=0), 1e-12)
        outward = outward.reshape(2, *(1,) * (changes.ndim - 2), -1)
        return self.across * changes + (self.along - self.across) * (outward * changes).sum(axis=0) * outward


def fit(observations: Observations, state: State, loss: Huber, like: Fit | None = None) -> Fit:
    """Errors of a state; ``like``: a fit of the same poses, focals and lenses, which saves work."""
    if like is None:
        rotation = np.take(state.rotation.transpose(1, 2, 0), observations.pose, axis=2)
        focal = state.focals()[observations.focal]
    else:
        rotation, focal = like.rotation, like.focal
    ray = np.take(state.points, observations.point, axis=1)
    ray -= np.take(state.center.T, observations.pose, axis=1)
    X = np.einsum("ijm,jm->im", rotation, ray)
    valid = X[2] > _MIN_DEPTH
    z = np.where(valid, X[2], 1.0)
    xy = X[:2] / z
    shown, along, across, error = _through_lenses(observations, state, focal * xy)
    r = np.where(valid, np.sqrt(error[0] ** 2 + error[1] ** 2), _BEHIND_PX)
    return Fit(rotation, focal, ray, xy, z, shown, along, across, error, r, valid, loss.cost(r, observations.spread))


def _through_lenses(observations: Observations, state: State, ideal: Array) -> tuple[Array, Array, Array, Array]:
    """``shown``, ``along``, ``across`` and ``error`` of a ``Fit``, from positions (2, M) in the images of pinholes."""
    radius = observations.radius[observations.focal]
    shown = ideal / radius
    if not state.intrinsics[:, RADIAL:].any():
        return shown, np.ones(()), np.ones(()), ideal - observations.offset
    intrinsics = state.intrinsics.T[:, observations.focal]
    wanted = np.linalg.norm(shown, axis=0)
    found, along = shown_radius(wanted, intrinsics[RADIAL:CENTER_X], state.turning()[observations.focal])
    across = np.where(wanted > 0, found / np.maximum(wanted, 1e-12), 1.0)
    shown = across * shown
    return shown, along, across, radius * (shown + intrinsics[CENTER_X:]) - observations.offset


def intrinsic_slope(kind: int, observations: Observations, at: Fit) -> Array:
    """(2, M) derivative of the errors with respect to each one's log focal, a radial term or center (in radii)."""
    if kind == FOCAL:
        return at.through_lens(at.focal * at.xy)
    radius = observations.radius[observations.focal]
    if kind < CENTER_X:
        power = (at.shown**2).sum(axis=0) ** (kind - FOCAL)
        return np.asarray(-radius * at.along * power / at.across**2 * at.shown)
    slope = np.zeros_like(at.error)
    slope[kind - CENTER_X] = radius
    return slope


@dataclass(frozen=True, eq=False)
class PointTerms:
    """Errors weighted by the loss, linear in the points.

    ``root`` (M,) weights, ``error`` (2, M), its derivative ``slope`` (2, 3, M), ``said`` (3, 3, M)
    the information of each observation on its point, ``information`` (3, 3, P) their sum, and
    ``pull`` (3, P) minus the gradient.
    """

    root: Array
    error: Array
    slope: Array
    said: Array
    information: Array
    pull: Array


def point_terms(observations: Observations, at: Fit, loss: Huber) -> PointTerms:
    """The points' part of the normal equations, without observations behind the camera."""
    root = np.where(at.valid, loss.root_weight(at.r, observations.spread), 0.0)
    # d(pixel)/d(point) = f/z [1 0 -x; 0 1 -y] R, then the lens
    slope = at.through_lens(at.rotation[:2] - at.xy[:, None] * at.rotation[2])
    slope *= root * at.focal / at.z
    error = at.error * root
    said = np.einsum("kim,kjm->ijm", slope, slope)
    sums = observations.by_point(np.concatenate([said.reshape(9, -1), np.einsum("kim,km->im", slope, error)]))
    return PointTerms(root, error, slope, said, sums[:9].reshape(3, 3, -1), -sums[9:])


def whitening(information: Array, damping: float) -> Array:
    """G (3, 3, P), lower triangular: G^T G is the inverse of each ``information`` (3, 3, P), its diagonal damped.

    The inverse of the Cholesky factor, written out because there are thousands of small matrices.
    """
    V = information
    loading = 1e-12 + _LOADING * (V[0, 0] + V[1, 1] + V[2, 2])
    d0, d1, d2 = (V[i, i] * (1.0 + damping) + loading for i in range(3))
    G = np.zeros_like(V)
    G[0, 0] = a = 1.0 / np.sqrt(d0)
    l10, l20 = V[1, 0] * a, V[2, 0] * a
    G[1, 1] = b = 1.0 / np.sqrt(np.maximum(d1 - l10 * l10, 1e-300))
    l21 = (V[2, 1] - l20 * l10) * b
    G[2, 2] = c = 1.0 / np.sqrt(np.maximum(d2 - l20 * l20 - l21 * l21, 1e-300))
    G[1, 0] = -b * l10 * a
    G[2, 1] = -c * l21 * b
    G[2, 0] = -c * (l20 * a + l21 * G[1, 0])
    return G


def settle(observations: Observations, state: State, at: Fit, loss: Huber) -> tuple[State, Fit]:
    """One Gauss-Newton step of every point on its own, poses and focals held; a point that would get worse stays."""
    terms = point_terms(observations, at, loss)
    G = whitening(terms.information, 0.0)
    step = np.einsum("kip,kp->ip", G, np.einsum("ijp,jp->ip", G, terms.pull))
    moved = replace(state, points=state.points + step)
    after = fit(observations, moved, loss, at)
    worse = observations.by_point(after.cost - at.cost) > 0
    if worse.any():
        moved = replace(state, points=np.where(worse, state.points, moved.points))
        after = fit(observations, moved, loss, at)
    return moved, after
