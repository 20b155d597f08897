"""The content of a map under construction: the one object that the stages of mapping read and change; its doubts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.config import MapperConfig
from dust3r_ros.features.place_recognition import PairGraph
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.pages import Pages
from dust3r_ros.sparse.consistency import Doubt, contradicted, doubts, outliers, worst
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.map_merging import Merged, merge_maps
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking.exchange import YOUNG, Renumbering
from dust3r_ros.types import Array

# Relative standard deviations of a focal: below, it is as certain as ordinary use needs, enough for other cameras to
# join a live map, more than a guess, and so fine that more keyframes and adjustments of the map would gain little.
TRUSTED, _NEARLY_SURE, _GUESSED, _FINE = 0.04, 0.0125, 0.008, 0.005
_AROUND = 8  # last keyframes, of which one says how far things are
_TELLING = 40  # landmarks of a keyframe: fewer may all be wrong
MOST_UNSURE = 60  # keyframes: a focal still uncertain by then is settled at the one that explains them best


@dataclass(frozen=True, eq=False)
class Culled:
    """A removal of keyframes, N before it, or of landmarks that they see.

    ``new`` (N,): the index of each since, -1 for those that left. ``heir`` (N,): the same, with the index of a keyframe
    that stands in for each that left; ``heir_T_culled`` (4, 4), by the index of such a one before. ``units`` (N, 2):
    of each before, and its own or its heir's since.
    """

    new: np.ndarray
    heir: np.ndarray
    heir_T_culled: Mapping[int, Array]
    units: Array


@dataclass(frozen=True, eq=False)
class Heir:
    """The keyframe in place of a culled one: its ``name``, ``heir_T_culled`` (4, 4) and both units at that time."""

    name: int
    heir_T_culled: Array
    unit: float
    own_unit: float

    def instead(self, culled_T_c: Array, unit: float) -> tuple[int, Array, float]:
        """Its name, and a pose relative to the culled one (4, 4), whose unit was ``unit``, relative to it."""
        relative = culled_T_c.copy()
        relative[:3, 3] *= self.unit / unit if np.isfinite(self.unit / unit) else 1.0
        return self.name, self.heir_T_culled @ relative, self.own_unit


_Value = TypeVar("_Value")


def renumbered(by_index: Mapping[int, _Value], new: np.ndarray) -> dict[int, _Value]:
    """What is known of keyframes that stay, by the index ``new[k]`` (N,) of each; it is negative for the others."""
    return {int(new[index]): value for index, value in by_index.items() if new[index] >= 0}


class Reconstruction:
    """Keyframes, landmarks, cameras and the graph of their pairs.

    ``records``: the parts of each keyframe. ``sparse``: their poses, the landmarks they see, and the focals of the
    cameras; in a map based on pointmaps, the focals only. ``graph``: which keyframes are connected by pairs.
    ``initialised``: there are poses. ``settled``: the focal of the camera that began the map is found, and no others
    are tried. ``complete``: no more frames come, so it will not become more certain. ``live``: poses are needed soon.
    ``known``: the cameras were calibrated before the map began.
    ``generation`` counts how many times the map was rebuilt or calibrated again. ``changed``: keyframes whose pose,
    depth or image is not what it was when they were last taken; whoever changes one enters it there. ``trail``: all
    keyframes, by when a camera was last there; ``visits`` counts how often one was at a keyframe. ``adjusted``: how
    many keyframes there were when all were adjusted together last; ``looked``: the visits when redundant ones were last
    looked for. ``culled``: what was removed, until frames and names follow.
    ``strange``: keyframes that see something else than those beside them, as of when it was finished. ``apart``:
    other maps that must not be joined with it.
    """

    def __init__(self, config: MapperConfig, pages: Pages | None = None) -> None:
        """``pages`` keep the large arrays of keyframes, of all maps together."""
        self.config = config
        self.pages = pages or Pages(config.memory_mb)
        self.records: list[KeyframeRecord] = []
        self.sparse = SparseMap(config.min_parallax_deg)
        self.graph = PairGraph(config)
        self.initialised = self.settled = self.complete = self.live = self.known = False
        self.generation = 0
        self.changed: set[int] = set()
        self.trail: list[int] = []
        self.visits = self.adjusted = self.looked = 0
        self.culled: list[Culled] = []
        self.strange: list[KeyframeRecord] = []
        self.apart: list[Reconstruction] = []

    def keep_apart(self, other: Reconstruction) -> None:
        """Never join it with ``other``: things look alike in both, but are not the same."""
        self.apart.append(other)
        other.apart.append(self)

    def append(self, record: KeyframeRecord) -> None:
        """A new keyframe; its camera was at the one that it last visited."""
        self.visits += 1
        record.before, record.visit = self.last(record.stream), self.visits
        self.trail.append(len(self.records))
        self.records.append(record)
        record.image, descriptors = self.pages.keep(record.image), self.pages.keep(record.features.descriptors)
        record.gray = None if record.gray is None else self.pages.keep(record.gray)
        if descriptors is not record.features.descriptors:
            record.features = replace(record.features, descriptors=descriptors)

    def visit(self, index: int) -> None:
        """A camera is at a keyframe again."""
        self.visits += 1
        self.trail.remove(index)
        self.trail.append(index)

    def last(self, camera: CameraStream, before: int | None = None) -> int | None:
        """The keyframe at which a camera was last, of those older than ``before``; None where there is none."""
        end = len(self.records) if before is None else before
        return next((at for at in reversed(self.trail) if at < end and self.records[at].stream is camera), None)

    @property
    def twins(self) -> list[int]:
        """Posed keyframes of an image that an earlier one was made of, in a map that was joined later."""
        keys = {at: (r.session, r.stamp_ns, r.stream.index) for at in self.sparse.posed() for r in [self.records[at]]}
        first = {key: at for at, key in reversed(keys.items())}
        return [at for at, key in keys.items() if first[key] != at]

    def units(self, views: Iterable[int] | None = None) -> Array:
        """(N,) the unit of each keyframe, or of ``views``: the median depth of its landmarks; NaN if unknown."""
        found = np.full(len(self.records), np.nan)
        for index in self.sparse.posed() if views is None else views:
            found[index] = self.sparse.median_depth(index)
        return found

    def unit_here(self) -> float:
        """The median depth of landmarks in the newest of the last keyframes that sees many; NaN if none sees any.

        A few may be far off.
        """
        last = [at for at in self.trail[:-_AROUND:-1] if self.sparse.views[at].w_T_c is not None]
        best = max(last, key=lambda at: min(len(self.sparse.known_in(at).ids), _TELLING), default=None)
        return float("nan") if best is None else self.sparse.median_depth(best)

    @contextmanager
    def in_place(self, views: Sequence[int]) -> Iterator[None]:
        """Inside, posed ``views`` lose landmarks: their units change, but no pose, nor that of frames beside them."""
        before = self.units(views)
        yield
        everyone = np.arange(len(before))
        self.culled.append(Culled(everyone, everyone, {}, np.stack([before, self.units(views)], axis=1)))

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), in the same order, or leaves if that is negative, with what only it sees.

        A camera that was at one that left was at the one before it.
        """
        for record in self.records:
            while record.before is not None and new[record.before] < 0:
                record.before = self.records[record.before].before
        self.graph.renumber(new, [record.stream.name for record in self.records])
        lost = self.sparse.remove(set(np.flatnonzero(new < 0).tolist()))
        self.records = [record for index, record in enumerate(self.records) if new[index] >= 0]
        for record, view in zip(self.records, self.sparse.views, strict=True):
            record.before = None if record.before is None else int(new[record.before])
            record.lost += int(np.count_nonzero(np.isin(view.seen.ids, lost)))
        self.trail = [int(new[index]) for index in self.trail if new[index] >= 0]
        self.changed = {int(new[index]) for index in self.changed if new[index] >= 0}
        self.adjusted = int(np.count_nonzero(new[: self.adjusted] >= 0))

    def renumber_landmarks(self, new: Renumbering, kept: np.ndarray) -> None:
        """Landmarks get new ids, those of ``kept`` (K,), sorted, from 0 on."""
        for record in self.records:
            record.feature_ids, record.as_shown = new.of(record.feature_ids), record.as_shown.renumbered(new)
        self.sparse.renumber_landmarks(new, kept)

    def absorb(self, other: Reconstruction, own_S_other: Similarity, matches: np.ndarray) -> Merged:
        """Take another one in and merge landmarks ``matches`` (M, 2), own and other's. Its keyframes come last.

        Where its focal stays, as the more certain one, this map is as settled as it was.
        """
        first = self._first_focal
        focal, std = first.focal, first.std
        merged = merge_maps(self.sparse, other.sparse, own_S_other, matches)
        if (first.focal, first.std) != (focal, std) and other.records[0].stream is self.records[0].stream:
            self.settled = other.settled
        for record in other.records:
            record.feature_ids, record.as_shown = merged.ids[record.feature_ids], record.as_shown.called(merged.ids)
            record.before = None if record.before is None else record.before + merged.first_view
            record.visit += self.visits
        self.records += other.records
        self.visits += other.visits
        self.trail += [merged.first_view + index for index in other.trail]
        self.graph.absorb(other.graph)
        return merged

    def intrinsics_of(self, index: int) -> Intrinsics:
        """The intrinsics of a keyframe's camera, pixels of the tracked image."""
        return self.sparse.intrinsics[self.sparse.views[index].camera]

    @property
    def _first_focal(self) -> Intrinsics:
        """The intrinsics of the camera that began the map; there must be a keyframe."""
        return self.sparse.intrinsics[self.records[0].stream.index]

    @property
    def sure(self) -> bool:
        """Whether the focal of the camera that began the map is certain enough for others to join."""
        if not self.records:
            return False
        return self._first_focal.given or self.settled or self.complete or len(self.records) > MOST_UNSURE

    @property
    def guessing(self) -> bool:
        """Whether that focal is little more than a guess: shape and unit of the map will change with it."""
        return len(self.records) <= MOST_UNSURE and self._is_above(_GUESSED)

    @property
    def guessing_since(self) -> int | None:
        """The stamp at which the camera was first seen to move, while its focal is ``guessing``."""
        return self.records[1].stamp_ns if self.guessing and len(self.records) > 1 else None

    @property
    def presumed(self) -> bool:
        """Whether that focal is still the one with which the first poses were made: none was found from the images."""
        return self.guessing and not np.isfinite(self._first_focal.std)

    @property
    def trusted(self) -> bool:
        """Whether that focal is certain enough for ordinary use: others hardly explain the images."""
        return not self._is_above(TRUSTED)

    @property
    def nearly_sure(self) -> bool:
        """Whether that focal is certain enough for others to join a live map, which cannot wait longer."""
        return self.sure or (self.live and self.initialised and not self._is_above(_NEARLY_SURE))

    @property
    def coarse(self) -> bool:
        """Whether more keyframes and adjustments of the whole map would make that focal noticeably more certain."""
        return self._is_above(_FINE)

    def _is_above(self, std: float) -> bool:
        """Whether that focal is found from the images and its relative standard deviation is not below ``std``."""
        return bool(self.records) and not self._first_focal.given and not self._first_focal.std < std

    @property
    def settling(self) -> bool:
        """Whether that focal may still change noticeably."""
        return len(self.records) <= YOUNG or (self.initialised and not self.sure)

    @property
    def several_cameras(self) -> bool:
        """Whether there are keyframes of more than one camera."""
        return any(record.stream is not self.records[0].stream for record in self.records)

    @property
    def alone(self) -> list[int]:
        """Of keyframes of several cameras: those cameras that took only a few photographs, with unknown focals."""
        alone = {record.stream.index for record in self.records if record.stream.alone}
        unknown = [index for index in sorted(alone) if not self.sparse.intrinsics[index].given]
        return unknown if self.several_cameras else []

    def knows(self, stream: CameraStream) -> bool:
        """Whether a camera's focal is more than a guess."""
        return bool(np.isfinite(self.sparse.intrinsics[stream.index].std)) or self.views_of(stream) > 0

    def views_of(self, stream: CameraStream) -> int:
        """The number of keyframes of a camera."""
        return int(self.views_by_camera()[stream.index])

    def views_by_camera(self) -> np.ndarray:
        """(F,) the number of keyframes of each camera."""
        return np.bincount([view.camera for view in self.sparse.views], minlength=len(self.sparse.intrinsics))


# Shares of the observations of some keyframes in a row. Up to a tenth contradicts a map that is right; a fifth is lost
# where there is hardly any texture.
REBUILT, DOUBTED = 0.15, 0.25
_AGAIN = 1.3  # times as many keyframes as at the last attempt
_VAIN_AGAIN = 2.0  # the same, for stretches that were tried then
_ASKED = 1000  # keyframes; of larger maps only the newest are asked again when all has changed


class Consistency:
    """The share of contradicting observations of every keyframe, as of when its surroundings were adjusted last."""

    def __init__(self, state: Reconstruction) -> None:
        self._state = state
        self._shares = np.zeros(0)
        self._tried_with = 0  # keyframes
        self._tried: list[Doubt] = []
        self._tried_alone: dict[int, int] = {}  # keyframes then, by keyframe

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
        self._tried.clear()
        self._tried_alone = {int(new[k]): count for k, count in self._tried_alone.items() if new[k] >= 0}

    @property
    def worst(self) -> float:
        """The largest share, of some keyframes in a row."""
        return worst(self._shares)

    @property
    def doubt(self) -> Doubt | None:
        """The worst stretch of keyframes of a map that seems bent, or to follow what moves."""
        return next(iter(doubts(self._shares, DOUBTED)), None)

    def rebuild_due(self, last: bool = False) -> bool:
        """Whether to try to rebuild a stretch, or to pose a single keyframe anew; ``last``: no more keyframes come.

        While the focal is a guess, calibration comes first; with several cameras, they hold each other.
        """
        state = self._state
        if not state.initialised or not (last or state.sure) or state.several_cameras:
            return False
        alone = any(self._more(self._tried_alone.get(doubt.first, 0), last) for doubt in outliers(self._shares))
        return alone or self.stretches_due(last)

    def stretches_due(self, last: bool = False) -> bool:
        """Whether to try to rebuild stretches, which takes much longer than to pose single keyframes anew."""
        if not self._more(self._tried_with, last):
            return False
        all_again = last or len(self._state.records) >= _VAIN_AGAIN * self._tried_with
        stretches = doubts(self._shares, REBUILT)
        return any(all_again or not any(doubt.overlaps(tried) for tried in self._tried) for doubt in stretches)

    def rebuilding(self, last: bool = False) -> bool:
        """Note that an attempt with the keyframes so far has begun; returns whether stretches are part of it."""
        count, stretches = len(self._state.records), self.stretches_due(last)
        if stretches:
            self._tried_with, self._tried = count, doubts(self._shares, REBUILT)
        self._tried_alone |= {doubt.first: count for doubt in outliers(self._shares)}
        return stretches

    def _more(self, tried_with: int, last: bool) -> bool:
        """Whether there are more keyframes than at an attempt, enough for another one."""
        count = len(self._state.records)
        return count > tried_with if last else count >= _AGAIN * tried_with

    def rebuilt(self) -> None:
        """The map was built anew: none of its stretches was tried yet."""
        self._tried.clear()
        self.renew()


def landmark_cloud(sparse: SparseMap, records: Sequence[KeyframeRecord]) -> Cloud:
    """Landmarks with a position that two or more keyframes see, in the map frame, by their ids.

    The colour is that of the nearest pixel in the first keyframe that sees the landmark,
    the confidence is the number of keyframes that see it. ``records``: the keyframes of ``sparse``, in order.
    """
    observations = np.zeros(len(sparse.points), np.int64)
    colors = np.zeros((len(sparse.points), 3), np.uint8)
    for index in sparse.posed():
        record, seen = records[index], sparse.views[index].seen
        new = observations[seen.ids] == 0
        height, width = record.image.shape[:2]
        columns, rows = np.round(record.stream.to_working(seen.pixels[new])).astype(int).T
        colors[seen.ids[new]] = record.image[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
        np.add.at(observations, seen.ids, 1)
    keep = sparse.positioned & (observations > 1)
    return Cloud(sparse.points[keep].astype(np.float32), colors[keep], observations[keep].astype(np.float32))
