"""Focal errors: relative, and in degrees of the field of view."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from dust3r_ros.errors import InputError
from dust3r_ros.types import Array


def relative_focal_errors(true: ArrayLike, found: ArrayLike) -> Array:
    """(N,) percent, signed: 100 (f / f* - 1) of focals (N,) in the same pixels; + is too long.

    Raises ``InputError`` for focals that are not positive and finite, or of different number.
    """
    f_true, f = _focals(true, found)
    return 100.0 * (f / f_true - 1.0)


def view_angle_errors(true: ArrayLike, found: ArrayLike, size: ArrayLike) -> Array:
    """(N,) degrees, signed: difference of the fields of view 2 atan(size / 2f) over ``size`` pixels; + is too wide.

    ``size``: width for the horizontal field, one number or (N,). Errors as ``relative_focal_errors``.
    """
    f_true, f = _focals(true, found)
    pixels = np.asarray(size, np.float64)
    if pixels.shape not in ((), f.shape) or not np.all(np.isfinite(pixels) & (pixels > 0)):
        raise InputError(f"image size {size!r} must be positive pixels, one number or one for each focal")
    return 2.0 * np.degrees(np.arctan(pixels / (2.0 * f)) - np.arctan(pixels / (2.0 * f_true)))


def _focals(true: ArrayLike, found: ArrayLike) -> tuple[Array, Array]:
    f_true, f = np.atleast_1d(np.asarray(true, np.float64)), np.atleast_1d(np.asarray(found, np.float64))
    if f_true.shape != f.shape or f.ndim != 1 or len(f) == 0:
        raise InputError(f"focals have shapes {f_true.shape} and {f.shape}; both must be (N,), N at least 1")
    for name, values in (("true", f_true), ("found", f)):
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            raise InputError(f"{name} focal {values[bad][0]:g} is not positive and finite")
    return f_true, f
