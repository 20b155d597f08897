"""Compares a map with its file and writes the rows that differ."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from dust3r_ros.alignment.moments import scale_of
from dust3r_ros.mapping.atlas import AtlasEntry
from dust3r_ros.mapping.map_view import LiveMap
from dust3r_ros.mapping.state import KeyframeState, Trace
from dust3r_ros.sparse.landmarks import BLOCK
from dust3r_ros.storage import packing, rows
from dust3r_ros.storage.rows import OF_KEYFRAMES, OF_MAPS, write_observations


@dataclass(frozen=True, eq=False)
class WrittenKeyframe:
    """What a file has of one keyframe. ``trace`` None: written by another session, known by ``stamp_ns``, ``camera``.

    Depth in the file was written at the trace's growth ``growth``, to be multiplied by ``scale``.
    """

    map_id: int
    place: int
    stamp_ns: int
    camera: str
    scale: float
    growth: float = 1.0
    trace: Trace | None = None

    def same(self, trace: Trace, map_id: int, place: int) -> bool:
        """Whether the keyframe is unchanged since."""
        old = self.trace
        return (
            old is not None
            and self.same_observations(trace, map_id)
            and self.place == place
            and old.record is trace.record
            and old.version == trace.version
            and old.pixels is trace.pixels
            and old.moving is trace.moving
            and old.image is trace.image
            and (old.growth, old.lens, old.pose) == (trace.growth, trace.lens, trace.pose)
        )

    def same_observations(self, trace: Trace, map_id: int) -> bool:
        """Whether the keyframe's observations are unchanged since."""
        old = self.trace
        return old is not None and old.seen is trace.seen and old.pruned is trace.pruned and self.map_id == map_id

    def moved(self, map_id: int) -> bool:
        """Whether it came to another map since this process wrote it."""
        return self.map_id != map_id and self.trace is not None

    def shows_another(self, trace: Trace) -> bool:
        """Whether the keyframe's image is not the one in the file any more."""
        return self.trace is not None and self.trace.image is not trace.image

    def of(self, trace: Trace, k: KeyframeState) -> bool:
        """Whether it is this keyframe, and not an earlier one with the same number."""
        if self.trace is not None:
            return self.trace.record is trace.record
        return (self.stamp_ns, self.camera) == (k.stamp_ns, k.camera)


@dataclass(eq=False)
class WrittenMap:
    """What a file has of one map besides its keyframes."""

    map_id: int
    count: int = 0  # of frames
    rewritten: int = -1
    removals: int = 0
    numbering: int = 0
    merges: int = -1
    landmarks: int = 0
    connected: int = 0
    paired: int = -1
    moments: np.ndarray = field(default_factory=lambda: np.zeros((0, 30)))
    row: tuple[Any, ...] = ()


@dataclass(eq=False)
class Written:
    """The content of a file; a copy holds the changes of a transaction until it is committed."""

    keyframes: dict[int, WrittenKeyframe] = field(default_factory=dict)
    maps: dict[AtlasEntry, WrittenMap] = field(default_factory=dict)
    cameras: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)  # JSON
    state: dict[str, Any] = field(default_factory=dict)
    signature: tuple[Any, ...] = ()
    next_map: int = 1

    def adopt(self, base: sqlite3.Connection) -> None:
        """Take over what another session wrote."""
        self.state = {name: json.loads(value) for name, value in base.execute("SELECT name, value FROM state")}
        found = base.execute("SELECT number, map, place, stamp_ns, camera, depth_scale FROM keyframes")
        self.keyframes = {number: WrittenKeyframe(*row) for number, *row in found}
        self.next_map = 1 + max((row[0] for row in base.execute("SELECT id FROM maps")), default=0)

    def copy(self) -> Written:
        """A copy for the next transaction."""
        maps = {entry: replace(known) for entry, known in self.maps.items()}
        return replace(
            self,
            keyframes=dict(self.keyframes),
            maps=maps,
            settings=dict(self.settings),
            state=dict(self.state),
        )


class Changes:
    """One comparison of a live map with its file."""

    def __init__(
        self, base: sqlite3.Connection, written: Written, live: LiveMap, settings: Mapping[str, Any] | None
    ) -> None:
        self._base, self._live, self._before = base, live, written
        found = {name: json.dumps(value) for name, value in (settings or {}).items()}
        self._settings = {name: text for name, text in found.items() if written.settings.get(name) != text}
        self._entries = [live.atlas.active, *live.atlas.asleep]
        self._signature = (
            live.revision,
            *(
                (
                    id(s),
                    len(s.submap),
                    s.changes,
                    s.removals,
                    s.numbering,
                    s.submap.state.generation,
                    s.submap.initialised,
                )
                for s in self._entries
            ),
        )
        self._keyframes = self._signature != written.signature  # otherwise only frames were added

    @property
    def any(self) -> bool:
        """Whether there is anything to write."""
        return self._keyframes or bool(self._settings) or any(map(self._new_frames, self._entries))

    def write(self) -> Written:
        """Write the changes, within an open transaction; returns the file's new content. Raises ``sqlite3.Error``."""
        self._now = self._before.copy()
        self._base.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", list(self._settings.items()))
        self._now.settings |= self._settings
        if self._keyframes:
            self._write_maps()
        for entry in self._entries:
            self._write_frames(entry, self._now.maps[entry])
        self._write_state()
        self._now.signature = self._signature
        return self._now

    def _write_maps(self) -> None:
        for entry in self._entries:
            if entry not in self._now.maps:
                self._now.maps[entry] = WrittenMap(self._now.next_map)
                self._now.next_map += 1
        self._drop_what_is_gone()
        for place, entry in enumerate(self._entries):
            known = self._now.maps[entry]
            if known.removals != entry.removals:  # the lists of edges and pairs are others now
                known.connected, known.paired, known.removals = 0, min(known.paired, 0), entry.removals
            renumbered = known.numbering != entry.numbering
            if renumbered:
                self._base.execute("DELETE FROM aliases WHERE map = ?", (known.map_id,))
                known.merges, known.numbering = -1, entry.numbering
            self._write_keyframes(entry, known, renumbered)
            self._write_edges(entry, known)
            self._write_aliases(entry, known)
            self._write_pairs(entry, known)
            self._write_moments(entry, known)
            self._write_map(place, entry, known)
        for place, camera in enumerate(self._live.cameras.values()):
            if self._now.cameras.get(camera.name) != camera:
                rows.put(self._base, "cameras", rows.camera_row(camera, place))
                self._now.cameras = self._now.cameras | {camera.name: camera}

    def _drop_what_is_gone(self) -> None:
        for entry in self._entries:
            if len(entry.submap):
                entry.name(len(entry.submap) - 1)  # all keyframes have a number now
        names = {name for entry in self._entries for name in entry.names}
        for number in self._now.keyframes.keys() - names:
            self._drop_keyframe(number)
        kept = {entry: self._now.maps[entry] for entry in self._entries}
        if len(self._now.maps) > len(self._entries) or self._before.signature == ():
            self._drop_maps_but(known.map_id for known in kept.values())
        self._now.maps = kept

    def _drop_keyframe(self, number: int) -> None:
        for table in OF_KEYFRAMES:
            self._base.execute(f"DELETE FROM {table} WHERE number = ?", (number,))
        for table in ("edges", "pairs"):
            self._base.execute(f"DELETE FROM {table} WHERE first = ?1 OR second = ?1", (number,))
        del self._now.keyframes[number]

    def _drop_maps_but(self, ids: Iterable[int]) -> None:
        among = ", ".join(map(str, ids))
        for table in OF_MAPS:
            self._base.execute(f"DELETE FROM {table} WHERE map NOT IN ({among})")
        self._base.execute(f"DELETE FROM maps WHERE id NOT IN ({among})")

    def _write_keyframes(self, entry: AtlasEntry, known: WrittenMap, renumbered: bool) -> None:
        """Write the keyframes that differ from the file, all if their landmarks have other ids than in there."""
        saving = entry.submap.saving
        for place, trace in enumerate(saving.traces()):
            number = entry.name(place)
            before = self._now.keyframes.get(number)
            if before is not None and not renumbered and before.same(trace, known.map_id, place):
                continue
            state = saving.keyframe(place)
            if before is not None and not before.of(trace, state):
                before = None
            self._now.keyframes[number] = self._write_keyframe(
                number, place, entry, known, trace, state, before, renumbered
            )

    def _write_keyframe(
        self,
        number: int,
        place: int,
        entry: AtlasEntry,
        known: WrittenMap,
        trace: Trace,
        k: KeyframeState,
        before: WrittenKeyframe | None,
        renumbered: bool,
    ) -> WrittenKeyframe:
        """Write the parts of one keyframe that differ from the file."""
        if before is None or before.shows_another(trace):
            rows.put(self._base, "images", rows.image_row(number, k))
        scale, growth = self._write_depth(number, trace, k, before)
        if before is None or renumbered or not before.same_observations(trace, known.map_id):
            anew = before is None or renumbered or before.moved(known.map_id)
            write_observations(self._base, number, k, entry.submap.saving.resolved, anew)
        if k.sampled is not None:
            rows.put(self._base, "samples", {"number": number, "sample": packing.pack_array(k.sampled, "<f4")})
        now = scale * trace.growth / growth if k.w_S is None else float(scale_of(k.w_S))
        row = rows.keyframe_row(number, known.map_id, place, k, now)
        rows.put(self._base, "keyframes", row)
        return WrittenKeyframe(known.map_id, place, k.stamp_ns, k.camera, scale, growth, trace)

    def _write_depth(
        self, number: int, trace: Trace, k: KeyframeState, before: WrittenKeyframe | None
    ) -> tuple[float, float]:
        """Write depth if it differs from the file's; returns ``scale`` and ``growth`` of the depth then in the file."""
        if before is not None and trace.pixels is (None if before.trace is None else before.trace.pixels):
            return before.scale, before.growth
        self._base.execute("DELETE FROM depths WHERE number = ?", (number,))
        if k.depth is None or k.confidence is None:
            return 1.0, trace.growth
        scale = packing.depth_scale(k.depth) if k.w_S is None else 1.0
        rows.put(self._base, "depths", rows.depth_row(number, k.depth, k.confidence, scale))
        return scale, trace.growth

    def _write_edges(self, entry: AtlasEntry, known: WrittenMap) -> None:
        graph = entry.submap.graph
        fresh = graph.connected[known.connected :]
        found = [
            (entry.name(first), entry.name(second), float(graph.weight((first, second)))) for first, second in fresh
        ]
        self._base.executemany("INSERT OR REPLACE INTO edges VALUES (?, ?, ?)", found)
        known.connected += len(fresh)

    def _write_aliases(self, entry: AtlasEntry, known: WrittenMap) -> None:
        """Write the merged ids of landmarks, in chunks."""
        merges, blocks, aliases = entry.submap.saving.aliases(max(0, known.merges))
        for block in range(-(-len(aliases) // BLOCK)) if known.merges < 0 else blocks.tolist():
            chunk = aliases[block * BLOCK : (block + 1) * BLOCK]
            away = np.arange(block * BLOCK, block * BLOCK + len(chunk)) - chunk
            if away.any():
                row = (known.map_id, block, packing.pack_steps(away))
                self._base.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?, ?)", row)
        known.merges, known.landmarks = merges, len(aliases)

    def _write_pairs(self, entry: AtlasEntry, known: WrittenMap) -> None:
        pairs, paired = entry.submap.saving.pairs, entry.submap.saving.paired
        touched = pairs if known.paired < 0 else paired[known.paired :]
        for pair in dict.fromkeys(touched):
            ends = entry.name(pair[0]), entry.name(pair[1])
            if pair in pairs:
                rows.put(self._base, "pairs", rows.pair_row(*ends, pairs[pair]))
            else:
                self._base.execute("DELETE FROM pairs WHERE first = ? AND second = ?", ends)
        known.paired = len(paired)

    def _write_moments(self, entry: AtlasEntry, known: WrittenMap) -> None:
        edges = entry.submap.saving.moments
        if edges is None:
            return
        now = np.column_stack([edges.numbers, edges.loop, edges.on])
        same = np.zeros(len(now), bool)
        shared = min(len(now), len(known.moments))
        same[:shared] = np.all(now[:shared] == known.moments[:shared], axis=1)
        for edge in np.flatnonzero(~same).tolist():
            first, second = (entry.name(int(end)) for end in edges.ends[edge])
            numbers = packing.seal(np.asarray(edges.numbers[edge], "<f8").tobytes())
            row = (known.map_id, edge, first, second, int(edges.loop[edge]), int(edges.on[edge]), numbers)
            self._base.execute("INSERT OR REPLACE INTO moments VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        known.moments = now

    def _write_map(self, place: int, entry: AtlasEntry, known: WrittenMap) -> None:
        submap = entry.submap
        facts = {"generation": submap.state.generation, "initialised": submap.initialised, **submap.saving.facts()}
        focals = {
            stream.name: (
                submap.intrinsics[stream.index],
                stream.focal_to_working(submap.intrinsics[stream.index].focal),
            )
            for stream in self._live.streams
        }
        likeness = packing.pack_array(np.array(submap.graph.likeness), "<f8")
        row = (place, submap.saving.kind, known.landmarks, json.dumps(facts), rows.focals_text(focals), likeness)
        if row != known.row:
            self._base.execute("INSERT OR REPLACE INTO maps VALUES (?, ?, ?, ?, ?, ?, ?)", (known.map_id, *row))
            known.row = row

    def _new_frames(self, entry: AtlasEntry) -> bool:
        known, log = self._before.maps.get(entry), entry.frames
        return known is None or len(log) != known.count or log.rewritten != known.rewritten

    def _write_frames(self, entry: AtlasEntry, known: WrittenMap) -> None:
        if not self._new_frames(entry):
            return
        found = (
            rows.frame_row(known.map_id, place, frame, entry.name(frame.keyframe))
            for place, frame in entry.frames.since(known.count, known.rewritten)
        )
        self._base.executemany("INSERT OR REPLACE INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?)", found)
        known.count, known.rewritten = len(entry.frames), entry.frames.rewritten

    def _write_state(self) -> None:
        live, state = self._live, self._now.state
        state["changes"] = int(state["changes"]) + 1
        state["session"] = live.atlas.session
        state["counts"] = asdict(live.counts)
        state["sizes"] = [live.config.working_size, live.config.tracking_size]
        state["revision"] = live.revision
        state["appearance"] = live.appearance.facts()
        state["backend"] = live.config.backend
        state["readouts"] = rows.readouts(self._now.cameras.values())
        for name, value in state.items():
            if self._before.state.get(name) != value:
                self._base.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, json.dumps(value)))
