"""Rows of results as plain values, errors of focals and depth; and the checks that every metric makes on its arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.datasets.recording import Recording
from dust3r_ros.evaluation.errors import depth_errors, mean_errors
from dust3r_ros.geometry.rigid import is_rotation
from dust3r_ros.types import Array, Array32


def poses(name: str, w_T_c: ArrayLike, at_least: int = 1) -> Array:
    """(N, 4, 4) rigid motions in float64. Raises ``InputError`` naming the first that is not."""
    T = np.asarray(w_T_c, dtype=np.float64)
    if T.ndim != 3 or T.shape[1:] != (4, 4):
        raise InputError(f"{name} have shape {T.shape}; they must be (N, 4, 4)")
    if len(T) < at_least:
        raise InputError(f"{name} are {len(T)}; at least {at_least} are needed")
    for index, one in enumerate(T):
        if not np.isfinite(one).all():
            raise InputError(f"{name}: number {index} is not finite")
        if not is_rotation(one[:3, :3]):
            found = np.linalg.det(one[:3, :3])
            raise InputError(f"{name}: number {index} is not a rigid motion; its rotation has determinant {found:.4g}")
    return T


def points(name: str, xyz: ArrayLike, at_least: int = 1) -> Array:
    """(N, 3) finite points in float64. Raises ``InputError``."""
    x = np.asarray(xyz, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != 3:
        raise InputError(f"{name} have shape {x.shape}; they must be (N, 3)")
    if len(x) < at_least:
        raise InputError(f"{name} are {len(x)}; at least {at_least} are needed")
    broken = int(np.count_nonzero(~np.isfinite(x).all(axis=1)))
    if broken:
        raise InputError(f"{name}: {broken} of {len(x)} are not finite")
    return x


def same_count(name: str, first: Array, second: Array) -> None:
    """Raises ``InputError`` where two corresponding lists differ in length."""
    if len(first) != len(second):
        raise InputError(f"{name}: {len(first)} true ones and {len(second)} found; each needs its counterpart")


def errors(name: str, values: ArrayLike) -> Array:
    """(N,) errors >= 0, infinite for a failure; at least one. Raises ``InputError``."""
    e = np.asarray(values, dtype=np.float64)
    if e.ndim != 1 or len(e) == 0:
        raise InputError(f"{name} have shape {e.shape}; they must be (N,), N at least 1")
    if not np.all(e >= 0):
        raise InputError(f"{name} have {e[~(e >= 0)][0]:g}; an error is 0 or more, infinite where nothing was found")
    return e


def relative_focal_errors(true: ArrayLike, found: ArrayLike) -> Array:
    """(N,) percent, signed: 100 (f / f* - 1) of focals (N,) in the same pixels; + is too long.

    Raises ``InputError`` for focals that are not positive and finite, or that differ in number.
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


DepthPair = tuple[Array32, Array32]  # truth, estimate: (H, W) each, 0 = none

INLIER_FACTOR = 1.03  # tau of the robust multi-view depth benchmark


def depth_columns(pairs: Sequence[DepthPair], *, median_aligned: bool) -> dict[str, Any]:
    """Rel, delta 1.25 and tau 1.03 (percent), mean over images; ``images``: number with both depths; ``density``.

    Density: share of pixels with true depth that have an estimate, of all images that have true depth. Raises
    ``GeometryError`` where no image has a pixel with both.
    """
    usable = [(truth, depth) for truth, depth in pairs if (_known(truth) & _known(depth)).any()]
    wide = mean_errors(depth_errors(t, d, median_aligned=median_aligned) for t, d in usable)
    close = mean_errors(depth_errors(t, d, median_aligned=median_aligned, factor=INLIER_FACTOR) for t, d in usable)
    if wide is None or close is None:
        raise GeometryError(f"none of {len(pairs)} images has a pixel with both true and estimated depth")
    shares = [np.mean(_known(depth)[_known(truth)]) for truth, depth in pairs if _known(truth).any()]
    return {
        "images": len(usable), "rel": wide.rel, "delta": wide.delta, "tau": close.delta,
        "density": 100.0 * float(np.mean(shares)),
    }  # fmt: skip


def _known(depth: Array32) -> NDArray[np.bool_]:
    return np.isfinite(depth) & (depth > 0)


Row = dict[str, Any]


def row(recording: Recording, protocol: str, system: str, **values: Any) -> Row:
    """A row: data set, scene, protocol and system (the backend), the split if the data set has some, then ``values``;
    values that are not finite become None."""
    start: Row = {"dataset": recording.dataset, "scene": recording.name, "protocol": protocol, "system": system}
    if recording.split:
        start["split"] = recording.split
    return start | {name: _plain(value) for name, value in values.items()}


def guarded(recording: Recording, protocol: str, system: str, measure: Callable[[], Row]) -> Row:
    """The result of ``measure``; where the scene cannot be measured, a row whose ``note`` says why."""
    try:
        return measure()
    except (GeometryError, InputError) as error:
        return row(recording, protocol, system, note=str(error))


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
