"""Which keyframes say most about the depth of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.types import Array

_BEST_DEG = 4.0  # ideal angle between two observations of a landmark: flow still finds it and depth is precise


def depth_sources(sparse: SparseMap, view: int, candidates: Sequence[int], count: int) -> list[int]:
    """The ``count`` most promising of the posed ``candidates`` to pair with a posed ``view``, best first.

    Each landmark that both see counts exp(-ln(angle / 4 degrees)^2 / 2), with the angle at which their
    rays meet: much overlap, and neither too little parallax nor too much change (after Yao et al.,
    "MVSNet", ECCV 2018, section 4.1, whose Gaussian is over the angle itself). Ties keep the given
    order.
    """
    known = sparse.known(sparse.views[view].seen).ids
    scores = [_promise(sparse, view, other, known) for other in candidates]
    order = sorted(range(len(candidates)), key=lambda at: -scores[at])
    return [candidates[at] for at in order[:count]]


def _promise(sparse: SparseMap, view: int, other: int, known: np.ndarray) -> float:
    shared = known[np.isin(known, sparse.views[other].seen.ids)]
    if not len(shared):
        return 0.0
    points = sparse.points[shared]
    angle = np.degrees(_angles(points - _center(sparse, view), points - _center(sparse, other)))
    return float(np.exp(-0.5 * np.log(np.maximum(angle, 1e-3) / _BEST_DEG) ** 2).sum())


def _center(sparse: SparseMap, view: int) -> Array:
    w_T_c = sparse.views[view].w_T_c
    assert w_T_c is not None, f"view {view} has no pose"
    return w_T_c[:3, 3]


def _angles(a: Array, b: Array) -> Array:
    """(N,) radians between directions (N, 3)."""
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), np.einsum("ni,ni->n", a, b))
