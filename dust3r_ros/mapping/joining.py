"""Joins finished maps: those that show the same place become one, the others stay apart.

Every keyframe of one map asks every other map for keyframes that look alike. Where features agree, too, the similarity
between two maps is fitted to the landmarks that both have, the strongest tie first; what else the joined maps have in
common are loops of the joined map.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, count
from math import hypot, log
from typing import Any, NamedTuple

import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import InputError
from dust3r_ros.features.place_recognition import Appearance, PairGraph
from dust3r_ros.mapping.atlas import AtlasEntry
from dust3r_ros.mapping.state import KeyframeState, MapState, SubmapState
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.types import Camera, MapCounts


class Meeting(NamedTuple):
    """Keyframes of two maps that show the same by their features, and the landmarks (K, 2) that both have."""

    first: int
    second: int
    pairs: np.ndarray


@dataclass(eq=False)
class _Member:
    """One of the maps: where it is now, the index of its first keyframe there, and how its landmarks were renamed."""

    entry: AtlasEntry
    first: int = 0
    renamed: list[np.ndarray] = field(default_factory=list)

    def ids(self, ids: np.ndarray) -> np.ndarray:
        """What its landmarks ``ids`` (K,) are called now."""
        for new in self.renamed:
            ids = new[ids]
        return ids


class Joining:
    """Joins maps of an atlas; ``groups`` are those that became one, by their place in the list."""

    def __init__(self, entries: Sequence[AtlasEntry]) -> None:
        self._members = [_Member(entry) for entry in entries]
        self.groups = [[index] for index in range(len(entries))]
        pairs = combinations([k for k, entry in enumerate(entries) if entry.submap.initialised], 2)
        found = {pair: list(self._meetings(*pair)) for pair in pairs}
        self._ties = {pair: meetings for pair, meetings in found.items() if meetings}

    def entry(self, group: Sequence[int]) -> AtlasEntry:
        """The map of a group."""
        return self._members[group[0]].entry

    def run(self) -> None:
        """Join what fits, then close the loops of each joined map."""
        refused: set[tuple[tuple[int, ...], ...]] = set()
        while self._step(refused):
            pass
        for group in self.groups:
            loops = [
                (self._members[i].first + tie.first, self._members[j].first + tie.second, self._now(i, j, tie))
                for i, j in self._ties
                if i in group and j in group
                for tie in self._ties[i, j]
            ]
            if len(group) > 1:
                self.entry(group).submap.close_loops(loops)

    def _meetings(self, i: int, j: int) -> Iterator[Meeting]:
        own, other = self._members[i].entry.submap, self._members[j].entry.submap
        for second in other.posed():
            for first, pairs in own.alike(other, second):
                yield Meeting(first, second, pairs)

    def _step(self, refused: set[tuple[tuple[int, ...], ...]]) -> bool:
        """Join the two groups with the strongest tie of those not ``refused``; returns whether any were joined."""
        strength: Counter[tuple[int, int]] = Counter()
        group_of = {member: at for at, group in enumerate(self.groups) for member in group}
        for (i, j), meetings in self._ties.items():
            ends = sorted((group_of[i], group_of[j]))
            strength[ends[0], ends[1]] += sum(len(tie.pairs) for tie in meetings)
        for a, b in sorted(strength, key=lambda ends: (-strength[ends], ends)):
            tried = tuple(self.groups[a]), tuple(self.groups[b])
            if a == b or tried in refused:
                continue
            if self._join(a, b):
                return True
            refused.add(tried)
        return False

    def _join(self, a: int, b: int) -> bool:
        """Join two groups into the one with more keyframes, if they fit."""
        if len(self.entry(self.groups[b]).submap) > len(self.entry(self.groups[a]).submap):
            a, b = b, a
        into, other = self.entry(self.groups[a]), self.entry(self.groups[b])
        matches, shown_by = self._matches(self.groups[a], self.groups[b])
        joined = into.absorb(other, matches, shown_by, strange=True)
        if joined is None:
            return False
        first, ids = joined
        for member in (self._members[k] for k in self.groups[b]):
            member.entry, member.first = into, first + member.first
            member.renamed.append(ids)
        self.groups[a] = sorted([*self.groups[a], *self.groups[b]])
        del self.groups[b]
        return True

    def _matches(self, into: Sequence[int], other: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks (M, 2) of two groups that seem identical, and the keyframe of the second that showed each (M,)."""
        found, shown_by = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
        for (i, j), meetings in self._ties.items():
            swapped = i in other and j in into
            if not swapped and not (i in into and j in other):
                continue
            for tie in meetings:
                pairs = self._now(i, j, tie)
                found.append(pairs[:, ::-1] if swapped else pairs)
                at = self._members[i].first + tie.first if swapped else self._members[j].first + tie.second
                shown_by.append(np.full(len(pairs), at))
        return np.concatenate(found), np.concatenate(shown_by)

    def _now(self, i: int, j: int, tie: Meeting) -> np.ndarray:
        """(K, 2) the landmarks of a meeting of two members, as they are called now."""
        return np.stack([self._members[i].ids(tie.pairs[:, 0]), self._members[j].ids(tie.pairs[:, 1])], axis=1)


_AGREED, _SURE = 0.03, 3.0  # by which focals of one camera may differ: relative, and in standard deviations


class Gathered(NamedTuple):
    """Saved maps as one with several submaps, for a mapper to continue.

    ``members``: which saved map each submap is of. ``sessions``: those of each saved map, the first and how many.
    ``cameras``: what each saved map's cameras are called now.
    """

    state: MapState
    members: tuple[int, ...]
    sessions: tuple[range, ...]
    cameras: tuple[Mapping[str, str], ...]


def gather(states: Sequence[MapState], names: Sequence[str], config: MapperConfig, one_clock: bool = False) -> Gathered:
    """Put the submaps of saved maps, called ``names`` in messages, side by side.

    Cameras of the same name, or with the same given calibration, become one camera if their images have one size, were
    rectified alike, and their focals agree within their deviations; others get a name of their own. ``one_clock``: the
    maps are of one session, by the same cameras. Raises ``InputError`` for maps of different working or tracked sizes.
    """
    first = states[0]
    for name, state in zip(names, states, strict=True):
        for what in ("working_size", "tracking_size"):
            if getattr(state, what) != getattr(first, what):
                raise InputError(
                    f"map '{name}' was made with {what} {getattr(state, what)}, map '{names[0]}' with "
                    f"{getattr(first, what)}; only maps with the same can be joined"
                )
    cameras = _Cameras(one_clock)
    called = tuple(cameras.take(state) for state in states)
    lengths = [state.session + 1 for state in states]
    starts = [0] * len(states) if one_clock else np.cumsum([0, *lengths[:-1]]).tolist()
    sessions = tuple(range(start, start + length) for start, length in zip(starts, lengths, strict=True))
    appearance, fresh = Appearance(), count()
    submaps, members = [], []
    for at, state in enumerate(states):
        for submap in state.submaps:
            if submap.facts["initialised"]:
                intrinsics = cameras.intrinsics(submap, state, called[at])
                seen = _renamed(submap, called[at], sessions[at].start, intrinsics)
                submaps.append(
                    _described(replace(seen, names=tuple(next(fresh) for _ in seen.names)), appearance, config)
                )
                members.append(at)
    gathered = replace(
        first,
        cameras=tuple(cameras.found),
        submaps=tuple(submaps),
        appearance=appearance.facts(),
        counts=_sum(state.counts for state in states),
        revision=0,
        session=max(session.stop for session in sessions) - 1,
    )
    return Gathered(gathered, tuple(members), sessions, called)


def _sum(counts: Iterable[MapCounts]) -> MapCounts:
    frames, lost = np.sum([(one.frames, one.lost) for one in counts], axis=0).tolist()
    return MapCounts(frames=frames, lost=lost)


def _renamed(
    submap: SubmapState, called: Mapping[str, str], session: int, intrinsics: tuple[Intrinsics, ...]
) -> SubmapState:
    """The same with new names of cameras and later sessions."""
    keyframes = tuple(replace(keyframe, camera=called[keyframe.camera]) for keyframe in submap.keyframes)
    frames = tuple(
        replace(frame, camera=called[frame.camera], session=session + frame.session) for frame in submap.frames
    )
    return replace(submap, keyframes=keyframes, frames=frames, intrinsics=intrinsics)


def _described(submap: SubmapState, appearance: Appearance, config: MapperConfig) -> SubmapState:
    """The same with global descriptors by one ``appearance``: each map learnt its own from its first image."""
    graph, keyframes = PairGraph(config), list[KeyframeState]()
    for keyframe in submap.keyframes:
        keyframes.append(replace(keyframe, global_descriptor=appearance.describe(keyframe.features)))
        graph.add(keyframes[-1].global_descriptor)
    return replace(submap, keyframes=tuple(keyframes), likeness=tuple(graph.likeness))


@dataclass(frozen=True)
class _Known:
    """A camera of a saved map: its focal, and the calibration by which its images were rectified, if any."""

    camera: Camera
    intrinsics: Intrinsics
    calibration: Mapping[str, Any] | None

    def same(self, other: _Known) -> bool:
        """Whether both are one camera."""
        a, b = self.camera, other.camera
        if (a.width, a.height) != (b.width, b.height) or self.calibration != other.calibration:
            return False
        if a.name != b.name and self.calibration is None:
            return False
        apart = abs(log(self.intrinsics.focal / other.intrinsics.focal))
        return bool(apart <= _AGREED + _SURE * hypot(self.intrinsics.total_std, other.intrinsics.total_std))


class _Cameras:
    """The cameras of all maps, each once; with ``by_name``, cameras of the same name are the same."""

    def __init__(self, by_name: bool) -> None:
        self._by_name = by_name
        self.found: list[Camera] = []
        self._known: list[_Known] = []

    def take(self, state: MapState) -> dict[str, str]:
        """Add those of a map; returns what each is called."""
        called: dict[str, str] = {}
        applied = state.settings.get("calibrations", {}).get("applied", {})
        for index, camera in enumerate(state.cameras):
            known = _Known(camera, state.submaps[0].intrinsics[index], applied.get(camera.name))
            place = next(
                (at for at, one in enumerate(self._known)
                 if self.found[at].name not in called.values() and self._same(one, known)), None,
            )  # fmt: skip
            if place is None:
                place = len(self.found)
                self.found.append(replace(camera, name=self._free_name(camera.name)))
                self._known.append(known)
            called[camera.name] = self.found[place].name
        return called

    def _same(self, one: _Known, other: _Known) -> bool:
        return one.camera.name == other.camera.name if self._by_name else one.same(other)

    def _free_name(self, name: str) -> str:
        """The name itself, or with the first number that is free."""
        taken = {camera.name for camera in self.found}
        candidates = (name if number == 1 else f"{name}_{number}" for number in count(1))
        return next(one for one in candidates if one not in taken)

    def intrinsics(self, submap: SubmapState, state: MapState, called: Mapping[str, str]) -> tuple[Intrinsics, ...]:
        """A submap's intrinsics of every camera; of those it lacks, another map's."""
        own = {called[camera.name]: found for camera, found in zip(state.cameras, submap.intrinsics, strict=True)}
        return tuple(
            replace(own.get(camera.name, known.intrinsics))
            for camera, known in zip(self.found, self._known, strict=True)
        )
