"""The active map, and the maps in which the camera was lost.

A camera that stays lost begins another map; when it sees again what an older map knows, the two
are joined (as in ORB-SLAM3's Atlas, Campos et al., T-RO 2021).
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
    """One map of an atlas: the map itself, its frames, and the names of its keyframes, unique in the atlas."""

    def __init__(self, submap: Submap, fresh_names: Iterator[int], session: int = 0) -> None:
        self.submap = submap
        self.frames = FrameLog(submap, session, submap.state.pages.keep)
        self.live: bool | None = None  # whether work on the whole map is done in a child; None: offline
        self.changes = 0  # how often keyframes changed
        self._restored = False
        self._generation = 0
        self.names: list[int] = []
        self._fresh_names = fresh_names
        self.meetings: dict[AtlasEntry, Meetings] = {}  # with sleeping maps

    def name(self, index: int) -> int:
        """The name of keyframe ``index``, assigned on first use."""
        while len(self.names) <= index:
            self.names.append(next(self._fresh_names))
        return self.names[index]

    def keyframe(self, index: int) -> Keyframe:
        """Keyframe ``index`` under its name."""
        return replace(self.submap.keyframe(index), index=self.name(index))

    def go_live(self, beside: bool) -> None:
        """From now on defer what can wait."""
        self.live = beside
        self.submap.chores.go_live(beside)

    def take_changed(self) -> tuple[Keyframe, ...]:
        """Keyframes that changed since the last call, under their names."""
        changed = self.submap.take_changed()
        self.changes += bool(changed)
        return tuple(replace(keyframe, index=self.name(keyframe.index)) for keyframe in changed)

    @property
    def edges(self) -> list[tuple[int, int, float]]:
        """The pair graph by names: (first, second, weight)."""
        return [(self.name(first), self.name(second), weight) for first, second, weight in self.submap.graph.edges]

    def remember(self, stream: CameraStream, seen: TrackedImage, found: PnpResult | None, keyframe: int | None) -> None:
        """Record a frame's pose relative to a keyframe, and what is needed to locate it again while the map settles."""
        state = self.submap.state
        if keyframe is not None:
            self.name(keyframe)
            self.frames.add_keyframe(keyframe, stream, seen)
        else:
            self.frames.add(state.trail[-1], stream, seen, found)
        if self.live is None and self.submap.settling and state.generation != self._generation:
            self._generation = state.generation
            self.frames.find_again()

    def keep(self, pose: FollowedPose, stream: CameraStream) -> bool:
        """Record a pose found elsewhere, relative to a keyframe; False if no keyframe has that name."""
        if pose.keyframe not in self.names:
            return False
        seen = TrackedImage(pose.stamp_ns, Tracks(pose.ids, pose.pixels), pose.snapshot_ns)
        self.frames.keep(self.names.index(pose.keyframe), stream, seen, pose.k_T_c, pose.unit)
        return True

    def move(self, new_S_old: Similarity) -> None:
        """Move the whole map, keyframes and frames, to other coordinates and another unit."""
        self.submap.move(new_S_old)
        self.frames.rescale(new_S_old.scale)

    def restore(self, state: SubmapState, streams: Mapping[str, CameraStream]) -> None:
        """Restore a map of an earlier session into an empty one; every keyframe counts as changed."""
        self.names, self._restored = list(state.names), True
        self.submap.restore(state, streams)
        self._generation = self.submap.state.generation
        self.frames.restore(state.frames)

    @property
    def lasts(self) -> bool:
        """Whether it is kept when its cameras are lost: if it has grown, or was loaded."""
        return len(self.submap) > YOUNG or self._restored

    def posed_names(self) -> tuple[int, ...]:
        """Names of the keyframes with a pose."""
        return tuple(self.name(index) for index in self.submap.posed())

    def absorb(self, other: AtlasEntry, matches: np.ndarray, witness: np.ndarray) -> np.ndarray | None:
        """Take another map in, given identical landmarks ``matches`` (M, 2), own and other's.

        ``witness`` (M,): the keyframe of the other map that showed each.
        Returns the new ids of the other's landmarks; None, and nothing changed, if they do not fit.
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
    """Switches between maps; keyframes of a sleeping map count as removed until it wakes."""

    def __init__(self, make: Callable[[], Submap]) -> None:
        self._make = make
        self.asleep: list[AtlasEntry] = []
        self.session = 0  # how many times the maps were continued
        self.origin = ("", 0)  # their file, and its state
        self._live: bool | None = None
        self.begin()

    def restore(self, state: MapState, streams: Mapping[str, CameraStream]) -> None:
        """Restore the maps of an earlier session, which had all of ``streams``, into an empty atlas."""
        self.session, self.origin = state.session + 1, (state.lineage, state.changes)
        self._names = count(max((name for submap in state.submaps for name in submap.names), default=-1) + 1)
        maps = [AtlasEntry(self._make(), self._names, self.session) for _ in state.submaps]
        for entry, saved in zip(maps, state.submaps, strict=True):
            entry.restore(saved, streams)
        if maps:
            self.active, self.asleep = maps[0], maps[1:]

    def begin(self) -> None:
        """Begin another map; the active one is dropped."""
        if not self.asleep:
            self._names = count()
        self.active = AtlasEntry(self._make(), self._names, self.session)
        if self._live is not None:
            self.active.go_live(self._live)

    def go_live(self, beside: bool) -> None:
        """From now on defer what can wait, in this map and later ones."""
        self._live = beside
        for entry in (self.active, *self.asleep):
            entry.go_live(beside)

    def sleep(self) -> None:
        """Begin another map; the active one sleeps."""
        self.asleep.append(self.active)
        self.begin()

    def find(
        self, stream: CameraStream, gray: Image, image: Image, forget: Callable[[], None]
    ) -> tuple[AtlasEntry, PnpResult, Tracks] | None:
        """Find a frame in one of the sleeping maps; ``forget`` drops another map's keyframes from the backend."""
        found = None
        for entry in reversed(self.asleep):
            forget()
            found = entry.submap.finder.relocalise(stream, gray, image)
            if found is not None:
                break
        forget()
        return None if found is None else (entry, *found)

    def wake(self, entry: AtlasEntry) -> None:
        """Make a sleeping map active again; the previous one sleeps if it has poses."""
        self.asleep.remove(entry)
        if self.active.submap.initialised:
            self.asleep.append(self.active)
        self.active = entry
        entry.submap.mark_all()

    def join(self, index: int) -> np.ndarray | None:
        """Join the active map with a sleeping one if keyframe ``index`` ties them together.

        The older one stays where it was and is then active. Returns the new ids of the active map's
        landmarks, None if nothing was joined.
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
