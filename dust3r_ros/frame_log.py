"""Where every frame was: relative to a keyframe, so that it moves with the map."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.map_state import FrameState
from dust3r_ros.types import Array, StampedPose

_KEPT = 1000  # newest frames that can be found again: some ten kilobytes each

Finder = Callable[[Array | None], PnpResult | None]  # from a guess


class Keyframes(Protocol):
    """What a frame's pose hangs on."""

    def pose(self, index: int) -> Array | None:
        """``w_T_c`` (4, 4) of a keyframe, None while unknown."""

    def unit(self, index: int) -> float:
        """A length in the surroundings of a keyframe that grows when they do; NaN while unknown."""


class FrameLog:
    """The frames of one map, in the order in which they came."""

    def __init__(self, keyframes: Keyframes, session: int = 0) -> None:
        """``session`` counts how often the map was gone on with: every session has a clock of its own."""
        self._keyframes, self._session = keyframes, session
        self.rewritten = 0  # how often frames that were here already changed
        self._frames: list[FrameState] = []
        self._finders: deque[tuple[int, Finder]] = deque(maxlen=_KEPT)  # frames to find again: index, how

    def add_keyframe(self, stamp_ns: int, camera: str, index: int) -> None:
        """A frame that became keyframe ``index``."""
        self._frames.append(FrameState(stamp_ns, camera, index, np.eye(4), float("nan"), self._session))

    def add(self, stamp_ns: int, camera: str, reference: int, found: PnpResult | None, again: Finder) -> None:
        """Another frame, kept relative to keyframe ``reference``; ``again`` finds it when the map has changed."""
        self._finders.append((len(self._frames), again))
        frame = FrameState(stamp_ns, camera, reference, None, float("nan"), self._session)
        self._frames.append(self._relative(frame, found))

    def keep(self, stamp_ns: int, camera: str, reference: int, r_T_f: Array, unit: float, again: Finder) -> None:
        """A frame at ``r_T_f`` (4, 4) from keyframe ``reference``, whose surroundings measured ``unit`` then."""
        self._finders.append((len(self._frames), again))
        self._frames.append(FrameState(stamp_ns, camera, reference, r_T_f, unit, self._session))

    def find_again(self) -> None:
        """The map was built anew, or refined: so are the poses of the newest frames."""
        self.rewritten += 1
        placed = set(self._placed())
        for at, again in self._finders:
            frame = self._frames[at]
            guess = self._pose_of(frame) if at in placed else None
            self._frames[at] = self._relative(frame, again(guess))

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
        self._finders.clear()  # they know the landmarks of maps that were
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
