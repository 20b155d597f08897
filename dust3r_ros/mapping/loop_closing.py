"""Where a camera comes back to what was mapped before: in the map it is in, or in another one."""

from __future__ import annotations

import numpy as np

from dust3r_ros.alignment.map_fit import MapFit, fit_maps
from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.errors import GeometryError

_WITNESSES = 3  # keyframes that must see the other map
_MIN_AGREEING = 12  # matches of each of them


def fit_witnessed(own: SparseMap, other: SparseMap, matches: np.ndarray, witness: np.ndarray) -> MapFit | None:
    """How another map lies in one's own where several of its keyframes tell, None where they do not agree.

    ``matches`` (M, 2): landmarks, own and other's, that seem to be the same; ``witness`` (M,): the other's keyframe
    that told each.
    """
    if len(np.unique(witness)) < _WITNESSES:
        return None
    try:
        fit = fit_maps(own, other, matches)
    except GeometryError:
        return None
    agreeing = np.bincount(witness[fit.agree]) >= _MIN_AGREEING
    return fit if np.count_nonzero(agreeing) >= _WITNESSES else None
