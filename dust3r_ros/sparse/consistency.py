"""How much of what keyframes see contradicts the map.

A map that is right explains nearly all that its keyframes see. Where it is bent, folded by a false loop, or follows
something large that moves, much of that has been pruned, while the rest still fits to a fraction of a pixel: the
errors of what was kept do not show it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from dust3r_ros.sparse.landmarks import different
from dust3r_ros.sparse.sparse_map import MAX_ERROR_PX, SparseMap
from dust3r_ros.types import Array

_FEWEST = 20  # observations
_RUN = 5  # keyframes: one that is blurred is no evidence
_END = 2 / 3  # of the share that is doubtful, where a stretch ends


class Doubt(NamedTuple):
    """Keyframes ``first`` to ``last``, and the largest share of observations that contradict the map, of a few in a
    row.
    """

    first: int
    last: int
    share: float


def contradicted(sparse: SparseMap, views: Collection[int] | None = None) -> Array:
    """(V,) by keyframe, the share of its observations that are off by four pixels or more; NaN where there are few.

    ``views``: only these are asked, by default all. Landmarks seen at least twice count, including pruned
    observations; one without a position is placed where its rays meet, so a lack of parallax contradicts nothing.
    """
    chosen = [view for view in (sparse.posed() if views is None else views) if sparse.views[view].w_T_c is not None]
    entries = [sparse.views[view] for view in chosen]
    ids = different([tracks.ids for entry in entries for tracks in (entry.seen, entry.pruned)])
    sources = sparse.posed() if views is None else sparse.around(chosen, ids)
    view, point, offset = sparse.observations(sources, ids, pruned=True)
    off = ~(sparse.errors_if_placed(ids, view, point, offset) < MAX_ERROR_PX)
    seen = np.bincount(view, minlength=len(sparse.views))
    shares = np.bincount(view, weights=off, minlength=len(sparse.views)) / np.maximum(seen, 1)
    asked = np.isin(np.arange(len(sparse.views)), chosen)
    return np.where(asked & (seen >= _FEWEST), shares, np.nan)


def in_a_row(shares: Array) -> Array:
    """(V,) the mean of each share and its neighbours in the sequence, five in all; NaN is left out."""
    known = np.isfinite(shares)
    values = np.stack([np.where(known, shares, 0.0), known])
    padded = np.pad(values, ((0, 0), (_RUN // 2, _RUN // 2)))
    total, count = np.sum([padded[:, at : at + len(shares)] for at in range(_RUN)], axis=0)
    return np.where(known, total / np.maximum(count, 1), np.nan)


def worst(shares: Array) -> float:
    """The largest share of some keyframes in a row, 0 while none is known."""
    return float(np.nanmax(in_a_row(shares), initial=0.0))


def doubts(shares: Array, above: float) -> list[Doubt]:
    """Stretches of keyframes with more than ``above``, as far as it is more than two thirds of that; worst first."""
    mean = np.nan_to_num(in_a_row(shares))
    wide = np.flatnonzero(np.diff(np.concatenate([[False], mean > _END * above, [False]])))
    found = [Doubt(first, end - 1, float(mean[first:end].max())) for first, end in wide.reshape(-1, 2).tolist()]
    return sorted((doubt for doubt in found if doubt.share > above), key=lambda doubt: -doubt.share)
