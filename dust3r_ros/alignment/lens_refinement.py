"""What the lenses of a map's cameras do, found by its refinement where the map can tell.

A radial term takes the error out of the focal that a bent image puts there; a center out of the
middle takes out what bends long trajectories. Both look like poses and landmarks that are a little
different, so each is kept only where the sights speak for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from dust3r_ros.alignment.bundle import Solution
from dust3r_ros.alignment.refinement import refine
from dust3r_ros.alignment.sight_lines import sight_errors
from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.types import Array

_ENOUGH_VIEWS = 8
_SIGNIFICANT = 2.0  # standard deviations; a radial term closer to 0 is more likely none
_ROUNDING_PX = 1e-3  # no lens is worth errors as small as that
# What may be freed, and by how much of the median error that must pay: the radial term, since focals are off by
# percents where it is left out; the center, which bends long maps where nothing calls for it.
_PARTS = ((np.array([True, False, False]), 0.0), (np.array([False, True, True]), 0.01))


@dataclass(frozen=True, eq=False)
class _Trial:
    """What a freer lens leads to: which are ``free`` (F, 3), and the map."""

    free: np.ndarray
    snapshot: tuple[object, ...]


def refine_lenses(sparse: SparseMap, *, rounds: int = 3, iterations: int = 30) -> Solution | None:
    """``refine`` of the whole map, sharp and with free focals, and of the lenses that it can tell.

    Lenses of cameras that pose eight views, and that nobody calibrated, are tried: forward selection among their
    radial terms and centers, the best one first. A radial term is kept if it is not 0 by two standard
    deviations and makes the median error of the camera's sights smaller, a center where it makes that
    smaller by a hundredth (what only bends the map leaves most of them as they are). What is not kept
    is as before; what was found before is free again. A focal's ``std`` is that with what is kept free.
    Returns the last solution, None when there was nothing to adjust.
    """
    views = np.bincount([sparse.views[v].camera for v in sparse.posed()], minlength=len(sparse.focals))
    tried = [k for k, focal in enumerate(sparse.focals) if views[k] >= _ENOUGH_VIEWS and not focal.given]
    free = np.zeros((len(sparse.focals), 3), bool)
    for camera in tried:
        lens = sparse.focals[camera].lens
        free[camera] = lens.radial != 0.0, *(lens.center != (0.0, 0.0),) * 2
    solution = refine(sparse, free_focal=True, free_lens=free, rounds=rounds, iterations=iterations, sharp=True)
    if solution is None:
        return None
    while (best := _best_trial(sparse, free, tried, iterations)) is not None:
        sparse.restore(best.snapshot)
        free = best.free
        # To the end, lest what is tried next gains by the steps that are left
        solution = refine(sparse, free_focal=True, free_lens=free, rounds=1, iterations=iterations, sharp=True)
    return solution


def _best_trial(sparse: SparseMap, free: np.ndarray, tried: list[int], iterations: int) -> _Trial | None:
    """The part of a lens of ``tried`` cameras that is most worth freeing, if any is; leaves the map as it was."""
    before, ids = sparse.snapshot(), np.flatnonzero(sparse.positioned)
    best, most = None, 0.0
    for camera, (part, price) in product(tried, _PARTS):
        wider = free.copy()
        wider[camera] |= part
        if np.array_equal(wider, free):
            continue
        sights = sparse.observations([v for v in sparse.posed() if sparse.views[v].camera == camera], ids)
        error = _median_error(sparse, ids, sights)
        solution = refine(sparse, free_focal=True, free_lens=wider, rounds=1, iterations=iterations, sharp=True)
        assert solution is not None, "the same could be adjusted before"
        told = abs(sparse.focals[camera].lens.radial) >= _SIGNIFICANT * solution.radial_std[camera]
        left = (_median_error(sparse, ids, sights) + _ROUNDING_PX) / (error + _ROUNDING_PX)
        gain = 1.0 - left - price
        if told and gain > most:
            best, most = _Trial(wider, sparse.snapshot()), gain
        sparse.restore(before)
    return best


def _median_error(sparse: SparseMap, ids: np.ndarray, sights: tuple[np.ndarray, np.ndarray, Array]) -> float:
    """Pixels, of those ``sights`` of landmarks ``ids`` that more than two views see."""
    view, point, offset = sights
    many = np.bincount(point)[point] > 2
    errors = sight_errors(sparse.views, sparse.focals, view[many], sparse.points[ids[point[many]]], offset[many])
    return float(np.median(errors)) if len(errors) else float("inf")
