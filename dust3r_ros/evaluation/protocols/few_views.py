"""A few views in one world: the global alignment of all their pairs, as far as these say anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.alignment.batch.components import Part, align_parts
from dust3r_ros.evaluation.protocols.recordings import WorkingView
from dust3r_ros.types import Array, PairPrediction

# Share of confident pixels in each view: what fewer say of two-view geometry is wrong more often than right, and an
# alignment has no better witness. A network is confident everywhere, so that all of its pairs count.
_LEAST = 0.02


def aligned_parts(
    pairs: Sequence[PairPrediction], views: Sequence[WorkingView], poses: Array | None = None
) -> list[Part]:
    """Worlds of the views that pairs connect, the largest first (``alignment.parts``); none where no pair says
    anything.

    Known focals are held; ``poses`` (N, 4, 4), if given, too. Raises ``GeometryError`` where a part cannot be aligned.
    """
    chosen = informative(pairs)
    if not chosen:
        return []
    focals = np.array([np.nan if view.focal is None else view.focal for view in views])
    return align_parts(chosen, poses=poses, focals=focals if np.isfinite(focals).any() else None)


def informative(pairs: Sequence[PairPrediction]) -> list[PairPrediction]:
    """Pairs with enough confident pixels in both views, in both orders: every view of an alignment needs a pair
    of its own."""
    good = {
        (pair.first, pair.second)
        for pair in pairs
        if min(float(np.mean(pair.confidence_first > 1)), float(np.mean(pair.confidence_second > 1))) >= _LEAST
    }
    return [pair for pair in pairs if {(pair.first, pair.second), (pair.second, pair.first)} <= good]
