"""Loop closure, within a map or between two, when a camera returns to a mapped place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.errors import GeometryError
from dust3r_ros.mapping.association import Linker
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.mapping.relaxation import LoopGap
from dust3r_ros.sparse.map_merging import MapFit, fit_maps

_MATCHES = 25  # of features of two keyframes that look similar
GAP_PX = 2.0  # smaller drift is absorbed by the window
_WIDE_PX = 5.0
_RECENT = 12  # keyframes whose matches with another map count
_WITNESSES = 3  # of these that must see it
_MIN_AGREEING = 12  # matches for each of these


class LoopClosing:
    """Verifies by features that similar keyframes show the same place, and links them."""

    def __init__(self, state: Reconstruction, links: Linker) -> None:
        self._state, self._links = state, links
        self.gap: LoopGap | None = None  # of the last loop, if both sides place enough of its landmarks

    def link(self, index: int, loop_candidates: Sequence[int]) -> list[int]:
        """Merge landmarks that keyframe ``index`` and ``loop_candidates`` share; returns the verified candidates."""
        sparse, features = self._state.sparse, self._state.records[index].feature_ids
        own = sparse.landmarks.resolved(features)
        before = sparse.points[own]
        matches = self._links.link(loop_candidates, index, _MATCHES)
        linked = [other for other, count in zip(loop_candidates, matches, strict=True) if count >= _MATCHES]
        theirs = sparse.landmarks.resolved(features)
        after = sparse.points[theirs]
        both = (theirs != own) & np.isfinite(before[:, 0]) & np.isfinite(after[:, 0]) & np.any(before != after, axis=1)
        self.gap = LoopGap.of(sparse, linked[0], index, after[both], before[both]) if linked else None
        return linked

    def gapes(self, index: int, linked: Sequence[int]) -> bool:
        """Whether keyframe ``index`` disagrees with the keyframes ``linked`` with it: the map has drifted.

        While it sees mostly its own side of the loop, only the landmarks of both sides say so.
        """
        wide = self.gap is not None and self.gap.px > _WIDE_PX
        return bool(linked) and (wide or self._state.sparse.disagreement(index) > GAP_PX)

    def shared(self, other: Reconstruction, index: int) -> np.ndarray:
        """(K, 2) ids of landmarks, own and other's, shared by features of the other's keyframe ``index``."""
        record, global_descriptor = other.records[index], other.graph.global_descriptor(index)
        candidates = self._state.graph.loop_candidates(global_descriptor, len(self._state.records))
        found = [self._links.shared(candidate, record, _MATCHES) for candidate in candidates]
        return np.concatenate([np.zeros((0, 2), np.int64), *found])

    def fit(self, other: Reconstruction, matches: np.ndarray, witness: np.ndarray) -> MapFit | None:
        """The place of another map in this one; None if too few of its keyframes agree.

        ``matches`` (M, 2): landmarks, own and other's, that seem identical; ``witness`` (M,): the other's
        keyframe that showed each.
        """
        try:
            fit = fit_maps(self._state.sparse, other.sparse, matches)
        except GeometryError:
            return None
        agreeing = np.bincount(witness[fit.agree]) >= _MIN_AGREEING
        return fit if np.count_nonzero(agreeing) >= _WITNESSES else None


class Meetings:
    """Landmarks of a sleeping map that the newest keyframes of another seem to see."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, np.ndarray]] = []  # keyframe and its matches

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k of the other map becomes ``new[k]`` (N,), or leaves if that is negative, with its matches."""
        self._seen = [(int(new[at]), found) for at, found in self._seen if new[at] >= 0]

    def add(self, index: int, matches: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Add matches (K, 2) of keyframe ``index``; once enough, returns all (M, 2) and the keyframe of each (M,)."""
        if not len(matches):
            return None
        self._seen = [(at, found) for at, found in self._seen if at > index - _RECENT] + [(index, matches)]
        if len(self._seen) < _WITNESSES:
            return None
        witness = np.repeat([at for at, _ in self._seen], [len(found) for _, found in self._seen])
        return np.concatenate([found for _, found in self._seen]), witness
