"""The map the camera is in, and the maps it was lost in.

A camera that stays lost begins another map; where it sees again what an older map knows, the two
become one (as in ORB-SLAM3's Atlas, Campos et al., T-RO 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count

import numpy as np

from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.loop_closing import Meetings
from dust3r_ros.mapping.state import MapState, SubmapState
from dust3r_ros.mapping.submap import Submap
from dust3r_ros.mapping.trajectory import FrameLog, TrackedImage
from dust3r_ros.tracking import Tracks
from dust3r_ros.tracking.exchange import FollowedPose
from dust3r_ros.tracking.front_end import YOUNG
from dust3r_ros.types import Image, Keyframe


class AtlasEntry:
    """One map of an atlas: the map itself, its frames, and the names of its keyframes, which no other map's have."""

    def __init__(self, submap: Submap, fresh_names: Iterator[int], session: int = 0) -> None:
        self.submap = submap
        self.frames = FrameLog(submap, session)
        self.live: bool | None = None  # whether work on the whole map is done beside; None: offline
        self.changes = 0  # how often keyframes changed
        self._restored = False
        self._generation = 0
        self.names: list[int] = []
        self._fresh_names = fresh_names
        self.meetings: dict[AtlasEntry, Meetings] = {}  # with maps that sleep

    def name(self, index: int) -> int:
        """The name of keyframe ``index``, given at the first asking."""
        while len(self.names) <= index:
            self.names.append(next(self._fresh_names))
        return self.names[index]

    def keyframe(self, index: int) -> Keyframe:
        """Keyframe ``index`` by its name."""
        return replace(self.submap.keyframe(index), index=self.name(index))

    def go_live(self, beside: bool) -> None:
        """From now on what may wait does."""
        self.live = beside
        self.submap.chores.go_live(beside)

    def take_changed(self) -> tuple[Keyframe, ...]:
        """Keyframes that changed since the last call, by their names."""
        changed = self.submap.take_changed()
        self.changes += bool(changed)
        return tuple(replace(keyframe, index=self.name(keyframe.index)) for keyframe in changed)

    @property
    def edges(self) -> list[tuple[int, int, float]]:
        """The pair graph by names: (first, second, weight)."""
        return [(self.name(first), self.name(second), weight) for first, second, weight in self.submap.graph.edges]

    def remember(
        self, stamp_ns: int, stream: CameraStream, tracks: Tracks, found: PnpResult | None, keyframe: int | None
    ) -> None:
        """Keep a frame's pose relative to a keyframe, and what it takes to find it again while the map settles."""
        submap, seen = self.submap, TrackedImage(stamp_ns, tracks, stream.anchored_ns)
        if keyframe is not None:
            self.name(keyframe)
            self.frames.add_keyframe(keyframe, stream, seen)
        else:
            self.frames.add(len(submap) - 1, stream, seen, found)
        if self.live is None and submap.settling and submap.state.generation != self._generation:
            self._generation = submap.state.generation
            self.frames.find_again()

    def keep(self, pose: FollowedPose, stream: CameraStream) -> bool:
        """Where a frame was that others found, relative to a keyframe; False where there is none of that name."""
        if pose.keyframe not in self.names:
            return False
        seen = TrackedImage(pose.stamp_ns, Tracks(pose.ids, pose.pixels), pose.snapshot_ns)
        self.frames.keep(self.names.index(pose.keyframe), stream, seen, pose.k_T_c, pose.unit)
        return True

    def move(self, new_S_old: Similarity) -> None:
        """The whole map, keyframes and frames, in other coordinates and another unit."""
        self.submap.move(new_S_old)
        self.frames.rescale(new_S_old.scale)

    def restore(self, state: SubmapState, streams: Mapping[str, CameraStream]) -> None:
        """A map of another session in place of an empty one; every keyframe counts as changed."""
        self.names, self._restored = list(state.names), True
        self.submap.restore(state, streams)
        self._generation = self.submap.state.generation
        self.frames.restore(state.frames)

    @property
    def lasts(self) -> bool:
        """Whether it is kept when its cameras are lost: one that has grown, or that somebody loaded."""
        return len(self.submap) > YOUNG or self._restored

    def posed_names(self) -> tuple[int, ...]:
        """Names of the keyframes with a pose."""
        return tuple(self.name(index) for index in self.submap.posed())

    def absorb(self, other: AtlasEntry, matches: np.ndarray, witness: np.ndarray) -> np.ndarray | None:
        """Take another map in where landmarks ``matches`` (M, 2), own and other's, are the same.

        ``witness`` (M,): the keyframe of the other that showed each.
        Returns what the other's landmarks are called now; None, and nothing changed, where they do not fit.
        """
        joined = self.submap.absorb(other.submap, matches, witness)
        if joined is None:
            return None
        first, ids = joined
        names = [other.name(index) for index in range(len(other.submap))]
        self.names = [self.name(index) for index in range(first)] + names
        self.frames.absorb(other.frames, first)
        return ids


class Atlas:
    """Switches between maps; keyframes of a map that falls asleep count as removed until it wakes."""

    def __init__(self, make: Callable[[], Submap]) -> None:
        self._make = make
        self.asleep: list[AtlasEntry] = []
        self.session = 0  # how often the maps were continued
        self.origin = ("", 0)  # the file they are of, and its state
        self._live: bool | None = None
        self.begin()

    def restore(self, state: MapState, streams: Mapping[str, CameraStream]) -> None:
        """The maps of another session in place of an empty one, which had all of ``streams``."""
        self.session, self.origin = state.session + 1, (state.lineage, state.changes)
        self._names = count(max((name for submap in state.submaps for name in submap.names), default=-1) + 1)
        maps = [AtlasEntry(self._make(), self._names, self.session) for _ in state.submaps]
        for entry, saved in zip(maps, state.submaps, strict=True):
            entry.restore(saved, streams)
        if maps:
            self.active, self.asleep = maps[0], maps[1:]

    def begin(self) -> None:
        """Another map; the active one is dropped."""
        if not self.asleep:
            self._names = count()
        self.active = AtlasEntry(self._make(), self._names, self.session)
        if self._live is not None:
            self.active.go_live(self._live)

    def go_live(self, beside: bool) -> None:
        """From now on what may wait does, in this map and those to come."""
        self._live = beside
        for entry in (self.active, *self.asleep):
            entry.go_live(beside)

    def sleep(self) -> None:
        """Another map; the active one is kept."""
        self.asleep.append(self.active)
        self.begin()

    def find(
        self, stream: CameraStream, gray: Image, image: Image, forget: Callable[[], None]
    ) -> tuple[AtlasEntry, PnpResult, Tracks] | None:
        """A frame in one of the maps that sleep; ``forget`` drops what the backend has of another map's keyframes."""
        found = None
        for entry in reversed(self.asleep):
            forget()
            found = entry.submap.finder.relocalise(stream, gray, image)
            if found is not None:
                break
        forget()
        return None if found is None else (entry, *found)

    def wake(self, entry: AtlasEntry) -> None:
        """A sleeping map is the active one again; the one that was sleeps where it has poses."""
        self.asleep.remove(entry)
        if self.active.submap.initialised:
            self.asleep.append(self.active)
        self.active = entry
        entry.submap.mark_all()

    def join(self, index: int) -> np.ndarray | None:
        """Whether keyframe ``index`` of the active map ties it to one that sleeps: then they become one.

        The older one stays where it was and is the active one. Returns what the landmarks of the
        active map are called now, None where nothing was joined.
        """
        active = self.active
        if not active.submap.initialised:
            return None
        for entry in self.asleep:
            matches = entry.submap.shared_landmarks(active.submap, index)
            agreed = active.meetings.setdefault(entry, Meetings()).add(index, matches)
            ids = None if agreed is None else entry.absorb(active, *agreed)
            if ids is not None:
                self.asleep.remove(entry)
                self.active = entry
                return ids
        return None

    def largest(self) -> AtlasEntry:
        """The map with most keyframes."""
        return max([self.active, *self.asleep], key=lambda entry: len(entry.submap.posed()))
