"""Whether a map is in doubt: a stretch of keyframes that see what contradicts it, and when to try to rebuild that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.sparse.consistency import Doubt, contradicted, doubts, worst

# Shares of the observations of some keyframes in a row. Up to a tenth contradicts a map that is right; a fifth is lost
# where there is hardly any texture.
REBUILT, DOUBTED = 0.15, 0.25
_AGAIN = 1.3  # times as many keyframes as at the last attempt
_ASKED = 1000  # keyframes; of larger maps only the newest are asked again when all has changed


class Consistency:
    """The share of contradicting observations of every keyframe, as of when its surroundings were adjusted last."""

    def __init__(self, state: Reconstruction) -> None:
        self._state = state
        self._shares = np.zeros(0)
        self._tried_with = 0  # keyframes

    def renew(self, views: Sequence[int] | None = None) -> None:
        """Ask ``views``, by default all, again: they were adjusted."""
        sparse = self._state.sparse
        missing = len(sparse.views) - len(self._shares)
        self._shares = np.concatenate([self._shares, np.full(max(missing, 0), np.nan)])
        if views is None and len(sparse.views) > _ASKED:
            views = range(len(sparse.views) - _ASKED, len(sparse.views))
        asked = slice(None) if views is None else list(views)
        self._shares[asked] = contradicted(sparse, views)[asked]

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), in the same order, or leaves if that is negative."""
        known = np.full(len(new), np.nan)
        known[: len(self._shares)] = self._shares
        self._shares = known[new >= 0]

    @property
    def worst(self) -> float:
        """The largest share, of some keyframes in a row."""
        return worst(self._shares)

    @property
    def doubt(self) -> Doubt | None:
        """The worst stretch of keyframes of a map that seems bent, or to follow what moves."""
        return next(iter(doubts(self._shares, DOUBTED)), None)

    def rebuild_due(self, last: bool = False) -> bool:
        """Whether to try to rebuild a stretch; ``last``: no more keyframes come.

        While the focal is a guess, calibration comes first; with several cameras, they hold each other.
        """
        state, count = self._state, len(self._state.records)
        due = count > self._tried_with if last else count >= _AGAIN * self._tried_with
        if not due or not state.initialised or not (last or state.sure) or state.several_cameras:
            return False
        return bool(doubts(self._shares, REBUILT))

    def rebuilding(self) -> None:
        """Note that an attempt with the keyframes so far has begun."""
        self._tried_with = len(self._state.records)
