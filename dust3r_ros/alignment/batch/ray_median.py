"""The robust middle, along a ray, of the points that several observations predict: one number per pixel."""

from __future__ import annotations

import cv2
import numpy as np

from dust3r_ros.types import Array32

# Reweighted least squares majorises the distance; along the ray a step of nearly twice the length
# still descends, and halves the number of sweeps.
OVERSTEP = np.float32(1.5)
# Least residual in a weight, relative to the mean residual: it costs the objective no visible amount and
# keeps a few lucky pixels from outweighing the others.
FLOOR = 0.03
# Curvature of the distances over that of their majorant: a secant between these limits is trusted.
_LEAST_SLOPE, _MOST_SLOPE = np.float32(0.3), np.float32(1)
_TINY = np.float32(1e-30)


def ray_median(
    points: Array32,
    rays: Array32,
    weights: Array32,
    floor: float,
    spare: Array32,
    iterations: int,
    known: tuple[Array32, Array32] | None = None,
) -> Array32:
    """(..., P) d near the minimum of sum_k w_k |d ray - y_k|, started from the weighted mean along the ray.

    ``points`` y (..., K, 3, P), which is overwritten, ``rays`` (..., 3, P) of length 1, ``weights`` (..., K, P);
    ``floor``: distances far below it get equal weight; ``spare`` (2, ..., K, P): scratch space. 0 where
    nothing has weight.

    Runs ``iterations`` of reweighted least squares, each step lengthened by a secant through the step before,
    over two numbers per observation and pixel (``_split``). ``known``: d (..., P) from elsewhere and its
    squared deviation; it counts like an observation of mean weight whose residuals deviate as much.
    """
    along, across = spare
    pull = points.reshape(3, *along.shape)[0]
    _split(points, rays, along, across)
    across += np.float32(floor * floor)
    total = np.maximum(weights.sum(axis=-2), _TINY)
    d = np.einsum("...kp,...kp->...p", weights, along)
    d /= total
    before: Array32 | None = None
    taken: Array32 | np.float32 = OVERSTEP
    for _ in range(iterations):
        np.subtract(along, d[..., None, :], out=pull)
        np.multiply(pull, pull, out=pull)
        pull += across
        inverse_root(pull, out=pull)
        pull *= weights
        step = np.einsum("...kp,...kp->...p", pull, along)
        total = np.maximum(pull.sum(axis=-2), _TINY)
        step /= total
        if known is not None:
            step += known_share(total, weights, known[1], floor) * (known[0] - step)
        step -= d
        if before is not None:
            taken = _secant(before, step, taken)
        d += taken * step
        before = step
    return d


def _split(points: Array32, rays: Array32, along: Array32, across: Array32) -> None:
    """Split y into a, the part ``along`` the ray, and q, the square of that ``across``: |d ray - y|^2 = (d - a)^2 + q.

    Shapes as in ``ray_median``; ``points`` y is overwritten.
    """
    np.multiply(points[..., 0, :], rays[..., None, 0, :], out=along)
    for axis in (1, 2):
        np.multiply(points[..., axis, :], rays[..., None, axis, :], out=across)
        along += across
    np.einsum("...kcp,...kcp->...kp", points, points, out=across)
    square = points.reshape(3, *along.shape)[0]
    np.multiply(along, along, out=square)
    across -= square
    np.abs(across, out=across)  # below 0 by rounding alone


def known_share(total: Array32, weights: Array32, square: Array32, floor: float) -> Array32:
    """(..., P) fraction of the way from the observed d to the known one, of squared deviation ``square``, that is best.

    ``total`` (..., P): sum of the observations' ``weights`` (..., K, P) over residuals. One of weight w whose residuals
    are b on average counts w / b = w b / b^2; what is known, with deviation s, counts w b / s^2.
    """
    sure = weights.mean(axis=(-2, -1), keepdims=True)[..., 0] * np.float32(floor / FLOOR)
    return sure / np.maximum(sure + total * square, _TINY)


def inverse_root(values: Array32, out: Array32) -> None:
    """1 / sqrt(values), for contiguous values of any shape; OpenCV takes a quarter of NumPy's time."""
    cv2.pow(values.reshape(1, -1), -0.5, dst=out.reshape(1, -1))


def _secant(before: Array32, step: Array32, taken: Array32 | np.float32) -> Array32:
    """Length of the next step relative to that of reweighted least squares, from the change over the last step.

    ``before``, ``step``: proposed by reweighting before and after a step of ``before`` * ``taken``.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (1 - step / before) / taken
    return 1 / np.fmin(np.fmax(slope, _LEAST_SLOPE), _MOST_SLOPE)
