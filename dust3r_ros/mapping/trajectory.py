"""The frames of a map, each relative to a keyframe, and located again without drift when the map has changed."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
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

_MOST_PX = 3.0  # a larger shift is another spot


@dataclass(frozen=True, eq=False)
class TrackedImage:
    """The corners (N) followed into the image of a stamp.

    ``anchored_ns``: stamp of the image that they were last refreshed from.
    """

    stamp_ns: int
    tracks: Tracks
    anchored_ns: int


@dataclass(frozen=True, eq=False)
class Drift:
    """Drift (N, 2) of the corners ``ids`` (N,) in a keyframe, pixels; NaN if unknown."""

    stamp_ns: int
    ids: np.ndarray
    pixels: Array


def without_drift(tracked: TrackedImage, drifts: Sequence[Drift]) -> Tracks:
    """The corners of an image without their drift, by keyframes of its camera in order of time.

    In an image from before the corners of the last keyframe were refreshed, drift is that of the keyframe; otherwise
    it is a fraction of the drift in the next one.
    """
    at = bisect_left(drifts, tracked.stamp_ns, key=lambda drift: drift.stamp_ns)
    if at == 0:
        return tracked.tracks
    last, share = drifts[at - 1], 1.0
    if tracked.anchored_ns >= last.stamp_ns:
        # Live, corners may come from a younger image and be followed back from there.
        if at == len(drifts) or tracked.anchored_ns >= tracked.stamp_ns:
            return tracked.tracks
        share = (tracked.stamp_ns - tracked.anchored_ns) / (drifts[at].stamp_ns - tracked.anchored_ns)
        last = drifts[at]
    ids, pixels = tracked.tracks.ids, tracked.tracks.pixels.copy()
    _, own, there = np.intersect1d(ids, last.ids, return_indices=True)
    off = last.pixels[there]
    near = np.linalg.norm(off, axis=1) < _MOST_PX
    pixels[own[near]] -= share * off[near]
    return Tracks(ids, pixels)


_KEPT = 1000  # newest frames that can be located again: about ten kilobytes each


class Keyframes(Protocol):
    """The keyframes on which frames' poses depend."""

    def pose(self, index: int) -> Array | None:
        """``w_T_c`` (4, 4) of a keyframe, None while unknown."""

    def unit(self, index: int) -> float:
        """A length that scales with the surroundings of a keyframe; NaN while unknown."""

    def drift(self, index: int, tracks: Tracks) -> Array:
        """(N, 2) drift of corners in a keyframe, pixels; NaN where unknown."""

    @property
    def finder(self) -> Finder:
        """Locates frames by their corners."""


class FrameLog:
    """The frames of one map, in order of arrival."""

    def __init__(self, keyframes: Keyframes, session: int = 0) -> None:
        """``session`` counts how many times the map was continued: every session has its own clock."""
        self._keyframes, self._session = keyframes, session
        self.rewritten = 0  # how many times existing frames changed
        self._frames: list[FrameState] = []
        self._located: Counter[int] = Counter()  # frames with a relative pose, by keyframe
        # Frame index, corners followed
        self._seen: deque[tuple[int, CameraStream, TrackedImage]] = deque(maxlen=_KEPT)
        self._seen_in_keyframes: deque[tuple[int, CameraStream, TrackedImage]] = deque(maxlen=_KEPT)

    def add_keyframe(self, index: int, stream: CameraStream, seen: TrackedImage) -> None:
        """Add a frame that became keyframe ``index``; ``seen``: the corners followed into it."""
        self._seen_in_keyframes.append((index, stream, seen))
        self._append(FrameState(seen.stamp_ns, stream.name, index, np.eye(4), float("nan"), self._session))

    def add(self, reference: int, stream: CameraStream, seen: TrackedImage, found: PnpResult | None) -> None:
        """Add another frame relative to keyframe ``reference``; ``seen`` locates it again later."""
        self._seen.append((len(self._frames), stream, seen))
        frame = FrameState(seen.stamp_ns, stream.name, reference, None, float("nan"), self._session)
        self._append(self._relative(frame, found))

    def keep(self, reference: int, stream: CameraStream, seen: TrackedImage, r_T_f: Array, unit: float) -> None:
        """Add a frame at ``r_T_f`` (4, 4) from keyframe ``reference``, whose unit was ``unit`` at the time."""
        self._seen.append((len(self._frames), stream, seen))
        self._append(FrameState(seen.stamp_ns, stream.name, reference, r_T_f, unit, self._session))

    def find_again(self) -> None:
        """Locate the newest frames again after the map was rebuilt or refined."""
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
            again = self._relative(frame, self._keyframes.finder.locate(stream, tracks, guess))
            self._located[frame.keyframe] += frame.keyframe_T_frame is None and again.keyframe_T_frame is not None
            self._frames[at] = again

    @property
    def cameras(self) -> set[str]:
        """The cameras of the frames of this session."""
        return {frame.camera for frame in self._frames if frame.session == self._session}

    @property
    def frames(self) -> Sequence[FrameState]:
        """All frames in order; existing ones stay the same objects until ``rewritten`` increases."""
        return self._frames

    def restore(self, frames: Iterable[FrameState]) -> None:
        """Add frames of earlier sessions, before any of this one; they are not located again."""
        for frame in frames:
            self._append(frame)

    def count(self) -> int:
        """The number of frames with a pose."""
        return sum(count for keyframe, count in self._located.items() if self._keyframes.pose(keyframe) is not None)

    def trajectory(self, only: Container[tuple[int, str]] | None = None) -> list[StampedPose]:
        """Every frame with a pose in the current map, by session and time.

        ``only``: (stamp, camera) of the wanted frames of this session.
        """
        known = [
            frame
            for frame in (self._frames[at] for at in self._placed())
            if only is None or (frame.session == self._session and (frame.stamp_ns, frame.camera) in only)
        ]
        known.sort(key=lambda frame: (frame.session, frame.stamp_ns, frame.camera))
        return [StampedPose(frame.stamp_ns, frame.camera, self._pose_of(frame)) for frame in known]

    def path(self, camera: str, most: int) -> list[StampedPose]:
        """The poses of a camera in order of arrival, at most ``most``: every n-th one up to the newest."""
        own = [frame for frame in (self._frames[at] for at in self._placed()) if frame.camera == camera]
        kept = own[:: -max(1, -(-len(own) // most))][::-1]
        return [StampedPose(frame.stamp_ns, frame.camera, self._pose_of(frame)) for frame in kept]

    def absorb(self, other: FrameLog, first: int) -> None:
        """Take the frames of another map, whose keyframes become ``first`` and up."""
        self.rewritten += 1
        self._seen.clear()  # these refer to landmarks of previous maps
        self._seen_in_keyframes.clear()
        for frame in other._frames:
            self._append(replace(frame, keyframe=first + frame.keyframe))

    def rescale(self, factor: float) -> None:
        """The unit of length shrank by ``factor``, for frames and keyframes alike."""
        self.rewritten += 1
        self._frames = [_rescaled(frame, factor) for frame in self._frames]

    def _relative(self, frame: FrameState, found: PnpResult | None) -> FrameState:
        """A frame with the pose found, or unchanged if there is none."""
        w_T_r = self._keyframes.pose(frame.keyframe)
        if found is None or w_T_r is None:
            return frame
        return replace(frame, keyframe_T_frame=invert(w_T_r) @ found.w_T_c, unit=self._keyframes.unit(frame.keyframe))

    def _append(self, frame: FrameState) -> None:
        self._frames.append(frame)
        self._located[frame.keyframe] += frame.keyframe_T_frame is not None

    def _placed(self) -> list[int]:
        """Indices of frames with a pose: their keyframe may lack one for a while, or for good."""
        posed = {index for index in self._located if self._keyframes.pose(index) is not None}
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
    """The same frame in a unit that is smaller by ``factor``."""
    if frame.keyframe_T_frame is None:
        return frame
    scaled = frame.keyframe_T_frame.copy()
    scaled[:3, 3] *= factor
    return replace(frame, keyframe_T_frame=scaled, unit=factor * frame.unit)
