"""Culling: which keyframes of a landmark map others make up for, as near and as well, and their removal.

Ids of the landmarks that leave with them are used no more, so that from time to time those that stay get new ones.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from dust3r_ros.geometry.pinhole import center_of, project, rays
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.mapping.covisibility import Neighbourhood
from dust3r_ros.mapping.densifier import Densifier
from dust3r_ros.mapping.reconstruction import MOST_UNSURE, Culled, Reconstruction
from dust3r_ros.mapping.rig_placement import RigPlacement
from dust3r_ros.sparse.landmarks import different
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking.exchange import SNAPSHOT_KEYFRAMES, YOUNG, Renumbering
from dust3r_ros.types import Array

_WITNESSES = 3  # others that see a landmark from as near, for it to need none more
_SEEN = 0.7  # of a keyframe's landmarks must have these; others are seen from few places anyway
_AS_NEAR = 1.1  # times as far
_SAME_SIDE = float(np.cos(np.radians(25.0)))  # features look the same from there
_SHOWN = 0.95  # of a keyframe's surface must others show
_ASKED = 8  # others, those that share most landmarks
_GRID = 4  # pixels between the points of the surface that are compared
_SAME_DEPTH = 0.05  # of two depths of one surface, relative
_FEW_IDS = 100_000  # a few megabytes
_IN_USE = 0.25  # of the ids; with fewer, landmarks get new ones


class SharedObservations:
    """Landmarks with a position and the posed keyframes that see them: rows, ordered by landmark, then keyframe.

    Only of landmarks that any of ``views`` sees.
    """

    def __init__(self, sparse: SparseMap, views: Sequence[int]) -> None:
        wanted = _seen_by(sparse, views) & sparse.positioned
        every = {view: np.unique(sparse.views[view].seen.ids) for view in sparse.posed()}
        seen = {view: ids[wanted[ids]] for view, ids in every.items()}
        view = np.repeat(list(seen), [len(ids) for ids in seen.values()]).astype(np.int64)
        ids = np.concatenate([np.zeros(0, np.int64), *seen.values()])
        order = np.lexsort((view, ids))
        self.view, ids = view[order], ids[order]
        centers = np.stack([np.zeros(3) if v.w_T_c is None else v.w_T_c[:3, 3] for v in sparse.views])
        rays = sparse.points[ids] - centers[self.view]
        self.distance = np.linalg.norm(rays, axis=1)
        self.direction = rays / np.maximum(self.distance, 1e-12)[:, None]
        self.camera = np.array([v.camera for v in sparse.views])[self.view]
        self._first, self._count = np.searchsorted(ids, ids), np.searchsorted(ids, ids, side="right")
        self._count -= self._first
        rows = np.argsort(self.view, kind="stable")
        self._rows = np.split(rows, np.searchsorted(self.view[rows], np.arange(1, len(sparse.views))))

    def shared(self, view: int, without: Collection[int] = ()) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows (K,) of a keyframe; for each observation (M,) of the same landmarks by others of its camera, which
        of the K it is of, and its row.
        """
        own = self._rows[view]
        counts = self._count[own]
        which = np.repeat(np.arange(len(own)), counts)
        rows = np.repeat(self._first[own] - np.cumsum(counts) + counts, counts) + np.arange(len(which))
        others = (self.camera[rows] == self.camera[own][which]) & ~np.isin(self.view[rows], [view, *without])
        return own, which[others], rows[others]


def _seen_by(sparse: SparseMap, views: Sequence[int]) -> np.ndarray:
    """(L,) which landmarks any of the views sees."""
    seen = np.zeros(len(sparse.points), bool)
    for view in views:
        seen[sparse.views[view].seen.ids] = True
    return seen


class Redundancy:
    """Finds keyframes that would not be added now: others show what they show."""

    def __init__(self, state: Reconstruction, near: Neighbourhood, dense: Densifier, placement: RigPlacement) -> None:
        self._state, self._near, self._dense, self.placement = state, near, dense, placement

    def find(self, most: int, since: int = 0) -> list[int]:
        """At most ``most`` keyframes that the map can do without all together, in order.

        Only those are considered that see what one sees which was made after the visit ``since``: others are no more
        redundant than before.
        """
        gone, sparse = list[int](), self._state.sparse
        fresh = [index for index in sparse.posed() if self._state.records[index].visit > since]
        if most <= 0 or not fresh:
            return gone
        needed, seen = self._needed(), _seen_by(sparse, fresh)
        asked = [k for k in sparse.posed() if k not in needed and seen[sparse.views[k].seen.ids].any()]
        self.look(asked)
        shares = {index: self._seen(index, gone) for index in asked}
        for index in sorted((k for k in asked if shares[k] >= _SEEN), key=lambda k: -shares[k]):
            if len(gone) < most and self._seen(index, gone) >= _SEEN and self._is_spare(index, gone):
                gone.append(index)
        return sorted(gone)

    def look(self, views: Sequence[int]) -> None:
        """Look at what posed ``views`` see, and who else sees it."""
        self._observations = SharedObservations(self._state.sparse, views)

    def _needed(self) -> set[int]:
        """Keyframes that stay whatever they show: the first, the last visited, sources of unfinished depth, ties."""
        depths, state = self._dense.depths, self._state
        sources = set[int]().union(*(depths[index].sources for index in range(len(state.records))))
        few = state.views_by_camera() <= SNAPSHOT_KEYFRAMES
        rare = {index for index, view in enumerate(state.sparse.views) if few[view.camera]}
        newest = state.trail[-max(SNAPSHOT_KEYFRAMES, state.config.window) :]
        return {0, *state.sparse.posed()[:1], *newest, *sources, *rare, *self.placement.ties}

    def _seen(self, index: int, gone: Collection[int]) -> float:
        """The share of a keyframe's landmarks that enough others see from as near and from the same side.

        Landmarks that were lost with others count, too: else a map would lose a little each time.
        """
        own, which, rows = self._observations.shared(index, gone)
        if not len(own):
            return 0.0
        at = own[which]
        distance, direction = self._observations.distance, self._observations.direction
        good = distance[rows] <= _AS_NEAR * distance[at]
        good &= np.einsum("mi,mi->m", direction[rows], direction[at]) >= _SAME_SIDE
        enough = np.count_nonzero(np.bincount(which[good], minlength=len(own)) >= _WITNESSES)
        return float(enough / (len(own) + self._state.records[index].lost))

    def covisible(self, index: int, gone: Collection[int]) -> list[int]:
        """Other keyframes of its camera that see what a keyframe sees, most of it first."""
        _, _, rows = self._observations.shared(index, gone)
        views, counts = np.unique(self._observations.view[rows], return_counts=True)
        return [int(view) for view in views[np.argsort(-counts, kind="stable")]]

    def _is_spare(self, index: int, gone: Sequence[int]) -> bool:
        others = self.covisible(index, gone)[:_ASKED]
        camera, w_T_c = self._state.records[index].stream, self._state.sparse.views[index].pose
        if not any(self._near.is_beside(other, camera, w_T_c) for other in others):
            return False
        return self._stay_connected(index, gone) and self._shown(index, others) >= _SHOWN

    def _stay_connected(self, index: int, gone: Sequence[int]) -> bool:
        """Whether the keyframes that are paired with one are connected without it."""
        edges = np.array([edge[:2] for edge in self._state.graph.edges], np.int64).reshape(-1, 2)
        edges = edges[~np.isin(edges, gone).any(axis=1)]
        own = (edges == index).any(axis=1)
        neighbours = edges[own][edges[own] != index]
        rest, size = edges[~own], len(self._state.records)
        graph = csr_array((np.ones(len(rest)), tuple(rest.T)), shape=(size, size))
        return len(np.unique(connected_components(graph, directed=False)[1][neighbours])) == 1

    def _shown(self, index: int, others: Sequence[int]) -> float:
        """The share of a keyframe's confident depth that ``others`` show from as near; 1 without depth."""
        points, reach = self._surface(index)
        shown = np.zeros(len(points), bool)
        for other in others:
            shown |= self._shows(other, points, reach)
        return float(shown.mean()) if len(points) else 1.0

    def _surface(self, index: int) -> tuple[Array, Array]:
        """Points (P, 3) in w of a keyframe's confident depth on a grid, and their z over the focal (P,)."""
        depth = self._confident(index)
        if depth is None:
            return np.zeros((0, 3)), np.zeros(0)
        rows, columns = np.mgrid[_GRID // 2 : depth.shape[0] : _GRID, _GRID // 2 : depth.shape[1] : _GRID]
        z, focal = depth[rows, columns].astype(np.float64), self._dense.views.focal(index)
        pixels = np.stack([columns, rows], axis=-1)[z > 0].astype(np.float64)
        local = rays(pixels, focal, center_of(*depth.shape)) * z[z > 0][:, None]
        return transform(self._state.sparse.views[index].pose, local), z[z > 0] / focal

    def _shows(self, other: int, points: Array, reach: Array) -> np.ndarray:
        """(P,) which points (P, 3) in w a keyframe's confident depth shows, no coarser than ``reach`` (P,)."""
        shown, depth, w_T_c = np.zeros(len(points), bool), self._confident(other), self._state.sparse.views[other].w_T_c
        if depth is None or w_T_c is None:
            return shown
        focal, local = self._dense.views.focal(other), transform(invert(w_T_c), points)
        at = np.rint(project(local, focal, center_of(*depth.shape)))
        inside = np.flatnonzero(np.all((at >= 0) & (at < depth.shape[::-1]), axis=1))  # NaN behind the camera
        column, row = at[inside].astype(int).T
        there, z = depth[row, column], local[inside, 2]
        shown[inside] = (np.abs(there - z) < _SAME_DEPTH * z) & (z / focal <= _AS_NEAR * reach[inside])
        return shown

    def _confident(self, index: int) -> Array | None:
        """(H, W) confident depth of a keyframe, 0 where there is none; None before any."""
        found = self._dense.depths[index].shown
        return None if found is None else np.where(found[1] > self._state.config.min_confidence, found[0], 0.0)


class Part(Protocol):
    """What knows keyframes by their index."""

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), in the same order, or leaves if that is negative."""


class Culling:
    """Looks for redundant keyframes when the camera was at some more, and removes them from all parts of a map.

    Poses, depth and landmarks of the others stay as they are. What is computed beside or part by part would arrive
    under other numbers, so nothing else may wait.
    """

    def __init__(self, state: Reconstruction, redundancy: Redundancy, parts: Sequence[Part]) -> None:
        """``parts``: all that knows keyframes of ``state`` by their index."""
        self._state, self._redundancy, self._parts = state, redundancy, parts

    @property
    def due(self) -> bool:
        """Whether there are new keyframes, and cameras were at so many since the last time that it is worthwhile."""
        state = self._state
        new = bool(state.records) and state.records[-1].visit > state.looked
        return new and state.visits >= state.looked + state.config.window and self._spare > 0

    @property
    def _spare(self) -> int:
        """How many keyframes a map can lose and be as sure of its focal as it is."""
        if not (self._state.initialised and self._state.sure):
            return 0
        first_camera = self._state.intrinsics_of(0)
        fewest = YOUNG if first_camera.given or self._state.settled else MOST_UNSURE
        return max(0, len(self._state.records) - fewest - 1)

    def cull(self, everywhere: bool = False) -> None:
        """Remove what is redundant: where keyframes came since the last time, or ``everywhere``."""
        leaving = self._redundancy.find(self._spare, -1 if everywhere else self._state.looked)
        self._state.looked = self._state.visits
        if leaving:
            self._remove(leaving)

    def drop(self, keyframes: Sequence[int]) -> None:
        """Remove those of ``keyframes`` that share landmarks with another one, which stands in for them; no ties."""
        keyframes = [index for index in keyframes if index not in self._redundancy.placement.ties]
        if not keyframes:
            return
        self._redundancy.look(keyframes)
        leaving = [index for index in keyframes if self._redundancy.covisible(index, keyframes)]
        if leaving:
            self._remove(leaving)

    def _remove(self, leaving: Sequence[int]) -> None:
        views, count = self._state.sparse.views, len(self._state.records)
        stays = np.ones(count, bool)
        stays[list(leaving)] = False
        new = np.where(stays, np.cumsum(stays) - 1, -1)
        before = self._state.units()
        heirs = {index: self._redundancy.covisible(index, leaving)[0] for index in leaving}
        relative = {index: invert(views[heir].pose) @ views[index].pose for index, heir in heirs.items()}
        for part in (*self._parts, self._state):
            part.renumber(new)
        stand_in = new.copy()
        stand_in[list(heirs)] = new[list(heirs.values())]
        self._state.culled.append(
            Culled(new, stand_in, relative, np.stack([before, self._state.units()[stand_in]], axis=1))
        )


class Holder(Protocol):
    """What knows landmarks by their ids."""

    def landmark_ids(self) -> list[np.ndarray]:
        """The ids by which landmarks are known here."""

    def renumber_landmarks(self, new: Renumbering) -> None:
        """Landmarks get new ids."""


class Numbering:
    """Gives landmarks new ids, without gaps, once few of the old ones are in use: arrays have a row for each id.

    The order stays, and with it which of two landmarks is older. Corners go by the id that their landmark had when they
    were first followed; such ids stay apart as long as there is a corner.
    """

    def __init__(self, state: Reconstruction, holders: Sequence[Holder]) -> None:
        """``holders``: all parts of a map that know landmarks of ``state`` by their ids."""
        self._state, self._holders = state, holders
        self._count = 0  # of ids after the last time
        self.due = False

    def look(self) -> None:
        """Look whether new ids are worthwhile: some keyframes left."""
        count = len(self._state.sparse.landmarks)
        enough = count >= max(_FEW_IDS, 2 * self._count)  # corners may keep so many in use that it is in vain
        self.due = enough and int(np.count_nonzero(self._used(self._named()))) < _IN_USE * count

    def renumber(self, followed: Sequence[np.ndarray], remembered: Sequence[np.ndarray]) -> Renumbering:
        """Give new ids, now; ``followed`` and ``remembered`` as in ``Submap.renumber_landmarks``."""
        landmarks, named = self._state.sparse.landmarks, self._named()
        held = different([*followed, *(ids for holder in self._holders for ids in holder.landmark_ids())])
        used, noted = self._used(different([named, held])), different(remembered)
        apart = different([held, noted[used[landmarks.resolved(noted)]]])
        kept = different([np.flatnonzero(used), apart])
        former = different([kept, named])
        own = np.where(np.isin(former, apart), former, landmarks.resolved(former))
        new = Renumbering(former, np.searchsorted(kept, own))
        for holder in self._holders:
            holder.renumber_landmarks(new)
        self._state.renumber_landmarks(new, kept)
        self._count, self.due = len(kept), False
        return new

    def _named(self) -> np.ndarray:
        """The ids (K,), sorted, of what keyframes see and of their features."""
        views, records = self._state.sparse.views, self._state.records
        seen = [tracks.ids for view in views for tracks in (view.seen, view.pruned)]
        return different([*seen, *(record.feature_ids for record in records)])

    def _used(self, ids: np.ndarray) -> np.ndarray:
        """(L,) which landmarks have a position or are those of ``ids`` (K,)."""
        used = self._state.sparse.positioned
        used[self._state.sparse.landmarks.resolved(ids)] = True
        return used
