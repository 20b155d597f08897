"""Which keyframes tell the depth of another one best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.types import Array

_BEST_DEG = 4.0  # angle between two sights of a landmark at which flow still finds it and depth is precise


def depth_sources(sparse: SparseMap, view: int, candidates: Sequence[int], count: int) -> list[int]:
    """The ``count`` of the posed ``candidates`` whose pairs with a posed ``view`` promise most, best first.

    Each landmark that both see counts exp(-ln(angle / 4 degrees)^2 / 2), with the angle at which their
    rays meet: much overlap, and neither too little parallax nor too much change (after Yao et al.,
    "MVSNet", ECCV 2018, section 4.1, whose Gaussian is over the angle itself). Equal ones come in
    the order given.
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
