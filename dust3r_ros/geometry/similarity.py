"""Similarity transforms, their closed-form and robust estimates from point pairs, and matching of 3D points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from dust3r_ros.errors import GeometryError
from dust3r_ros.types import Array

Indices = NDArray[np.intp]


def nearest(points: NDArray[np.floating], queries: NDArray[np.floating]) -> Indices:
    """For each of ``queries`` (M, 3) the index (M,) of its nearest neighbour in ``points`` (N, 3), all finite.

    Raises ``GeometryError`` if ``points`` is empty.
    """
    if len(points) == 0:
        raise GeometryError(f"Nearest neighbours of {len(queries)} points among 0 points; at least 1 is needed.")
    return np.asarray(cKDTree(points).query(queries)[1], dtype=np.intp)


def reciprocal_matches(
    first: NDArray[np.floating], second: NDArray[np.floating], max_distance: float = np.inf
) -> tuple[Indices, Indices]:
    """Index pairs (K,), (K,) of points in ``first`` (N, 3) and ``second`` (M, 3) that are mutual nearest neighbours.

    DUSt3R, section 3.3 ("point matching"). Sorted by the index in ``second``. Points that are not
    finite match nothing; pairs further apart than ``max_distance`` (the points' unit) are dropped.
    """
    of_first = np.flatnonzero(np.isfinite(first).all(axis=1))
    of_second = np.flatnonzero(np.isfinite(second).all(axis=1))
    if len(of_first) == 0 or len(of_second) == 0:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    a, b = first[of_first], second[of_second]
    forward = nearest(a, b)
    # Only points of a that were chosen can be in a reciprocal pair: query back for those alone.
    chosen, inverse = np.unique(forward, return_inverse=True)
    kept = nearest(b, a[chosen])[inverse] == np.arange(len(b))
    if np.isfinite(max_distance):
        kept &= np.linalg.norm(a[forward] - b, axis=1) <= max_distance
    return of_first[forward[kept]], of_second[kept]


def match_pointmaps(
    points_first: NDArray[np.floating],
    points_second: NDArray[np.floating],
    valid_first: NDArray[np.bool_] | None = None,
    valid_second: NDArray[np.bool_] | None = None,
) -> tuple[Array, Array]:
    """Matching pixels (K, 2), (K, 2), each (u, v), of two pointmaps (H, W, 3), (H', W', 3) in one frame.

    ``valid_*`` (H, W) select the pixels that may match, all of them by default.
    """
    pixels, points = [], []
    for pointmap, valid in ((points_first, valid_first), (points_second, valid_second)):
        rows, columns = np.nonzero(np.ones(pointmap.shape[:2], bool) if valid is None else valid)
        pixels.append(np.stack([columns, rows], axis=-1).astype(np.float64))
        points.append(pointmap[rows, columns])
    index_first, index_second = reciprocal_matches(points[0], points[1])
    return pixels[0][index_first], pixels[1][index_second]


# Ratio of the second to the first singular value of the cross covariance below which points count as
# collinear: the square of a relative thickness of 1e-5, above the float32 rounding of a line.
_MIN_RANK_RATIO = 1e-10
_NO_EXTENT = 1e-9


@dataclass(frozen=True, eq=False)
class Similarity:
    """``a_S_b``: x_a = scale * rotation @ x_b + translation; rotation (3, 3), translation (3,)."""

    scale: float
    rotation: Array
    translation: Array

    @classmethod
    def identity(cls) -> Similarity:
        """The similarity that changes nothing."""
        return cls(1.0, np.eye(3), np.zeros(3))

    def apply(self, points: Array) -> Array:
        """Points (..., 3) of frame b in frame a."""
        return self.scale * (points @ self.rotation.T) + self.translation

    def pose(self, b_T_c: Array) -> Array:
        """``a_T_c`` (4, 4) of a pose in frame b: again a rigid motion, in the unit of a."""
        a_T_c = np.eye(4)
        a_T_c[:3, :3] = self.rotation @ b_T_c[:3, :3]
        a_T_c[:3, 3] = self.apply(b_T_c[:3, 3])
        return a_T_c

    def inverse(self) -> Similarity:
        """``b_S_a``."""
        return Similarity(1.0 / self.scale, self.rotation.T.copy(), -(self.rotation.T @ self.translation) / self.scale)

    def compose(self, other: Similarity) -> Similarity:
        """``a_S_c`` of this ``a_S_b`` and ``other`` = ``b_S_c``."""
        return Similarity(self.scale * other.scale, self.rotation @ other.rotation, self.apply(other.translation))

    @property
    def matrix(self) -> Array:
        """(4, 4) homogeneous matrix [scale * rotation, translation; 0, 1]."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = self.translation
        return matrix


def weighted_similarity(
    source: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None, with_scale: bool = True
) -> Similarity:
    """The similarity S minimising sum_k weights_k * |target_k - S source_k|^2, in closed form.

    ``source``, ``target`` (N, 3), ``weights`` (N,) >= 0, all 1 by default; points of weight 0 are
    ignored. ``with_scale=False`` holds the scale at 1. Raises ``GeometryError`` for fewer than 3
    weighted points, points on one line, and weights or points that are not finite.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    PAMI 1991, eq. 40 to 42, with weights in all means.
    """
    return _umeyama(*_checked(source, target, weights), with_scale)


def rms_apart(found: ArrayLike, true: ArrayLike) -> float:
    """Root mean square distance of points ``found`` (N, 3) from ``true`` (N, 3) after the best similarity.

    In the unit of ``true``. Raises ``GeometryError`` as ``weighted_similarity`` does.
    """
    x, y = np.asarray(found, dtype=np.float64), np.asarray(true, dtype=np.float64)
    return float(np.sqrt(np.mean(np.sum((weighted_similarity(x, y).apply(x) - y) ** 2, axis=1))))


def robust_similarity(
    source: ArrayLike,
    target: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    iterations: int = 30,
) -> Similarity:
    """The similarity S minimising sum_k weights_k * |target_k - S source_k|: the norm is not squared.

    Iteratively reweighted least squares: each step is ``weighted_similarity`` with weights
    divided by the residual, taken as at least a millionth of the target's spread. Stops
    when the objective falls by less than 1e-9 of itself. Arguments and errors as there.
    """
    x, y, w = _checked(source, target, weights)
    floor = 1e-6 * float(np.sqrt(np.mean(np.sum((y - y.mean(axis=0)) ** 2, axis=1))))
    best = _umeyama(x, y, w)
    cost = np.inf
    for _ in range(iterations):
        residuals = np.maximum(np.linalg.norm(y - best.apply(x), axis=1), floor)
        previous, cost = cost, float(w @ residuals)
        if previous - cost <= 1e-9 * cost:
            break
        best = _umeyama(x, y, w / residuals)
    return best


def similarity_of_poses(source: Array, target: Array, scale: float | None = None) -> Similarity:
    """The similarity that takes poses ``source`` (N, 4, 4) nearest to ``target`` (N, 4, 4), at least one.

    Turned by the chordal mean of their rotations, so that poses on one line, or at one place, suffice; scaled by
    ``scale``, None: by the extents of their positions, not at all where one has none.
    """
    U, _, Vt = np.linalg.svd(np.einsum("nij,nkj->ik", target[:, :3, :3], source[:, :3, :3]))
    rotation = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
    x, y = source[:, :3, 3], target[:, :3, 3]
    if scale is None:
        extents = [float(np.linalg.norm(at - at.mean(axis=0))) for at in (x, y)]
        scale = extents[1] / extents[0] if min(extents) > _NO_EXTENT else 1.0
    return Similarity(scale, rotation, y.mean(axis=0) - scale * rotation @ x.mean(axis=0))


def _umeyama(source: Array, target: Array, weights: Array, with_scale: bool = True) -> Similarity:
    w = weights / weights.sum()
    mean_source, mean_target = w @ source, w @ target
    x, y = source - mean_source, target - mean_target
    U, singular, Vt = np.linalg.svd((w[:, None] * y).T @ x)
    if not singular[1] > _MIN_RANK_RATIO * singular[0]:
        raise GeometryError(
            f"A similarity needs points that are not on one line; of these {len(x)} pairs the singular values "
            f"of the cross covariance are {singular[0]:.3g}, {singular[1]:.3g}, {singular[2]:.3g}."
        )
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])
    rotation = (U * signs) @ Vt
    scale = float(singular @ signs / (w @ np.sum(x * x, axis=1))) if with_scale else 1.0
    if not scale > 0:
        raise GeometryError(f"The best similarity of {len(x)} pairs has scale {scale:.3g}; it must be positive.")
    return Similarity(scale, rotation, mean_target - scale * rotation @ mean_source)


def _checked(source: ArrayLike, target: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array, Array]:
    """The pairs of positive weight in float64."""
    x, y = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != 3 or y.shape != x.shape or w.shape != x.shape[:1]:
        raise GeometryError(
            f"A similarity needs source and target (N, 3) and weights (N,), not {x.shape}, {y.shape}, {w.shape}."
        )
    if not np.all(np.isfinite(w) & (w >= 0)):
        raise GeometryError(f"{np.sum(~(np.isfinite(w) & (w >= 0)))} of {len(w)} weights are negative or not finite.")
    used = w > 0
    x, y, w = x[used], y[used], w[used]
    if len(x) < 3:
        raise GeometryError(f"A similarity needs at least 3 pairs of positive weight, not {len(x)} of {len(used)}.")
    broken = ~(np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1))
    if broken.any():
        raise GeometryError(f"{broken.sum()} of {len(x)} point pairs of positive weight are not finite.")
    return x, y, w
