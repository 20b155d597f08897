"""Moments of an edge: all that similarities need to know about the pixels two keyframes share.

Edge e of keyframes i and j holds, for every shared pixel p, a point a_p in the canonical frame of i
and a point b_p in that of j, with weight w_p. For similarities ``w_S_i``, ``w_S_j`` its cost
sum_p w_p |S_i a_p - S_j b_p|^2 = tr(A M A^T), A = [S_i | -S_j] (3, 8), is a quadratic form of
M = sum_p w_p c_p c_p^T, c = [a, 1, b, 1]: 28 distinct numbers for any number of pixels.

Similarities are (..., 4, 4) matrices [s R, t; 0, 1]. Their increments are (..., 7), in the
keyframe's own frame: rotation vector (rad), translation (canonical units), log scale:
S(xi) = S exp(xi). All functions work on E edges at once, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.types import Array

DOF = 7
# Ratio of the second to the first deviation of points below which they count as collinear; it exceeds
# the spread that float32 rounding gives a line.
MIN_THICKNESS = 1e-5

# d(exp(xi) x)/d xi_k at xi = 0 is _GENERATORS[k] @ [x, 1]: (7, 3, 4).
_GENERATORS: Array = np.zeros((DOF, 3, 4))
for _k, (_row, _column) in enumerate(((2, 1), (0, 2), (1, 0))):
    _GENERATORS[_k, _row, _column], _GENERATORS[_k, _column, _row] = 1.0, -1.0
    _GENERATORS[3 + _k, _k, 3] = 1.0
    _GENERATORS[6, _k, _k] = 1.0

# The 28 numbers are the upper triangle of the moments of [a, 1, b]; the 8 x 8 matrix repeats the 1.
_EXPAND = np.array([0, 1, 2, 3, 4, 5, 6, 3])
_UPPER = np.triu_indices(7)
_HALF = np.zeros((7, 7), dtype=int)
_HALF[_UPPER] = np.arange(len(_UPPER[0]))
_PACKED = np.maximum(_HALF, _HALF.T)[np.ix_(_EXPAND, _EXPAND)]


def moments(a: NDArray[np.floating], b: NDArray[np.floating], weights: NDArray[np.floating]) -> Array:
    """M (..., 8, 8) of points ``a``, ``b`` (..., P, 3) and ``weights`` (..., P) >= 0.

    Points of weight 0 are ignored, whatever their values.
    """
    w = np.asarray(weights, dtype=np.float64)[..., None]
    c = np.empty((*a.shape[:-1], 7))
    np.copyto(c[..., :3], a)
    c[..., 3] = 1.0
    np.copyto(c[..., 4:], b)
    if not np.isfinite(c.sum()):
        c[w[..., 0] == 0] = 0.0
    return unpacked(packed(np.swapaxes(c * w, -1, -2) @ c))


def packed(M: Array) -> Array:
    """The 28 distinct numbers (..., 28) of moments (..., 8, 8), or of their first 7 rows and columns."""
    return M[..., _UPPER[0], _UPPER[1]]


def unpacked(numbers: Array) -> Array:
    """Moments (..., 8, 8) from their 28 distinct numbers."""
    return np.asarray(numbers, dtype=np.float64)[..., _PACKED]


def total_weight(M: Array) -> Array:
    """(...,) sum of the weights."""
    return M[..., 3, 3]


def re_expressed(M: Array, new_T_i: Array, new_T_j: Array) -> Array:
    """M after the canonical frames of its ends changed: a' = ``new_T_i`` a, b' = ``new_T_j`` b, (..., 4, 4)."""
    T = np.zeros_like(M)
    T[..., :4, :4] = new_T_i
    T[..., 4:, 4:] = new_T_j
    return T @ M @ np.swapaxes(T, -1, -2)


def scale_of(S: Array) -> Array:
    """(...,) scale of similarities (..., 4, 4)."""
    return np.sqrt(np.sum(np.square(S[..., :3, 0]), axis=-1))


def retract(S: Array, xi: Array) -> Array:
    """S exp(xi) of similarities (..., 4, 4) and increments (..., 7); exact in rotation and scale."""
    step = np.zeros((*xi.shape[:-1], 4, 4))
    rotation = Rotation.from_rotvec(xi[..., :3].reshape(-1, 3)).as_matrix().reshape(*xi.shape[:-1], 3, 3)
    step[..., :3, :3] = np.exp(xi[..., 6, None, None]) * rotation
    step[..., :3, 3] = xi[..., 3:6]
    step[..., 3, 3] = 1.0
    return S @ step


def inverse(S: Array) -> Array:
    """Inverses of similarities (..., 4, 4)."""
    linear = np.swapaxes(S[..., :3, :3], -1, -2) / np.square(scale_of(S))[..., None, None]
    result = np.zeros_like(S)
    result[..., :3, :3] = linear
    result[..., :3, 3] = -np.einsum("...ij,...j->...i", linear, S[..., :3, 3])
    result[..., 3, 3] = 1.0
    return result


def normal_blocks(M: Array, S_i: Array, S_j: Array, scale_free: bool = True) -> tuple[Array, Array, Array]:
    """(E,) sum_p w_p |S_i a_p - S_j b_p|^2, its gradient (E, 14) and Gauss-Newton matrix (E, 14, 14).

    Columns: the 7 increments of end i, then the 7 of end j. Scale free, the residuals are divided by sqrt(s_i s_j),
    so that shrinking the map gains nothing, and taken halfway between both ends' frames: the cost is the same, and
    rotating or scaling both ends together changes none of them. Otherwise such a change, which costs nothing, would
    appear to cost the squared residuals, and a long loop, which bends almost freely, would converge in tiny steps.
    """
    A = np.concatenate([S_i[..., :3, :], -S_j[..., :3, :]], axis=-1)
    D = np.zeros((*M.shape[:-2], 2 * DOF, 3, 8))
    D[..., :DOF, :, :4] = S_i[..., None, :3, :3] @ _GENERATORS
    D[..., DOF:, :, 4:] = -(S_j[..., None, :3, :3] @ _GENERATORS)
    if scale_free:
        factor = 1.0 / np.sqrt(scale_of(S_i) * scale_of(S_j))[..., None, None]
        A, D = factor * A, factor[..., None] * D
        for at, S in ((0, S_i), (DOF, S_j)):
            R = (S[..., :3, :3] / scale_of(S)[..., None, None])[..., None, :, :]
            turns = R @ _GENERATORS[:3, :, :3] @ np.swapaxes(R, -1, -2)
            D[..., at : at + 3, :, :] -= 0.5 * turns @ A[..., None, :, :]
            D[..., at + DOF - 1, :, :] -= 0.5 * A
    DM = (D @ M[..., None, :, :]).reshape(*M.shape[:-2], 2 * DOF, 24)
    D = D.reshape(DM.shape)
    value = np.einsum("...ij,...ij->...", A @ M, A)
    gradient = 2.0 * np.einsum("...ki,...i->...k", DM, A.reshape(*A.shape[:-2], 24))
    return value, gradient, 2.0 * (DM @ np.swapaxes(D, -1, -2))


def thickness(M: Array) -> Array:
    """(..., 2) second over first principal deviation of the points a and of the points b; 0 for a line or point."""
    found = []
    for at in (slice(0, 3), slice(4, 7)):
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = M[..., at, 3] / total_weight(M)[..., None]
            spread = M[..., at, at] / total_weight(M)[..., None, None] - mean[..., :, None] * mean[..., None, :]
        spread[~np.isfinite(spread).all(axis=(-2, -1))] = 0.0
        _, second, first = np.moveaxis(np.maximum(np.linalg.eigvalsh(spread), 0.0), -1, 0)
        # rounding of points in one place is no spread
        first = np.where(first > 1e-12 * np.sum(np.square(np.nan_to_num(mean)), axis=-1), first, 0.0)
        found.append(np.sqrt(np.divide(second, first, out=np.zeros_like(first), where=first > 0)))
    return np.stack(found, axis=-1)


def closed_form(M: Array) -> tuple[Array, Array]:
    """The similarities ``j_S_i`` (..., 4, 4) minimising sum_p w_p |b_p - j_S_i a_p|^2, and ``thickness`` (..., 2).

    An edge without weight, with points on one line (thickness below
    ``MIN_THICKNESS``) or with a scale that is not positive gets NaN.
    Umeyama, PAMI 1991, eq. 40 to 42.
    """
    total = total_weight(M)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_a, mean_b = M[..., :3, 3] / total[..., None], M[..., 4:7, 7] / total[..., None]
        cross = M[..., 4:7, :3] / total[..., None, None] - mean_b[..., :, None] * mean_a[..., None, :]
        spread = np.trace(M[..., :3, :3], axis1=-2, axis2=-1) / total - np.sum(mean_a**2, axis=-1)
    bad = ~(np.isfinite(cross).all(axis=(-2, -1)) & np.isfinite(spread))
    thin = thickness(M)
    bad |= (thin < MIN_THICKNESS).any(axis=-1)
    U, singular, Vt = np.linalg.svd(np.where(bad[..., None, None], 0.0, cross))
    sign = np.sign(np.linalg.det(U) * np.linalg.det(Vt))
    singular[..., 2] *= sign
    U[..., 2] *= sign[..., None]
    rotation = U @ Vt
    with np.errstate(divide="ignore", invalid="ignore"):
        s = singular.sum(axis=-1) / spread
    bad |= ~(s > 0)
    result = np.zeros((*M.shape[:-2], 4, 4))
    result[..., :3, :3] = s[..., None, None] * rotation
    result[..., :3, 3] = mean_b - np.einsum("...ij,...j->...i", result[..., :3, :3], mean_a)
    result[..., 3, 3] = 1.0
    result[bad] = np.nan
    return result, thin


def check_informative(M: Array, names: Sequence[str]) -> Array:
    """The similarities of ``closed_form``; raises ``GeometryError`` that names the first edge without information
    and its values.
    """
    S, thin = closed_form(M)
    refused = np.isnan(S[:, 0, 0])
    if refused.any():
        worst = int(np.argmax(refused))
        shown = " and ".join(f"{value:.2g}" for value in thin[worst])
        raise GeometryError(
            f"{names[worst]} determines no similarity: weight {total_weight(M)[worst]:.3g}, relative thickness of its "
            f"points {shown}; it must hold weighted points that are not on one line"
        )
    return S
