"""What every metric asks of its arrays: the sizes fit, every number is finite, there is enough of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from dust3r_ros.errors import InputError
from dust3r_ros.types import Array

_MAX_SHEAR = 1e-3  # how far a rotation may be from orthogonal: poses read from text are rounded


def poses(name: str, w_T_c: ArrayLike, at_least: int = 1) -> Array:
    """(N, 4, 4) rigid motions in float64. Raises ``InputError`` naming the first one that is none."""
    T = np.asarray(w_T_c, dtype=np.float64)
    if T.ndim != 3 or T.shape[1:] != (4, 4):
        raise InputError(f"{name} have shape {T.shape}; they must be (N, 4, 4)")
    if len(T) < at_least:
        raise InputError(f"{name} are {len(T)}; at least {at_least} are needed")
    for index, one in enumerate(T):
        if not np.isfinite(one).all():
            raise InputError(f"{name}: number {index} is not finite")
        R = one[:3, :3]
        if np.abs(R @ R.T - np.eye(3)).max() > _MAX_SHEAR or np.linalg.det(R) < 0:
            raise InputError(
                f"{name}: number {index} is no rigid motion; its rotation has determinant {np.linalg.det(R):.4g}"
            )
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
    """Raises ``InputError`` where two lists that belong together are not of one length."""
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
