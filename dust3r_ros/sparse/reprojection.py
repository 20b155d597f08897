"""Reprojection errors, their information on points, and points moved to their best fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dust3r_ros.sparse.bundle_problem import CENTER_X, FOCAL, RADIAL, Observations, State
from dust3r_ros.types import Array

_MIN_DEPTH = 1e-6
_BEHIND_PX = 100.0
_LOADING = 1e-9  # of a point's information: keeps a point in place along directions that nothing determines


@dataclass(frozen=True)
class Huber:
    """Huber's loss: squares up to ``width`` pixels, linear beyond; ``sigma`` is the unit of pixel errors."""

    width: float
    sigma: float = 1.0

    def cost(self, r: Array) -> Array:
        """Loss of errors (M,) >= 0 in pixels."""
        within = np.minimum(r, self.width)
        return within * (r - 0.5 * within) / self.sigma**2

    def root_weight(self, r: Array) -> Array:
        """(M,) factors of the errors whose squares then act like the loss."""
        return np.sqrt(np.minimum(1.0, self.width / np.maximum(r, 1e-12))) / self.sigma


@dataclass(frozen=True, eq=False)
class Fit:
    """How a state explains the observations.

    ``rotation`` (3, 3, M) and ``focal`` (M,) of the observing pose, ``offset`` (2, M) as seen by a
    pinhole; ``ray`` (3, M) from its center to the point, in w; ``xy`` (2, M) and ``z`` (M,) of
    the point in the camera, ``xy`` divided by ``z``; ``error`` (2, M) and its length ``r`` (M,) in
    pixels; ``valid`` (M,) whether the point lies before the camera; ``cost`` (M,). A point behind its
    camera costs as an error of 100 pixels.
    """

    rotation: Array
    focal: Array
    offset: Array
    ray: Array
    xy: Array
    z: Array
    error: Array
    r: Array
    valid: np.ndarray
    cost: Array


def fit(observations: Observations, state: State, loss: Huber, like: Fit | None = None) -> Fit:
    """Errors of a state; ``like``: a fit of the same poses, focals and lenses, which saves work."""
    if like is None:
        rotation = np.take(state.rotation.transpose(1, 2, 0), observations.pose, axis=2)
        focal, offset = state.focals()[observations.focal], state.offsets(observations)
    else:
        rotation, focal, offset = like.rotation, like.focal, like.offset
    ray = np.take(state.points, observations.point, axis=1)
    ray -= np.take(state.center.T, observations.pose, axis=1)
    X = np.einsum("ijm,jm->im", rotation, ray)
    valid = X[2] > _MIN_DEPTH
    z = np.where(valid, X[2], 1.0)
    xy = X[:2] / z
    error = focal * xy - offset
    r = np.where(valid, np.sqrt(error[0] ** 2 + error[1] ** 2), _BEHIND_PX)
    return Fit(rotation, focal, offset, ray, xy, z, error, r, valid, loss.cost(r))


def intrinsic_slope(kind: int, observations: Observations, state: State, at: Fit) -> Array:
    """(2, M) derivative of the errors with respect to each one's log focal, radial term or center (in radii)."""
    if kind == FOCAL:
        return at.focal * at.xy
    radius, (radial, out, square) = observations.radius[observations.focal], state.from_centers(observations)
    if kind == RADIAL:
        return -radius * square * out
    # d/dc of -(u - c) (1 + k |u - c|^2)
    axis = kind - CENTER_X
    slope = 2.0 * radial * out[axis] * out
    slope[axis] += 1.0 + radial * square
    return np.asarray(radius * slope)


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
    root = np.where(at.valid, loss.root_weight(at.r), 0.0)
    # d(pixel)/d(point) = f/z [1 0 -x; 0 1 -y] R
    slope = at.rotation[:2] - at.xy[:, None] * at.rotation[2]
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
