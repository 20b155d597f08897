"""Lost cameras: the active map, the maps in which cameras were lost, and the search for frames in all of them.

A camera that stays lost begins another map; when it sees again what an older map knows, the two
are joined (as in ORB-SLAM3's Atlas, Campos et al., T-RO 2021).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count

import numpy as np

from dust3r_ros.backends.base import Backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.covisibility import estranged
from dust3r_ros.mapping.frames import CameraFrame, TrackedImage
from dust3r_ros.mapping.loop_closing import Meetings
from dust3r_ros.mapping.reconstruction import Culled, Heir
from dust3r_ros.mapping.rig import Rig
from dust3r_ros.mapping.state import MapState, SubmapState
from dust3r_ros.mapping.submap import Submap
from dust3r_ros.mapping.trajectory import FrameLog
from dust3r_ros.sparse.landmarks import different
from dust3r_ros.tracking import Tracks, join
from dust3r_ros.tracking.exchange import YOUNG, FollowedPose, Renumbering
from dust3r_ros.types import Array, Image, Keyframe

_HEIRS = 64  # culled keyframes for which late poses are accepted
_FOLDED = 10  # images at a wrong place for each that is found to be
_NEWEST = 200  # frames located again while the map grows: a fifth of a second of work


class AtlasEntry:
    """One map of an atlas: the map itself, its frames, and the names of its keyframes, unique in the atlas."""

    def __init__(self, submap: Submap, fresh_names: Iterator[int]) -> None:
        self.submap = submap
        self.frames = FrameLog(submap, submap.state.pages.put_away)
        self.live: bool | None = None  # whether work on the whole map is done in a child; None: offline
        self.changes = self.removals = 0  # how often keyframes changed, and some were culled
        self.numbering = 0  # how often landmarks got new ids
        self.renumbering: Renumbering | None = None  # the last time, of those that cameras may follow
        self._heirs: dict[int, Heir] = {}  # of those culled last, by name
        self._restored, self._generation = False, 0
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
        self.submap.deferred.go_live(beside)

    def take_changed(self) -> tuple[Keyframe, ...]:
        """Keyframes that changed since the last call, under their names."""
        changed = self.submap.take_changed()
        self.changes += bool(changed)
        return tuple(replace(keyframe, index=self.name(keyframe.index)) for keyframe in changed)

    def remember(self, stream: CameraStream, seen: TrackedImage, found: PnpResult | None, keyframe: int | None) -> None:
        """Record a frame's pose relative to a keyframe, and what is needed to locate it again while the map settles."""
        state = self.submap.state
        if keyframe is not None:
            self.name(keyframe)
            state.records[keyframe].session = seen.session
            self.frames.add_keyframe(keyframe, stream, seen)
        else:
            self.frames.add(state.trail[-1], stream, seen, found)
        if self.live is None and self.submap.settling and state.generation != self._generation:
            self._find_again()

    def rest(self, stamp_ns: int) -> None:
        """No keyframe came with the frame of a stamp: adjust the whole map, and locate frames again, where it rests."""
        if self.submap.rest(stamp_ns):
            self._find_again()

    def _find_again(self) -> None:
        """Locate the newest frames in the map as it is now; others follow their keyframes until the map is finished."""
        self._generation = self.submap.state.generation
        self.frames.find_again(_NEWEST)

    def keep(self, pose: FollowedPose, stream: CameraStream, session: int) -> bool:
        """Record a pose found elsewhere, relative to a keyframe; False if no keyframe has that name."""
        name, k_T_c, unit = pose.keyframe, pose.k_T_c, pose.unit
        while name in self._heirs:  # it was culled meanwhile
            name, k_T_c, unit = self._heirs[name].instead(k_T_c, unit)
        if name not in self.names:
            return False
        seen = TrackedImage(pose.stamp_ns, Tracks(pose.ids, pose.pixels), pose.snapshot_ns, session=session)
        self.frames.keep(self.names.index(name), stream, seen, k_T_c, unit)
        return True

    def follow(self, culled: Culled) -> tuple[int, ...]:
        """Names and frames follow a removal of keyframes; returns the names of those that left."""
        self.removals += bool(culled.heir_T_culled)
        names = [self.name(index) for index in range(len(culled.new))]
        self.frames.follow(culled)
        for entry in self.meetings.values():
            entry.renumber(culled.new)
        self.names = [name for name, new in zip(names, culled.new, strict=True) if new >= 0]
        for i, heir_T_culled in culled.heir_T_culled.items():
            self._heirs[names[i]] = Heir(self.names[culled.heir[i]], heir_T_culled, *culled.units[i].tolist())
        self._heirs = dict(list(self._heirs.items())[-_HEIRS:])
        return tuple(names[index] for index in sorted(culled.heir_T_culled))

    def renumber_landmarks(self, streams: Sequence[CameraStream], met: Sequence[tuple[Meetings, int]]) -> None:
        """Give landmarks new ids, without gaps; ``met``: meetings of the map, and which side it has in each."""
        followed = [ids for stream in streams for ids in stream.landmark_ids()]
        frames = self.frames.landmark_ids()
        others = [ids for meetings, side in met for ids in meetings.landmark_ids(side)]
        new = self.submap.renumber_landmarks(followed, [*frames, *others])
        if new is None:
            return
        for stream in streams:
            stream.renumber_landmarks(new)
        self.frames.renumber_landmarks(new)
        for meetings, side in met:
            meetings.renumber_landmarks(side, new)
        self.numbering += 1
        self.renumbering = new.only(different([*followed, *frames]))

    def move(self, new_S_old: Similarity) -> None:
        """Move the whole map, keyframes and frames, to other coordinates and another unit."""
        self._heirs.clear()  # they are in the old unit
        self.submap.move(new_S_old)
        self.frames.rescale(new_S_old.scale)

    def restore(self, state: SubmapState, streams: Mapping[str, CameraStream]) -> None:
        """Restore a map of an earlier session into an empty one; every keyframe counts as changed."""
        self.names, self._restored = list(state.names), True
        self.submap.restore(state, streams)
        self._generation = self.submap.state.generation
        self.frames.restore(state.frames)

    @property
    def has_grown(self) -> bool:
        """Whether it is more than a beginning, or was loaded."""
        return len(self.submap) > YOUNG or self._restored

    @property
    def lasts(self) -> bool:
        """Whether it is kept when its cameras are lost: offline, small ones too."""
        return self.submap.initialised and (self.has_grown or self.live is None)

    @property
    def worth(self) -> int:
        """How many images it poses; keyframes that see something else than those beside them prove many wrong."""
        posed = self.frames.count() if self.submap.initialised else 0
        return posed - _FOLDED * len(estranged(self.submap.state))

    def posed_names(self) -> tuple[int, ...]:
        """Names of the keyframes with a pose."""
        return tuple(self.name(index) for index in self.submap.posed())

    def absorb(
        self, other: AtlasEntry, matches: np.ndarray, shown_by: np.ndarray, strange: bool = False
    ) -> tuple[int, np.ndarray] | None:
        """Take another map in; arguments and result as of ``Submap.absorb``."""
        joined = self.submap.absorb(other.submap, matches, shown_by, strange)
        if joined is None:
            return None
        first, ids = joined
        names = [other.name(index) for index in range(len(other.submap))]
        self.names = [self.name(index) for index in range(first)] + names
        self.frames.absorb(other.frames, first, ids)
        return joined


class Atlas:
    """Switches between maps; keyframes of a sleeping map count as removed until it wakes."""

    def __init__(self, make: Callable[[], Submap]) -> None:
        self._make = make
        self.asleep: list[AtlasEntry] = []
        self.session = self.first_session = 0  # counts how many times maps were continued, or stamps began anew
        self.origin = ("", 0)  # their file, and its state
        self._live: bool | None = None
        self._names, self._heard_of = count(), False
        self.active = AtlasEntry(self._make(), self._names)

    def restore(self, state: MapState, streams: Mapping[str, CameraStream]) -> None:
        """Restore the maps of an earlier session, which had all of ``streams``, into an empty atlas."""
        self.session = self.first_session = state.session + 1
        self.origin = state.lineage, state.changes
        self._names = count(max((name for submap in state.submaps for name in submap.names), default=-1) + 1)
        self._heard_of = True
        maps = [AtlasEntry(self._make(), self._names) for _ in state.submaps]
        for entry, saved in zip(maps, state.submaps, strict=True):
            entry.restore(saved, streams)
        if maps:
            self.active, self.asleep = maps[0], maps[1:]

    def begin(self) -> None:
        """Begin another map; the active one is dropped. Names begin anew only where nobody has heard of any."""
        self._heard_of = self._heard_of or bool(self.asleep) or self.active.submap.initialised
        if not self._heard_of:
            self._names = count()
        self.active = AtlasEntry(self._make(), self._names)
        self._forget_meetings()
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

    def find(self, frame: CameraFrame, forget: Callable[[], None]) -> tuple[AtlasEntry, PnpResult, Tracks] | None:
        """Find a frame in one of the sleeping maps; ``forget`` drops another map's keyframes from the backend."""
        found = None
        for entry in reversed(self.asleep):
            forget()
            found = entry.submap.finder.relocalise(frame.stream, frame.gray, frame.working)
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
        self._forget_meetings()
        entry.submap.mark_all()

    def join(self, index: int) -> tuple[int, np.ndarray] | None:
        """Join the active map with a sleeping one if keyframe ``index`` ties them together.

        The older one stays where it was and is then active. Returns what the first keyframe of the active map became,
        and the new ids of its landmarks; None if nothing was joined.
        """
        active = self.active
        for entry in self.asleep if active.submap.initialised else ():
            found = [pairs for _, pairs in entry.submap.alike(active.submap, index)]
            matches = np.concatenate([np.zeros((0, 2), np.int64), *found])
            agreed = active.meetings.setdefault(entry, Meetings()).add(index, matches)
            joined = None if agreed is None else entry.absorb(active, *agreed)
            if joined is not None:
                self.asleep.remove(entry)
                self.active = entry
                self._forget_meetings()
                return joined
        return None

    def keep(self, entries: Sequence[AtlasEntry]) -> None:
        """Only these maps are left; the largest is active."""
        self.active = max(entries, key=lambda entry: len(entry.submap.posed()))
        self.asleep = [entry for entry in entries if entry is not self.active]
        self._forget_meetings()

    def _forget_meetings(self) -> None:
        """Meetings with maps that are gone would keep these in memory."""
        maps = [self.active, *self.asleep]
        for entry in maps:
            entry.meetings = {other: meetings for other, meetings in entry.meetings.items() if other in maps}

    def renumber_landmarks(self, streams: Iterable[CameraStream]) -> None:
        """Give the active map's landmarks new ids, without gaps; ``streams``: all, which follow them."""
        active = self.active
        met = [(meetings, 1) for meetings in active.meetings.values()]
        met += [(entry.meetings[active], 0) for entry in self.asleep if active in entry.meetings]
        active.renumber_landmarks(list(streams), met)

    def largest(self) -> AtlasEntry:
        """The map with most keyframes."""
        return max([self.active, *self.asleep], key=lambda entry: len(entry.submap.posed()))


_SILENT_NS = 30_000_000_000  # the last pose of a silent camera no longer holds
_UNREPORTED = 8  # newest keyframes waiting for another camera's next frame
# Offline, stamps of files say little. A camera is lost for good after so many images in a row that show anything, by
# their features (it is found later just as well); after so many of it alone, so are others, whose images are over.
_MOST_LOST, _ALONE, _ANYTHING, _SURELY = 3, 10, 6, 3  # images, of one; times the fewest landmarks of a pose
_ANYWHERE_NS = 1_500_000_000  # a live camera that was lost for longer may have been carried anywhere
_EAGER, _RELUCTANT = 6, 3  # frames of a camera that was never found: all of the first, then one in so many
_WAITS = 6  # images for each of a camera with which a map is to begin


class Search:
    """Searches for frames in the maps of an atlas, and records when each camera was found."""

    def __init__(self, atlas: Atlas, backend: Backend, config: MapperConfig, rig: Rig) -> None:
        self._atlas, self._backend, self._config, self._rig = atlas, backend, config, rig
        self._lost: dict[str, tuple[int, int]] = {}  # since when, and offline for how many images, by camera
        self._found_at: dict[str, int] = {}  # newest stamps by camera
        self._by_rig: set[tuple[str, int]] = set()
        self._unreported: list[tuple[int, str, int, bool]] = []  # keyframe, camera, stamp, whether the rig placed it
        self._vain: Counter[str] = Counter()  # frame counts of cameras that were never found, or wait to begin
        self.patient, self._patience_ns = False, 1e9 * config.lost_patience_s  # patient: the next one may be found

    def here(self, frame: CameraFrame) -> tuple[Tracks, PnpResult | None]:
        """Search for a frame in the active map by its features; landmarks it sees join its tracks."""
        submap, stream, tracks = self._atlas.active.submap, frame.stream, frame.tracks
        if not submap.finder.accepts_camera(stream):
            return tracks, None
        near = self._rig.looks(stream.name, frame.stamp_ns)
        # A camera with an unknown pose must not slow down those with a known one.
        if near is None and stream.name not in self._found_at:
            self._vain[stream.name] += 1
            if self._vain[stream.name] > _EAGER and self._vain[stream.name] % _RELUCTANT:
                return tracks, None
        found = submap.finder.relocalise(stream, frame.gray, frame.working, near)
        if found is None or not self._may_be(frame, found[0].w_T_c):
            return tracks, self._placed(frame.stamp_ns, stream, frame.gray)
        return join(found[1], tracks.select(~np.isin(tracks.ids, found[1].ids))), found[0]

    def _may_be(self, frame: CameraFrame, w_T_c: Array) -> bool:
        """Whether a live camera that was lost just now may be at a pose: a house looks like the next one."""
        active, (since_ns, _) = self._atlas.active, self._lost.get(frame.stream.name, (frame.stamp_ns, 0))
        if active.live is None or frame.stamp_ns - since_ns > _ANYWHERE_NS:
            return True
        return active.frames.may_be(frame.stamp_ns, frame.stream.name, w_T_c, frame.session)

    def again(self, frame: CameraFrame) -> bool:
        """Locate a frame of before in the active map, unless it is there, by more landmarks than one that goes on."""
        active, stream, known = self._atlas.active, frame.stream, (frame.stamp_ns, frame.stream.name, frame.session)
        apart = [entry for entry in self._atlas.asleep if entry.submap.state in active.submap.state.apart]
        if any(e.frames.has(*known) for e in (active, *apart)) or not active.submap.finder.accepts_camera(stream):
            return False
        stream.go_back_to(frame.gray, frame.mask)
        near = active.frames.near(*known)
        found = active.submap.finder.relocalise(stream, frame.gray, frame.working, near, thorough=True)
        if found is None or np.count_nonzero(found[0].inliers) < _SURELY * self._config.track_min_inliers:
            return False
        frame.found, frame.tracks = found
        active.submap.arrive(stream, frame.tracks)
        return True

    def _placed(self, stamp_ns: int, stream: CameraStream, gray: Image) -> PnpResult | None:
        """Place a frame that sees nothing known by other cameras of the rig."""
        guess = partial(self._rig.guess, stream.name)
        if guess(stamp_ns) is None:
            return None
        found = self._atlas.active.submap.placement.place(stream, stamp_ns, gray, guess)
        if found is not None:
            self._by_rig.add((stream.name, stamp_ns))
        return found

    def elsewhere(self, frame: CameraFrame) -> tuple[AtlasEntry, PnpResult, Tracks] | None:
        """Search for a frame in sleeping maps; None if none knows it, and while other cameras are in the active map."""
        others = (at for name, at in self._found_at.items() if name != frame.stream.name)
        if any(frame.stamp_ns - at < self._patience_ns for at in others):
            return None
        # The backend knows views by their number in their map. Landmarks are found without it.
        forget = (lambda: None) if self._backend.uses_poses else self._backend.clear
        return self._atlas.find(frame, forget)

    def gives_up(self, frame: CameraFrame) -> bool:
        """True if all cameras of the map were lost for long, it shows nothing, or this one had better begin it."""
        submap, camera = self._atlas.active.submap, frame.stream.name
        if frame.found is not None or not submap.initialised:
            self._lost.pop(camera, None)
            return not submap.initialised and self._had_better_begin(frame)
        if submap.stuck or self.patient:
            return submap.stuck
        since_ns, images = self._lost.get(camera, (frame.stamp_ns, 0))
        if self._atlas.active.live is None:
            images += self._shows_anything(frame)
        self._lost[camera] = since_ns, images
        alone_ns = since_ns if images >= _ALONE else 0
        return all(self._gone(frame.stamp_ns, name, alone_ns) for name in self._found_at.keys() | {camera})

    def _had_better_begin(self, frame: CameraFrame) -> bool:
        """Whether a camera has sent many images since the last of the one that is to begin the map, or that cannot."""
        submap, camera = self._atlas.active.submap, frame.stream.name
        if submap.accepts(frame.stream) or self.patient:
            self._vain.clear()
            return False
        self._vain[camera] = (self._vain[camera] + 1) % _WAITS
        return submap.stuck or (not self._vain[camera] and self._shows_anything(frame))

    def _shows_anything(self, frame: CameraFrame) -> bool:
        return len(frame.stream.features(frame.gray).pixels) >= _ANYTHING * self._config.track_min_inliers

    def _gone(self, stamp_ns: int, camera: str, alone_ns: int) -> bool:
        """Whether a camera is lost for good at a stamp, or has sent nothing since ``alone_ns``."""
        if camera in self._lost:
            since_ns, images = self._lost[camera]
            return stamp_ns - since_ns >= self._patience_ns or images >= _MOST_LOST
        return self._found_at[camera] < max(alone_ns, stamp_ns - max(_SILENT_NS, self._patience_ns))

    def found(self, stamp_ns: int, stream: CameraStream, w_T_c: Array, keyframe: int | None) -> None:
        """Record the pose of a frame, which may be a keyframe."""
        camera, placed = stream.name, (stream.name, stamp_ns) in self._by_rig
        self._by_rig.clear()
        self._found_at[camera] = stamp_ns
        submap = self._atlas.active.submap
        if keyframe is not None:
            self._unreported.append((keyframe, camera, stamp_ns, placed))
            del self._unreported[:-_UNREPORTED]
        if not placed and not submap.placement.rig_only(stream.index):  # else the rig would get back its own guess
            self._rig.located(camera, stamp_ns, w_T_c)
        self._report(submap, camera)

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k of the active map becomes ``new[k]`` (N,), or leaves if that is negative."""
        self._unreported = [(int(new[entry[0]]), *entry[1:]) for entry in self._unreported if new[entry[0]] >= 0]

    def _report(self, submap: Submap, camera: str) -> None:
        """Report keyframes' poses by the rig once another camera has a newer frame: ``camera`` just sent one."""
        waiting, self._unreported = self._unreported, [entry for entry in self._unreported if entry[1] == camera]
        for keyframe, other, stamp_ns, placed in waiting:
            w_T_c = self._rig.guess(other, stamp_ns)
            if other != camera and w_T_c is not None:
                submap.placement.report(keyframe, w_T_c, placed)

    def relearn(self, streams: Iterable[CameraStream]) -> None:
        """Feed the rig again after the map changed."""
        active = self._atlas.active
        rig_only = {stream.name for stream in streams if active.submap.placement.rig_only(stream.index)}
        poses = active.frames.trajectory() if active.submap.initialised else []
        self._rig.relearn(pose for pose in poses if pose.camera not in rig_only)

    def met(self, camera: str) -> bool:
        """Whether the camera was ever found in the active map."""
        return camera in self._found_at

    def clear(self) -> None:
        """Another map: no camera is lost or found yet."""
        self._lost.clear()
        self._found_at.clear()
        self._unreported.clear()
        self._vain.clear()
        self._rig.renew()
