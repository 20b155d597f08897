"""The frames of a map: each relative to a keyframe, found again without drift when the map has changed."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.state import FrameState
from dust3r_ros.mapping.submap import Finder
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array, StampedPose

_MOST_PX = 3.0  # more is another spot


@dataclass(frozen=True, eq=False)
class TrackedImage:
    """The corners (N) that were followed into the image of a stamp.

    ``anchored_ns``: stamp of the keyframe that they were last refreshed from.
    """

    stamp_ns: int
    tracks: Tracks
    anchored_ns: int


@dataclass(frozen=True, eq=False)
class Drift:
    """By how much (N, 2) the corners with these ``ids`` (N,) were off in a keyframe, pixels; NaN: nobody knows."""

    stamp_ns: int
    ids: np.ndarray
    pixels: Array


def without_drift(tracked: TrackedImage, drifts: Sequence[Drift]) -> Tracks:
    """The corners of an image without their drift, by keyframes of its camera in order of time.

    In an image that came before the corners of the last keyframe were refreshed they are off as in that keyframe; else
    by a part of what they will be off by in the next one.
    """
    at = bisect_left(drifts, tracked.stamp_ns, key=lambda drift: drift.stamp_ns)
    if at == 0:
        return tracked.tracks
    last, share = drifts[at - 1], 1.0
    if tracked.anchored_ns >= last.stamp_ns:
        if at == len(drifts):
            return tracked.tracks
        share = (tracked.stamp_ns - last.stamp_ns) / (drifts[at].stamp_ns - last.stamp_ns)
        last = drifts[at]
    ids, pixels = tracked.tracks.ids, tracked.tracks.pixels.copy()
    _, own, there = np.intersect1d(ids, last.ids, return_indices=True)
    off = last.pixels[there]
    near = np.linalg.norm(off, axis=1) < _MOST_PX
    pixels[own[near]] -= share * off[near]
    return Tracks(ids, pixels)


_KEPT = 1000  # newest frames that can be found again: some ten kilobytes each


class Keyframes(Protocol):
    """What a frame's pose hangs on."""

    def pose(self, index: int) -> Array | None:
        """``w_T_c`` (4, 4) of a keyframe, None while unknown."""

    def unit(self, index: int) -> float:
        """A length in the surroundings of a keyframe that grows when they do; NaN while unknown."""

    def drift(self, index: int, tracks: Tracks) -> Array:
        """(N, 2) by how much corners are off in a keyframe, pixels; NaN where nobody knows."""

    @property
    def finder(self) -> Finder:
        """Finds frames by their corners."""


class FrameLog:
    """The frames of one map, in the order in which they came."""

    def __init__(self, keyframes: Keyframes, session: int = 0) -> None:
        """``session`` counts how often the map was continued: every session has a clock of its own."""
        self._keyframes, self._session = keyframes, session
        self.rewritten = 0  # how often frames that were here already changed
        self._frames: list[FrameState] = []
        # Which frame, what was followed
        self._seen: deque[tuple[int, CameraStream, TrackedImage]] = deque(maxlen=_KEPT)
        self._seen_in_keyframes: deque[tuple[int, CameraStream, TrackedImage]] = deque(maxlen=_KEPT)

    def add_keyframe(self, index: int, stream: CameraStream, seen: TrackedImage) -> None:
        """A frame that became keyframe ``index``; ``seen``: what was followed into it."""
        self._seen_in_keyframes.append((index, stream, seen))
        self._frames.append(FrameState(seen.stamp_ns, stream.name, index, np.eye(4), float("nan"), self._session))

    def add(self, reference: int, stream: CameraStream, seen: TrackedImage, found: PnpResult | None) -> None:
        """Another frame, kept relative to keyframe ``reference``; by what was ``seen`` it is found again."""
        self._seen.append((len(self._frames), stream, seen))
        frame = FrameState(seen.stamp_ns, stream.name, reference, None, float("nan"), self._session)
        self._frames.append(self._relative(frame, found))

    def keep(self, reference: int, stream: CameraStream, seen: TrackedImage, r_T_f: Array, unit: float) -> None:
        """A frame at ``r_T_f`` (4, 4) from keyframe ``reference``, whose surroundings measured ``unit`` then."""
        self._seen.append((len(self._frames), stream, seen))
        self._frames.append(FrameState(seen.stamp_ns, stream.name, reference, r_T_f, unit, self._session))

    def find_again(self) -> None:
        """The map was built anew, or refined: so are the poses of the newest frames."""
        self.rewritten += 1
        placed = set(self._placed())
        drifts: dict[str, list[Drift]] = {}
        for index, stream, seen in self._seen_in_keyframes:
            if self._keyframes.pose(index) is not None:
                off = self._keyframes.drift(index, seen.tracks)
                drifts.setdefault(stream.name, []).append(Drift(seen.stamp_ns, seen.tracks.ids, off))
        for at, stream, seen in self._seen:
            frame = self._frames[at]
            tracks = without_drift(seen, drifts.get(stream.name, ()))
            guess = self._pose_of(frame) if at in placed else None
            self._frames[at] = self._relative(frame, self._keyframes.finder.locate(stream, tracks, guess))

    @property
    def cameras(self) -> set[str]:
        """The cameras whose frames these are, in this session."""
        return {frame.camera for frame in self._frames if frame.session == self._session}

    @property
    def frames(self) -> Sequence[FrameState]:
        """All frames in order; those that are there stay the same objects until ``rewritten`` counts on."""
        return self._frames

    def restore(self, frames: Iterable[FrameState]) -> None:
        """Frames of earlier sessions, before any of this one; they are not found again."""
        self._frames = list(frames)

    def count(self) -> int:
        """How many frames have a pose."""
        return len(self._placed())

    def trajectory(self, only: Container[tuple[int, str]] | None = None) -> list[StampedPose]:
        """Every frame with a pose, by session and time, in the map as it stands now.

        ``only``: (stamp, camera) of frames of the present session that are wanted.
        """
        known = [
            frame
            for frame in (self._frames[at] for at in self._placed())
            if only is None or (frame.session == self._session and (frame.stamp_ns, frame.camera) in only)
        ]
        known.sort(key=lambda frame: (frame.session, frame.stamp_ns, frame.camera))
        return [StampedPose(frame.stamp_ns, frame.camera, self._pose_of(frame)) for frame in known]

    def absorb(self, other: FrameLog, first: int) -> None:
        """The frames of another map whose keyframes are these from ``first`` on."""
        self.rewritten += 1
        self._seen.clear()  # these are landmarks of maps that were
        self._seen_in_keyframes.clear()
        self._frames += [replace(frame, keyframe=first + frame.keyframe) for frame in other._frames]

    def rescale(self, factor: float) -> None:
        """The unit of length became smaller by ``factor``, for frames and keyframes alike."""
        self.rewritten += 1
        self._frames = [_rescaled(frame, factor) for frame in self._frames]

    def _relative(self, frame: FrameState, found: PnpResult | None) -> FrameState:
        """A frame with its pose as found, unless there is none; then as it was."""
        w_T_r = self._keyframes.pose(frame.keyframe)
        if found is None or w_T_r is None:
            return frame
        return replace(frame, keyframe_T_frame=invert(w_T_r) @ found.w_T_c, unit=self._keyframes.unit(frame.keyframe))

    def _placed(self) -> list[int]:
        """Which frames have a pose: their keyframe may be without one for a while, or for good."""
        keyframes = {frame.keyframe for frame in self._frames}
        posed = {index for index in keyframes if self._keyframes.pose(index) is not None}
        return [
            at
            for at, frame in enumerate(self._frames)
            if frame.keyframe_T_frame is not None and frame.keyframe in posed
        ]

    def _pose_of(self, frame: FrameState) -> Array:
        w_T_r = self._keyframes.pose(frame.keyframe)
        assert frame.keyframe_T_frame is not None and w_T_r is not None, "only placed frames have poses"
        relative = frame.keyframe_T_frame.copy()
        factor = self._keyframes.unit(frame.keyframe) / frame.unit
        if np.isfinite(factor):
            relative[:3, 3] *= factor
        return w_T_r @ relative


def _rescaled(frame: FrameState, factor: float) -> FrameState:
    """A frame that says the same in a unit that is smaller by ``factor``."""
    if frame.keyframe_T_frame is None:
        return frame
    scaled = frame.keyframe_T_frame.copy()
    scaled[:3, 3] *= factor
    return replace(frame, keyframe_T_frame=scaled, unit=factor * frame.unit)
