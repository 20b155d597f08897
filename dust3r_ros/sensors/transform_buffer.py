"""The tree of frames on /tf: the pose of one frame in another at any time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from dust3r_ros.geometry.rigid import interpolate, invert, is_rotation
from dust3r_ros.types import Array

HISTORY_NS = 10_000_000_000
MAX_GAP_NS = 1_000_000_000  # longest gap between two samples that is interpolated
JUMP_NS = 1_000_000_000  # a stamp that goes back by more means that the clock was set back
MAX_FRAMES = 4096  # more than any robot has
MAX_SAMPLES = 20_000  # of one transform: 10 s at 2 kHz


def default_frame(camera: str) -> str:
    """The optical frame of a camera that has none of its own."""
    return f"{camera}_optical_frame"


def own_frames(said: Mapping[str, str]) -> dict[str, str]:
    """The optical frames of cameras, in order, whose images have those ``said``; no two get the same.

    Drivers of one kind have one default frame. It stays that of the camera it is named after, else of the first.
    """
    own: dict[str, str] = {}
    for camera in sorted(said, key=lambda name: said[name] != default_frame(name)):
        own[camera] = said[camera] if said[camera] not in own.values() else default_frame(camera)
    return own


def shared_frames(said: Mapping[str, str]) -> tuple[str, ...]:
    """For which cameras ``own_frames`` are others than their images have, a sentence each."""
    own = own_frames(said)
    return tuple(
        f"camera '{camera}' has the frame_id '{frame}' of another camera, so '{own[camera]}' is used instead"
        for camera, frame in said.items()
        if own[camera] != frame
    )


@dataclass(frozen=True)
class Unavailable:
    """Why a transform is unavailable. ``later``: it may come with the next messages."""

    reason: str
    later: bool = False


@dataclass
class _Edge:
    """``p_T_c`` of one child over time; ``stamps`` ascend; a static one has a single sample that always holds."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    poses: list[Array] = field(default_factory=list)

    def insert(self, stamp_ns: int, p_T_c: Array, history_ns: int) -> None:
        if self.static:
            self.stamps, self.poses = [stamp_ns], [p_T_c]
            return
        place = bisect_left(self.stamps, stamp_ns)
        if place < len(self.stamps) and self.stamps[place] == stamp_ns:
            self.poses[place] = p_T_c
        else:
            self.stamps.insert(place, stamp_ns)
            self.poses.insert(place, p_T_c)
        stale = max(bisect_left(self.stamps, self.stamps[-1] - history_ns), len(self.stamps) - MAX_SAMPLES)
        if stale > 0:
            del self.stamps[:stale], self.poses[:stale]

    def at(self, stamp_ns: int, tolerance_ns: int, name: str) -> Array | Unavailable:
        if self.static:
            return self.poses[0]
        if not self.stamps:
            return Unavailable(f"no transform of '{name}' has arrived since time jumped back", later=True)
        place = bisect_left(self.stamps, stamp_ns)
        if place == len(self.stamps):
            return self._nearest(place - 1, stamp_ns, tolerance_ns, name)
        if self.stamps[place] == stamp_ns:
            return self.poses[place]
        if place == 0:
            return self._nearest(0, stamp_ns, tolerance_ns, name)
        before, after = self.stamps[place - 1], self.stamps[place]
        if after - before <= MAX_GAP_NS:
            return interpolate(self.poses[place - 1], self.poses[place], (stamp_ns - before) / (after - before))
        return self._nearest(place - (stamp_ns - before <= after - stamp_ns), stamp_ns, tolerance_ns, name)

    def _nearest(self, place: int, stamp_ns: int, tolerance_ns: int, name: str) -> Array | Unavailable:
        """The sample at ``place`` if it is within the tolerance."""
        past = stamp_ns - self.stamps[place]
        if abs(past) <= tolerance_ns:
            return self.poses[place]
        if place == len(self.stamps) - 1 and past > 0:
            return Unavailable(f"the newest transform of '{name}' is {past * 1e-9:.3f} s older", later=True)
        if place == 0 and past < 0:
            return Unavailable(f"the oldest transform of '{name}' is {-past * 1e-9:.3f} s younger")
        return Unavailable(f"the nearest transform of '{name}', in a gap, is {abs(past) * 1e-9:.3f} s away")


class TransformBuffer:
    """Stores transforms and looks up chains of them. Thread-safe.

    A leading slash in frame names (from ROS 1) is dropped. A transform between two samples is interpolated:
    translation linearly, rotation on the shortest arc. Nothing is extrapolated, except that the nearest sample
    holds for ``tolerance_ns``.
    """

    def __init__(self, history_ns: int = HISTORY_NS) -> None:
        """Samples more than ``history_ns`` older than the newest of their transform are forgotten."""
        self._history_ns = history_ns
        self._edges: dict[str, _Edge] = {}  # by child
        self._lock = Lock()

    def add(self, parent: str, child: str, stamp_ns: int, p_T_c: Array, static: bool = False) -> str:
        """Take in the pose of ``child`` in ``parent``: ``p_T_c`` (4, 4), metres.

        Returns a remark for the user or "". An invalid transform (not rigid, a frame in itself, a loop) is refused; a
        new parent replaces the old one, unless only the old one is static; a stamp that jumps back by more than a
        second clears everything that is not static.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        refused = _refusal(parent, child, p_T_c)
        if refused:
            return refused
        p_T_c = np.array(p_T_c, np.float64)
        p_T_c.setflags(write=False)
        with self._lock:
            refused = self._conflict(parent, child, static)
            if refused:
                return refused
            jumped = "" if static else self._cleared_by_jump(parent, child, stamp_ns)
            edge, adopted = self._edge_for(parent, child, static)
            edge.insert(stamp_ns, p_T_c, self._history_ns)
        return adopted or jumped

    def lookup(self, target: str, source: str, stamp_ns: int | None, tolerance_ns: int = 0) -> Array | Unavailable:
        """``target_T_source`` (4, 4) at a stamp, or why there is none; None: at the newest common stamp."""
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._lock:
            way = self._way(target, source)
            if isinstance(way, Unavailable):
                return way
            if stamp_ns is None:
                stamp_ns = self._newest((*way[0], *way[1]))
            a_T_target = self._along(way[0], stamp_ns, tolerance_ns)  # a: the common ancestor
            if isinstance(a_T_target, Unavailable):
                return a_T_target
            a_T_source = self._along(way[1], stamp_ns, tolerance_ns)
        if isinstance(a_T_source, Unavailable) or not way[0]:
            return a_T_source
        return invert(a_T_target) @ a_T_source

    def fixed(self, target: str, source: str) -> Array | None:
        """``target_T_source`` (4, 4) if only static transforms lie between the two; else None."""
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._lock:
            way = self._way(target, source)
            if isinstance(way, Unavailable) or not all(self._edges[name].static for name in (*way[0], *way[1])):
                return None
        found = self.lookup(target, source, None)
        return None if isinstance(found, Unavailable) else found

    def parent(self, frame: str) -> str | None:
        """The parent of ``frame``, None for a root or an unknown frame."""
        with self._lock:
            edge = self._edges.get(frame.lstrip("/"))
            return None if edge is None else edge.parent

    def clear(self) -> None:
        """Forget everything that is not static, as when time jumps back."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        for edge in self._edges.values():
            if not edge.static:
                edge.stamps, edge.poses = [], []

    def _conflict(self, parent: str, child: str, static: bool) -> str:
        """Why a transform conflicts with the known ones, or ""."""
        if child in self._chain(parent):
            return f"transform '{parent}' -> '{child}' closes a loop; it is refused"
        edge = self._edges.get(child)
        if edge is None and len(self._edges) >= MAX_FRAMES:
            return f"transform '{parent}' -> '{child}' is refused: {MAX_FRAMES} frames are known already"
        if edge is not None and edge.static and not static and edge.parent != parent:
            return f"frame '{child}' has two parents, '{edge.parent}' and '{parent}'; the static one is kept"
        return ""

    def _cleared_by_jump(self, parent: str, child: str, stamp_ns: int) -> str:
        """If a stamp jumps back, forget everything that is not static; returns a remark or ""."""
        edge = self._edges.get(child)
        if edge is None or edge.static or not edge.stamps:
            return ""
        back = edge.stamps[-1] - stamp_ns
        if back <= JUMP_NS:
            return ""
        self._clear()
        return f"transform '{parent}' -> '{child}' jumps back by {back * 1e-9:.3f} s; older ones are dropped"

    def _edge_for(self, parent: str, child: str, static: bool) -> tuple[_Edge, str]:
        """The edge for a transform, and a remark or ""; a new edge if the parent or the kind changed."""
        edge = self._edges.get(child)
        if edge is not None and edge.parent == parent and edge.static == static:
            return edge, ""
        remark = ""
        if edge is not None and edge.parent != parent:
            remark = f"frame '{child}' has two parents, '{edge.parent}' and '{parent}'; the newer is used"
        fresh = self._edges[child] = _Edge(parent, static)
        return fresh, remark

    def _newest(self, names: Iterable[str]) -> int:
        """The newest stamp covered by all moving transforms of these children; 0 if none moves."""
        moving = [e for name in names if not (e := self._edges[name]).static]
        return min((edge.stamps[-1] for edge in moving if edge.stamps), default=0)

    def _along(self, names: Sequence[str], stamp_ns: int, tolerance_ns: int) -> Array | Unavailable:
        """The pose (4, 4) of the first of ``names`` in the parent of the last; each is the child of the next."""
        pose = np.eye(4)
        for name in reversed(names):
            found = self._edges[name].at(stamp_ns, tolerance_ns, name)
            if isinstance(found, Unavailable):
                return found
            pose = pose @ found
        return pose

    def _chain(self, frame: str) -> Iterator[str]:
        """``frame`` and its ancestors; there are no loops."""
        while True:
            yield frame
            edge = self._edges.get(frame)
            if edge is None:
                return
            frame = edge.parent

    def _way(self, target: str, source: str) -> tuple[list[str], list[str]] | Unavailable:
        """The children from target up to the common ancestor, and from source up to it."""
        known = {*self._edges, *(edge.parent for edge in self._edges.values())}
        for name in (target, source):
            if name not in known and target != source:
                return Unavailable(f"frame '{name}' is not on TF", later=True)
        up, down = list(self._chain(target)), list(self._chain(source))
        common = next((name for name in up if name in down), None)
        if common is None:
            return Unavailable(f"frames '{target}' and '{source}' are not connected", later=True)
        return up[: up.index(common)], down[: down.index(common)]


def _refusal(parent: str, child: str, p_T_c: Array) -> str:
    """Why a transform is invalid, or ""."""
    if not parent or not child:
        return f"transform '{parent}' -> '{child}' lacks a frame name; it is refused"
    if parent == child:
        return f"transform '{parent}' -> '{child}' connects a frame to itself; it is refused"
    matrix = np.asarray(p_T_c, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        return f"transform '{parent}' -> '{child}' is not (4, 4) or not finite; it is refused"
    if not is_rotation(matrix[:3, :3]):
        return f"transform '{parent}' -> '{child}' is not a rigid motion; it is refused"
    return ""
