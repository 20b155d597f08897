"""Loop closure, within a map or between two, when a camera returns to a mapped place."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy, deepcopy
from dataclasses import replace

import numpy as np

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.association import Linker, cells
from dust3r_ros.mapping.covisibility import Neighbourhood, strangers
from dust3r_ros.mapping.loop_adjustment import LoopGap, WideLoop
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.sparse.map_merging import MapFit, fit_maps, merge_maps
from dust3r_ros.sparse.refinement import close_loop
from dust3r_ros.tracking import Tracks
from dust3r_ros.tracking.exchange import Renumbering
from dust3r_ros.types import Array

_MATCHES = 25  # of features of two keyframes that look similar
GAP_PX = 2.0  # smaller drift is absorbed by the window
_WIDE_PX = 5.0
_RECENT = 12  # keyframes whose matches with another map count
_WITNESSES = 3  # of these that must see it
_MIN_AGREEING = 12  # matches for each of these
_SIDE_BY_SIDE = 0.35  # of the depth, the distance of keyframes of two maps that must see the same
_COMPARED = 16  # most pairs of these, spread over the map
_FEWEST_COMPARED, _FEWEST_CELLS = 3, 12
_NEAR = 0.02  # of the long edge: where a match must be
_SAME = 0.45  # of the image cells in which both see something: 0.9 in one room, 0.2 around a table that two rooms have


class LoopClosing:
    """Verifies by features that similar keyframes show the same place, and links them."""

    def __init__(self, state: Reconstruction, links: Linker) -> None:
        self._state, self._links, self._near = state, links, Neighbourhood(state)
        self.gap: LoopGap | None = None  # of the last loop, if both sides place enough of its landmarks
        self.wide: list[WideLoop] = []  # those of the last keyframe that are not linked: the map contradicts them

    def link(self, index: int, loop_candidates: Sequence[int]) -> list[int]:
        """Merge landmarks that keyframe ``index`` and ``loop_candidates`` share; returns the verified candidates.

        Candidates whose landmarks the map has elsewhere are left in ``wide``, if they agree on a place at all.
        """
        self.gap, self.wide, linked = None, [], []
        matches = zip(loop_candidates, self._links.pairs(loop_candidates, index, _MATCHES), strict=True)
        found = [
            (other, pairs, self._gap(other, index, pairs), self._off_px(index, pairs))
            for other, pairs in matches
            if len(pairs)
        ]
        farthest = _NEAR * self._state.records[index].stream.long_edge
        for other, pairs, gap, off_px in found:
            if _apart(gap, off_px) < _WIDE_PX:
                near = pairs[~(off_px > farthest)]
                self._state.sparse.merge(near[:, 0], near[:, 1])
                linked.append(other)
                self.gap = self.gap or gap
            elif gap := gap or self._gap_by_pose(other, index, pairs):
                self.wide.append(WideLoop(gap, pairs))
        return linked

    def between(self, other: int, index: int) -> list[WideLoop]:
        """The loop from ``other`` to a newer keyframe ``index``, if the map has what both show far apart; else none."""
        (pairs,) = self._links.pairs([other], index, _MATCHES)
        if not len(pairs):
            return []
        gap = self._gap(other, index, pairs)
        if _apart(gap, self._off_px(index, pairs)) < _NEAR * self._state.records[index].stream.long_edge:
            return []
        gap = gap or self._gap_by_pose(other, index, pairs)
        return [WideLoop(gap, pairs)] if gap else []

    def _gap(self, other: int, index: int, pairs: np.ndarray) -> LoopGap | None:
        """How far apart the map has landmarks ``pairs`` (K, 2), as keyframes ``other`` and ``index`` see them."""
        sparse = self._state.sparse
        theirs, own = sparse.landmarks.resolved(pairs).T
        there, here = sparse.points[theirs], sparse.points[own]
        both = (theirs != own) & np.isfinite(there[:, 0]) & np.isfinite(here[:, 0])
        return LoopGap.of(sparse, other, index, there[both], here[both])

    def _gap_by_pose(self, other: int, index: int, pairs: np.ndarray) -> LoopGap | None:
        """The same where the side of ``index`` places too few: from the pose that the other side gives it."""
        sparse = self._state.sparse
        theirs = sparse.known(self._on_the_other_side(index, pairs).unique())
        try:
            found = sparse.locate(sparse.views[index].camera, theirs, _MIN_AGREEING, self._state.config.seed)
        except GeometryError:
            return None
        there = sparse.points[theirs.ids[found.inliers]]
        here = transform(sparse.views[index].pose @ invert(found.w_T_c), there)
        return LoopGap.of(sparse, other, index, there, here)

    def _off_px(self, index: int, pairs: np.ndarray) -> Array:
        """(K,) how far landmarks ``pairs`` (K, 2) of an older keyframe are from where ``index`` sees them; NaN if
        unknown.
        """
        sparse, theirs, off_px = self._state.sparse, self._on_the_other_side(index, pairs), np.full(len(pairs), np.nan)
        if sparse.views[index].w_T_c is not None:
            known = np.isfinite(sparse.points[theirs.ids, 0])
            off_px[known] = np.nan_to_num(
                sparse.errors_in(index, theirs)[known], nan=np.inf, posinf=np.inf
            )  # behind the camera
        return off_px

    def _on_the_other_side(self, index: int, pairs: np.ndarray) -> Tracks:
        """The older landmarks of ``pairs`` (K, 2), where keyframe ``index`` sees them."""
        record = self._state.records[index]
        order = np.argsort(record.feature_ids, kind="stable")  # those that came from another map are in any
        pixels = record.features.pixels[order[np.searchsorted(record.feature_ids, pairs[:, 1], sorter=order)]]
        return Tracks(self._state.sparse.landmarks.resolved(pairs[:, 0]), pixels)

    def has_drifted(self, index: int, linked: Sequence[int]) -> bool:
        """Whether keyframe ``index`` disagrees with the keyframes ``linked`` with it: the map has drifted."""
        return bool(linked) and self._state.sparse.disagreement(index) > GAP_PX

    def alike(self, other: Reconstruction, index: int) -> list[tuple[int, np.ndarray]]:
        """Own keyframes that show what the other's keyframe ``index`` does: each with (K, 2) ids, own and other's."""
        record, global_descriptor = other.records[index], other.graph.global_descriptor(index)
        candidates = self._state.graph.loop_candidates(global_descriptor, len(self._state.records))
        found = [(candidate, self._links.shared(candidate, record, _MATCHES)) for candidate in candidates]
        return [(candidate, pairs) for candidate, pairs in found if len(pairs)]

    def fit(self, other: Reconstruction, matches: np.ndarray, shown_by: np.ndarray) -> MapFit | None:
        """The place of another map in this one; None if too few of its keyframes agree.

        ``matches`` (M, 2): landmarks, own and other's, that seem identical; ``shown_by`` (M,): the other's
        keyframe that showed each.
        """
        try:
            fit = fit_maps(self._state.sparse, other.sparse, matches)
        except GeometryError:
            return None
        agreeing = np.bincount(shown_by[fit.agree]) >= _MIN_AGREEING
        return fit if np.count_nonzero(agreeing) >= _WITNESSES else None

    def folds(self, other: Reconstruction, own_S_other: Similarity, matches: np.ndarray) -> bool:
        """Whether keyframes of both maps, joined by landmarks ``matches`` (M, 2), would be strangers at one place."""
        trial = copy(self._state)
        trial.sparse = deepcopy(self._state.sparse)
        merged = merge_maps(trial.sparse, other.sparse, own_S_other, matches)
        theirs = [replace(record, feature_ids=merged.ids[record.feature_ids]) for record in other.records]
        trial.records = [*self._state.records, *theirs]
        close_loop(trial.sparse)
        return any(a < merged.first_view <= b for a, b in strangers(trial))

    def see_the_same(self, other: Reconstruction, own_S_other: Similarity) -> bool:
        """Whether keyframes of both maps that stand side by side, if ``own_S_other`` holds, see the same.

        Two rooms may have the same poster: it fits, and nothing that both maps see contradicts it. But beside it, and
        in other directions, one sees what the other does not.
        """
        pairs = [
            (own, index)
            for index in other.sparse.posed()
            if (own := self._beside(other, index, own_S_other)) is not None
        ]
        chosen = pairs[:: -(-len(pairs) // _COMPARED) or 1]
        if len(chosen) < _FEWEST_COMPARED:
            return False
        same, both = np.sum([self._compared(other, *pair, own_S_other) for pair in chosen], axis=0)
        return bool(same >= max(_SAME * both, _FEWEST_CELLS))

    def _beside(self, other: Reconstruction, index: int, own_S_other: Similarity) -> int | None:
        """The keyframe nearest to the other's keyframe ``index``, of those that look where it does; None if far."""
        place = own_S_other.pose(other.sparse.views[index].pose)
        near = _SIDE_BY_SIDE * own_S_other.scale * other.sparse.median_depth(index)
        for own in self._near.facing(place):
            pose = self._state.sparse.views[own].w_T_c
            if pose is not None and np.linalg.norm(pose[:3, 3] - place[:3, 3]) < near:
                return own
        return None

    def _compared(self, other: Reconstruction, own: int, index: int, own_S_other: Similarity) -> tuple[int, int]:
        """Of the cells of the other's image in which both see landmarks, those with matches at their place; and all."""
        sparse, record, view = self._state.sparse, other.records[index], other.sparse.views[index]
        half, intrinsics = record.stream.half_size, other.intrinsics_of(index)
        own_T_c = own_S_other.pose(view.pose)

        def seen(ids: np.ndarray) -> np.ndarray:
            points = transform(invert(own_T_c), sparse.points[ids])
            return intrinsics.lens.seen(project(points, intrinsics.focal, (0.0, 0.0)))

        def occupied(offsets: np.ndarray) -> set[tuple[int, int]]:
            return set(map(tuple, cells(offsets[np.all(np.abs(offsets) < half, axis=1)], half).tolist()))

        both = occupied(seen(sparse.known_in(own).ids))
        both &= occupied(other.sparse.known_in(index).pixels)
        found = sparse.known(sparse.resolved(self._links.matches(own, record.features)))
        with np.errstate(invalid="ignore"):
            fits = np.linalg.norm(seen(found.ids) - found.pixels, axis=1) < _NEAR * record.stream.long_edge
        return len(both & occupied(found.pixels[fits])), len(both)


def _apart(gap: LoopGap | None, off_px: Array) -> float:
    """How far the map has apart what two keyframes show: by its landmarks, or where one of both sees them (K,)."""
    return max(_typical(off_px), gap.px if gap else 0.0)


def _typical(off_px: Array) -> float:
    """The median of those known; 0 for few."""
    known = off_px[~np.isnan(off_px)]
    return float(np.median(known)) if len(known) >= _MIN_AGREEING else 0.0


class Meetings:
    """Landmarks of a sleeping map that the newest keyframes of another seem to see."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, np.ndarray]] = []  # keyframe and its matches

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k of the other map becomes ``new[k]`` (N,), or leaves if that is negative, with its matches."""
        self._seen = [(int(new[at]), found) for at, found in self._seen if new[at] >= 0]

    def landmark_ids(self, side: int) -> list[np.ndarray]:
        """The ids of landmarks of the sleeping map (``side`` 0), or of the other one (1)."""
        return [found[:, side] for _, found in self._seen]

    def renumber_landmarks(self, side: int, new: Renumbering) -> None:
        """Landmarks of the sleeping map (``side`` 0), or of the other one (1), get new ids."""
        for at, (index, found) in enumerate(self._seen):
            changed = found.copy()
            changed[:, side] = new.of(found[:, side])
            self._seen[at] = index, changed[changed[:, side] >= 0]

    def add(self, index: int, matches: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Add matches (K, 2) of keyframe ``index``; once enough, returns all (M, 2) and the keyframe of each (M,)."""
        if not len(matches):
            return None
        self._seen = [(at, found) for at, found in self._seen if at > index - _RECENT] + [(index, matches)]
        if len(self._seen) < _WITNESSES:
            return None
        shown_by = np.repeat([at for at, _ in self._seen], [len(found) for _, found in self._seen])
        return np.concatenate([found for _, found in self._seen]), shown_by
