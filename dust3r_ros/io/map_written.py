"""What the file of a growing map is known to hold."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dust3r_ros.atlas import AtlasEntry
from dust3r_ros.map_state import FrameState, KeyframeState, Trace


@dataclass(frozen=True, eq=False)
class WrittenKeyframe:
    """What a file has of one keyframe. ``trace`` None: by another session, which knew it by ``stamp_ns``, ``camera``.

    Depth in the file is to be multiplied by ``scale`` where its trace's growth was ``growth``.
    """

    map_id: int
    place: int
    stamp_ns: int
    camera: str
    scale: float
    growth: float = 1.0
    trace: Trace | None = None

    def same(self, trace: Trace, map_id: int, place: int) -> bool:
        """Whether nothing of the keyframe has changed since."""
        old = self.trace
        return (
            old is not None
            and old.record is trace.record
            and old.version == trace.version
            and old.seen is trace.seen
            and old.pruned is trace.pruned
            and old.pixels is trace.pixels
            and old.growth == trace.growth
            and old.moving is trace.moving
            and old.pose == trace.pose
            and (self.map_id, self.place) == (map_id, place)
        )

    def of(self, trace: Trace, k: KeyframeState) -> bool:
        """Whether it is this keyframe, and not one that had its number before."""
        if self.trace is not None:
            return self.trace.record is trace.record
        return (self.stamp_ns, self.camera) == (k.stamp_ns, k.camera)


@dataclass(eq=False)
class WrittenMap:
    """What a file has of one map beside its keyframes."""

    map_id: int
    frames: list[FrameState] = field(default_factory=list)  # only the first ``count`` are certain
    count: int = 0
    rewritten: int = -1
    merges: int = -1
    landmarks: int = 0
    connected: int = 0
    paired: int = -1
    moments: np.ndarray = field(default_factory=lambda: np.zeros((0, 30)))
    row: tuple[Any, ...] = ()


@dataclass(eq=False)
class Written:
    """What a file has; a copy takes the changes of a transaction until that is certain."""

    keyframes: dict[int, WrittenKeyframe] = field(default_factory=dict)
    maps: dict[AtlasEntry, WrittenMap] = field(default_factory=dict)
    cameras: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)  # JSON
    state: dict[str, Any] = field(default_factory=dict)
    signature: tuple[Any, ...] = ()
    next_map: int = 1

    def adopt(self, base: sqlite3.Connection) -> None:
        """What another session wrote."""
        self.state = {name: json.loads(value) for name, value in base.execute("SELECT name, value FROM state")}
        found = base.execute("SELECT number, map, place, stamp_ns, camera, depth_scale FROM keyframes")
        self.keyframes = {number: WrittenKeyframe(*row) for number, *row in found}
        self.next_map = 1 + max((row[0] for row in base.execute("SELECT id FROM maps")), default=0)

    def copy(self) -> Written:
        """For what is about to be written."""
        maps = {entry: replace(known) for entry, known in self.maps.items()}
        return replace(
            self,
            keyframes=dict(self.keyframes),
            maps=maps,
            settings=dict(self.settings),
            state=dict(self.state),
        )
