"""A few landmarks that stand for all: what a cheap adjustment is made from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks, join

_CELLS = (8, 6)  # of an image


def thin(sparse: SparseMap, views: Sequence[int], count: int) -> None:
    """Leave ``views`` the sights of landmarks that were chosen for one of them: ``count`` for each.

    Chosen are those that most of ``views`` see, from every part of the image in turn; a landmark
    stays with all its sights, those that were pruned too. One seen by a single view is never chosen.
    The rest is gone until the map is restored from a snapshot.
    """
    seen = [join(sparse.views[view].seen, sparse.views[view].pruned).unique() for view in views]
    sights = np.bincount(np.concatenate([tracks.ids for tracks in seen]), minlength=len(sparse.points))
    chosen = np.zeros(len(sparse.points), bool)
    for tracks in seen:
        shared = tracks.select(sights[tracks.ids] >= 2)
        chosen[shared.ids[_spread(shared, sights[shared.ids])[:count]]] = True
    for view in (sparse.views[index] for index in views):
        view.seen = view.seen.select(chosen[view.seen.ids])
        view.pruned = view.pruned.select(chosen[view.pruned.ids])


def _spread(tracks: Tracks, sights: np.ndarray) -> np.ndarray:
    """Order in which to choose: the most seen of every cell of the image, then the second of every cell, ..."""
    if len(tracks.ids) == 0:
        return np.zeros(0, int)
    low, size = tracks.pixels.min(axis=0), np.maximum(np.ptp(tracks.pixels, axis=0), 1e-9)
    at = np.minimum((tracks.pixels - low) / size * _CELLS, np.array(_CELLS) - 1).astype(int)
    cell = at[:, 0] * _CELLS[1] + at[:, 1]
    order = np.lexsort((-sights, cell))
    rank = np.arange(len(order)) - np.searchsorted(cell[order], cell[order])
    return order[np.argsort(rank, kind="stable")]
