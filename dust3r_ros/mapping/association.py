"""Data association between images: feature matches, followed corners, and junctions where both are few."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce

import numpy as np

from dust3r_ros.features.features import Features, Select, matched
from dust3r_ros.features.junctions import Junctions, find_junctions, match_junctions
from dust3r_ros.geometry.essential import epipolar_distances
from dust3r_ros.geometry.pinhole import rays
from dust3r_ros.geometry.processes import each
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.reconstruction import Reconstruction, renumbered
from dust3r_ros.sparse.sparse_map import MAX_ERROR_PX, SparseMap
from dust3r_ros.tracking import Tracks, carried, join, no_tracks, shrink, wide_flow
from dust3r_ros.tracking.exchange import Renumbering
from dust3r_ros.types import Image


@dataclass(frozen=True, eq=False)
class _JunctionImage:
    """Junctions of an image, a copy (h, w) of it ``scale`` times as large, and the junctions' landmarks (N,)."""

    junctions: Junctions
    small: Image
    scale: float
    ids: np.ndarray


_JUNCTION_IMAGES = 16
_LEAST_FLOW = 12  # pixels of the long edge, for optical flow


class JunctionLinks:
    """Junctions of keyframes with few features; those no longer requested are forgotten."""

    def __init__(self, sparse: SparseMap) -> None:
        self._sparse = sparse
        self._images: dict[int, _JunctionImage] = {}
        self._flow = wide_flow()

    def add(self, index: int, stream: CameraStream, gray: Image, neighbours: Sequence[int]) -> int:
        """Make landmarks of the junctions in view ``index``, image (H, W) uint8; returns how many already were.

        These may come from ``neighbours``, the first of which takes precedence; older views are forgotten.
        """
        now = _junction_image(stream, gray)
        offsets = stream.centred(now.junctions.pixels)
        linked = self._linked(now, neighbours)
        # A landmark seen by both features and junctions of a keyframe stays with the features.
        linked[np.isin(linked, self._sparse.views[index].seen.ids)] = -1
        new = linked < 0
        linked[new] = self._sparse.landmarks.new(int(new.sum()))
        self._images[index] = _JunctionImage(now.junctions, now.small, now.scale, linked)
        self._sparse.observe(index, Tracks(linked, offsets))
        oldest = min(neighbours, default=index)
        kept = [(view, observation) for view, observation in self._images.items() if view >= oldest]
        self._images = dict(kept[-_JUNCTION_IMAGES:])
        return int((~new).sum())

    def find(self, stream: CameraStream, gray: Image) -> Tracks:
        """The stored junctions that an image (H, W) uint8 of ``stream`` sees; the last view takes precedence."""
        if not self._images:
            return no_tracks()
        now = _junction_image(stream, gray)
        ids = self._linked(now, sorted(self._images, reverse=True))
        return Tracks(ids, stream.centred(now.junctions.pixels)).select(ids >= 0)

    def renumber(self, new: np.ndarray) -> None:
        """View k becomes ``new[k]`` (N,), or is forgotten if that is negative."""
        self._images = renumbered(self._images, new)

    def landmark_ids(self) -> list[np.ndarray]:
        """The ids by which landmarks are known here."""
        return [observation.ids for observation in self._images.values()]

    def renumber_landmarks(self, new: Renumbering) -> None:
        """Landmarks get new ids."""
        self._images = {view: replace(seen, ids=new.of(seen.ids)) for view, seen in self._images.items()}

    def absorb(self, other: JunctionLinks, first_view: int, ids: np.ndarray) -> None:
        """Take the junctions of another map: its first view becomes ``first_view``, its landmark k ``ids[k]``."""
        for view, observation in other._images.items():
            self._images[first_view + view] = replace(observation, ids=ids[observation.ids])

    def _linked(self, now: _JunctionImage, views: Iterable[int]) -> np.ndarray:
        """(N,) landmarks of the junctions of an image, -1 if unknown; each landmark once."""
        linked = np.full(len(now.junctions.pixels), -1, np.int64)
        for view in views:
            if view not in self._images:
                continue
            pairs = self._matches(self._images[view], now)
            ids = self._sparse.landmarks.resolved(self._images[view].ids[pairs[:, 0]])
            fresh = (linked[pairs[:, 1]] < 0) & ~np.isin(ids, linked)
            linked[pairs[fresh, 1]] = ids[fresh]
        return linked

    def _matches(self, a: _JunctionImage, b: _JunctionImage) -> np.ndarray:
        """(K, 2) indices of matching junctions of two images."""
        if a.small.shape != b.small.shape or max(a.small.shape) < _LEAST_FLOW:
            return np.zeros((0, 2), int)
        a_in_b = carried(a.junctions.pixels, self._flow.calc(a.small, b.small, None), a.scale)
        b_in_a = carried(b.junctions.pixels, self._flow.calc(b.small, a.small, None), b.scale)
        return match_junctions(a.junctions, b.junctions, a_in_b, b_in_a)


def _junction_image(stream: CameraStream, gray: Image) -> _JunctionImage:
    small = shrink(gray)
    found = find_junctions(gray)
    found = found.select(stream.clear(stream.centred(found.pixels)))
    return _JunctionImage(found, small, small.shape[1] / gray.shape[1], np.zeros(0, np.int64))


_FEW_MATCHES = 12  # fewer are not evidence that two images show the same place
_ENOUGH_LINKS = 150
_FEW_FOLLOWED = 30
_MOST = 0.5  # of the followed landmarks: a pose that these fit is right
_ABOUT = 0.01  # of the long edge: as far features may be from where the map has their landmark
_CELLS = (8, 6)  # of an image, columns and rows
_ENOUGH_COVERAGE = 0.25  # of the image: links on a single poster say little about the camera's pose


class Linker:
    """Creates landmarks from what keyframes see, one for each point seen by several; finds them in other images."""

    def __init__(self, state: Reconstruction) -> None:
        self._state, self._corners = state, state.config.track_corners
        self._junctions = JunctionLinks(state.sparse)

    def matches(self, index: int, features: Features, minimum: int = _FEW_MATCHES) -> Tracks:
        """The landmarks of keyframe ``index`` that match ``features`` of an image; none below ``minimum`` matches."""
        record = self._state.records[index]
        pairs = _verified(record.features, features, minimum)
        return Tracks(record.feature_ids[pairs[:, 0]], features.pixels[pairs[:, 1]])

    def shared(self, index: int, other: KeyframeRecord, minimum: int, likely: Select | None = None) -> np.ndarray:
        """(K, 2) landmarks with matching features, of keyframe ``index`` and of another one, of this map or not."""
        record = self._state.records[index]
        pairs = _verified(record.features, other.features, minimum, likely)
        return np.stack([record.feature_ids[pairs[:, 0]], other.feature_ids[pairs[:, 1]]], axis=1)

    def pairs(self, olds: Sequence[int], new: int, minimum: int = _FEW_MATCHES, sure: bool = False) -> list[np.ndarray]:
        """(K, 2) landmarks of features that match in each of keyframes ``olds`` and in ``new``.

        ``sure``: the pose of ``new`` is, so what contradicts it is no match.
        """
        record = self._state.records[new]

        def shared(old: int) -> np.ndarray:
            known = sure and self._state.sparse.views[old].w_T_c is not None
            return self.shared(old, record, minimum, partial(self._likely, old, new) if known else None)

        return each(shared, olds)

    def link(self, olds: Sequence[int], new: int, tracks: Tracks) -> list[int]:
        """Merge landmarks of features that match in keyframe ``new`` and each of ``olds``; returns how many match.

        If most of ``tracks``, which ``new`` sees, fit its pose, features must fit it, too. Wrong matches on repeated
        patterns may be many, and agree with one motion, that of the pattern by a period.
        """
        found = self.pairs(olds, new, sure=self._is_sure(new, tracks))
        for pairs in found:
            self._state.sparse.merge(pairs[:, 0], pairs[:, 1])
        return [len(pairs) for pairs in found]

    def _is_sure(self, index: int, tracks: Tracks) -> bool:
        """Whether most of the followed landmarks fit the pose of keyframe ``index``."""
        sparse = self._state.sparse
        known = sparse.known(sparse.resolved(tracks))
        if sparse.views[index].w_T_c is None or len(known.ids) < _FEW_FOLLOWED:
            return False
        return bool(np.mean(sparse.errors_in(index, known) < MAX_ERROR_PX) > _MOST)

    def _likely(self, old: int, new: int, rows: np.ndarray) -> np.ndarray:
        """(M,) which features (M, 2) of two posed keyframes lie about where the map and the poses have each other."""
        sparse, records = self._state.sparse, [self._state.records[view] for view in (old, new)]
        pixels = [record.features.pixels[rows[:, side]] for side, record in enumerate(records)]
        seen_by = [sparse.intrinsics[record.stream.index] for record in records]
        first, second = (
            rays(camera.lens.ideal(offsets), camera.focal, (0.0, 0.0))
            for camera, offsets in zip(seen_by, pixels, strict=True)
        )
        new_T_old = invert(sparse.views[new].pose) @ sparse.views[old].pose
        near_line = seen_by[1].focal * epipolar_distances(new_T_old, first, second) < MAX_ERROR_PX
        points = sparse.points[sparse.landmarks.resolved(records[0].feature_ids[rows[:, 0]])]
        errors = sparse.errors(np.full(len(rows), new), points, pixels[1])
        # Along its line, a match may be as far off as the position of a young landmark.
        return near_line & (np.isnan(points[:, 0]) | (errors < _ABOUT * records[1].stream.long_edge))

    def connect(self, index: int, gray: Image, tracks: Tracks, neighbours: Sequence[int]) -> int:
        """Link keyframe ``index``, image (H, W) uint8, to landmarks of its ``neighbours``; returns how many.

        Matched features do not drift, unlike followed corners; corners and junctions are used
        where features are few or all in one part of the image.
        """
        links = sum(self.link(neighbours, index, tracks))
        if links < _ENOUGH_LINKS or self._coverage(index, gray) < _ENOUGH_COVERAGE:
            many = len(tracks.ids) >= _ENOUGH_LINKS and coverage(tracks.pixels, gray.shape) >= _ENOUGH_COVERAGE
            if not (self._state.live and many):  # junctions take as long as all else of a keyframe
                links += self._junctions.add(index, self._state.records[index].stream, gray, neighbours)
            self._state.sparse.observe(index, self._state.sparse.resolved(tracks))
        return links

    def follow_from(self, index: int) -> None:
        """Track what keyframe ``index`` sees from here, known landmarks first; if these are few, new corners too.

        They are spread over the image: a few from each part say more than many from one. A corner keeps its
        landmark from keyframe to keyframe while it is followed.
        """
        record = self._state.records[index]
        features = Tracks(self._state.sparse.landmarks.resolved(record.feature_ids), record.features.pixels)
        seen = self._state.sparse.views[index].seen
        observations = join(seen.select(~np.isin(seen.ids, features.ids)), features)
        known = np.isfinite(self._state.sparse.points[observations.ids, 0])
        followed = observations.select(
            np.lexsort((_ranks(observations.pixels, record.stream.half_size), ~known))[: self._corners]
        )
        corners = record.stream.corners(self._corners - len(followed.ids), observations.pixels)
        more = Tracks(self._state.sparse.landmarks.new(len(corners)), corners)
        self._state.sparse.observe(index, more)
        record.stream.anchor(record.stamp_ns, join(followed, more).unique())

    def follow_on(self, stamp_ns: int, stream: CameraStream, tracks: Tracks) -> None:
        """Track landmarks (N) of the last image from here, spread over the image; they are those of older keyframes."""
        spread = np.argsort(_ranks(tracks.pixels, stream.half_size), kind="stable")[: self._corners]
        stream.anchor(stamp_ns, tracks.select(spread).unique())

    def find_again(self, stream: CameraStream, gray: Image, features: Features, views: Iterable[int]) -> Tracks:
        """Landmarks of ``views`` in an image by its features; if those are few, also by the junctions seen last."""
        found = each(lambda view: self.matches(view, features), list(views))
        if sum(len(matches.ids) for matches in found) < _ENOUGH_LINKS:
            found.insert(0, self._junctions.find(stream, gray))
        return self._state.sparse.resolved(reduce(join, found, no_tracks()))

    def measured(self, index: int, features: Features, shape: tuple[int, ...], tracks: Tracks) -> Tracks:
        """Landmarks of keyframe ``index`` in an image (H, W) by its features; ``tracks``, too, where these are few."""
        sparse = self._state.sparse
        matches = sparse.known(sparse.resolved(self.matches(index, features)))
        if len(matches.ids) >= _ENOUGH_LINKS and coverage(matches.pixels, shape) >= _ENOUGH_COVERAGE:
            return matches
        return join(matches, sparse.resolved(tracks)).unique()

    def absorb(self, other: Linker, first_view: int, ids: np.ndarray) -> None:
        """Take what another map's keyframes saw last; its first becomes ``first_view``, its landmark k ``ids[k]``."""
        self._junctions.absorb(other._junctions, first_view, ids)

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), or leaves if that is negative."""
        self._junctions.renumber(new)

    def landmark_ids(self) -> list[np.ndarray]:
        """The ids by which landmarks are known here."""
        return self._junctions.landmark_ids()

    def renumber_landmarks(self, new: Renumbering) -> None:
        """Landmarks get new ids."""
        self._junctions.renumber_landmarks(new)

    def _coverage(self, index: int, gray: Image) -> float:
        """The share of the image with features that determine the pose of view ``index``.

        These are features whose landmark has a position or, before any has, that earlier views also see.
        """
        record = self._state.records[index]
        ids = self._state.sparse.landmarks.resolved(record.feature_ids)
        positioned = self._state.sparse.positioned
        determining = positioned[ids] if positioned.any() else ids < self._state.sparse.views[index].first_id
        return coverage(record.features.pixels[determining], gray.shape)


def coverage(offsets: np.ndarray, shape: tuple[int, ...]) -> float:
    """The share of the 8 x 6 cells of an image (H, W) that hold any of the offsets (N, 2) from its centre."""
    at = cells(offsets, np.array([shape[1], shape[0]]) / 2.0)
    inside = np.all((at >= 0) & (at < _CELLS), axis=1)
    return len(np.unique(at[inside], axis=0)) / float(np.prod(_CELLS))


def cells(offsets: np.ndarray, half_size: np.ndarray) -> np.ndarray:
    """(N, 2) column and row of the cell of each of the offsets (N, 2) from the image centre."""
    return np.asarray(np.floor((offsets / half_size + 1.0) * 0.5 * _CELLS).astype(int))


def _ranks(offsets: np.ndarray, half_size: np.ndarray) -> np.ndarray:
    """(N,) how many earlier ones lie in the same cell of the image."""
    cell = cells(offsets, half_size) @ [_CELLS[1], 1]
    order = np.argsort(cell, kind="stable")
    ranks = np.empty(len(cell), int)
    ranks[order] = np.arange(len(cell)) - np.searchsorted(cell[order], cell[order])
    return ranks


def _verified(a: Features, b: Features, minimum: int, likely: Select | None = None) -> np.ndarray:
    pairs = matched(a, b, likely)
    return pairs if len(pairs) >= minimum else pairs[:0]
