"""Where a camera comes back to what was mapped before, in the map it is in or in another one: the gap is closed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.errors import GeometryError
from dust3r_ros.mapping.association import Linker
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.sparse.map_merging import MapFit, fit_maps

_MATCHES = 25  # of features of two keyframes that look alike
_GAP_PX = 2.0  # less is drift that the window takes up
_RECENT = 12  # keyframes whose matches with another map count
_WITNESSES = 3  # of them that must see it
_MIN_AGREEING = 12  # matches of each of these


class LoopClosing:
    """Proves by features that keyframes which look alike show the same, and brings them together."""

    def __init__(self, state: Reconstruction, links: Linker) -> None:
        self._state, self._links = state, links

    def link(self, index: int, loop_candidates: Sequence[int]) -> list[int]:
        """Landmarks that keyframe ``index`` and ``loop_candidates`` both see become one; returns who proved it."""
        matches = self._links.link(loop_candidates, index, _MATCHES)
        return [other for other, count in zip(loop_candidates, matches, strict=True) if count >= _MATCHES]

    def gapes(self, index: int, linked: Sequence[int]) -> bool:
        """Whether keyframe ``index`` lies elsewhere than those it was ``linked`` with say: the map has drifted."""
        return bool(linked) and self._state.sparse.disagreement(index) > _GAP_PX

    def shared(self, other: Reconstruction, index: int) -> np.ndarray:
        """(K, 2) ids of landmarks, own and other's, that features of the other's keyframe ``index`` seem to share."""
        record, global_descriptor = other.records[index], other.graph.global_descriptor(index)
        candidates = self._state.graph.loop_candidates(global_descriptor, len(self._state.records))
        found = [self._links.shared(candidate, record, _MATCHES) for candidate in candidates]
        return np.concatenate([np.zeros((0, 2), np.int64), *found])

    def fit(self, other: Reconstruction, matches: np.ndarray, witness: np.ndarray) -> MapFit | None:
        """How another map lies in this one, None where too few of its keyframes agree.

        ``matches`` (M, 2): landmarks, own and other's, that seem to be the same; ``witness`` (M,): the other's
        keyframe that showed each.
        """
        try:
            fit = fit_maps(self._state.sparse, other.sparse, matches)
        except GeometryError:
            return None
        agreeing = np.bincount(witness[fit.agree]) >= _MIN_AGREEING
        return fit if np.count_nonzero(agreeing) >= _WITNESSES else None


class Meetings:
    """What the newest keyframes of a map seem to see of another one, which sleeps."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, np.ndarray]] = []  # keyframe, matches

    def add(self, index: int, matches: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Matches (K, 2) of keyframe ``index``; all that count (M, 2) and which showed each (M,), once enough."""
        if not len(matches):
            return None
        self._seen = [(at, found) for at, found in self._seen if at > index - _RECENT] + [(index, matches)]
        if len(self._seen) < _WITNESSES:
            return None
        witness = np.repeat([at for at, _ in self._seen], [len(found) for _, found in self._seen])
        return np.concatenate([found for _, found in self._seen]), witness
