"""Where every frame was: relative to a keyframe, so that it moves with the map."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, StampedPose

_KEPT = 1000  # newest frames that can be found again: some ten kilobytes each

Finder = Callable[[Array | None], PnpResult | None]  # from a guess


class Keyframes(Protocol):
    """What a frame's pose hangs on."""

    def pose(self, index: int) -> Array | None:
        """``w_T_c`` (4, 4) of a keyframe, None while unknown."""

    def unit(self, index: int) -> float:
        """A length in the surroundings of a keyframe that grows when they do; NaN while unknown."""


@dataclass(frozen=True, eq=False)
class _Frame:
    stamp_ns: int
    camera: str
    keyframe: int
    keyframe_T_frame: Array | None  # None: not found (yet)
    unit: float  # of the keyframe when this was written


class FrameLog:
    """The frames of one map, in the order in which they came."""

    def __init__(self, keyframes: Keyframes) -> None:
        self._keyframes = keyframes
        self._frames: list[_Frame] = []
        self._finders: deque[tuple[int, Finder]] = deque(maxlen=_KEPT)  # frames to find again: index, how

    def add_keyframe(self, stamp_ns: int, camera: str, index: int) -> None:
        """A frame that became keyframe ``index``."""
        self._frames.append(_Frame(stamp_ns, camera, index, np.eye(4), float("nan")))

    def add(self, stamp_ns: int, camera: str, reference: int, found: PnpResult | None, again: Finder) -> None:
        """Another frame, kept relative to keyframe ``reference``; ``again`` finds it when the map has changed."""
        self._finders.append((len(self._frames), again))
        self._frames.append(self._relative(_Frame(stamp_ns, camera, reference, None, float("nan")), found))

    def find_again(self) -> None:
        """The map was built anew, or refined: so are the poses of the newest frames."""
        for at, again in self._finders:
            frame = self._frames[at]
            guess = None if frame.keyframe_T_frame is None else self._pose_of(frame)
            self._frames[at] = self._relative(frame, again(guess))

    @property
    def cameras(self) -> set[str]:
        """The cameras whose frames these are."""
        return {frame.camera for frame in self._frames}

    def count(self) -> int:
        """How many frames have a pose."""
        return sum(frame.keyframe_T_frame is not None for frame in self._frames)

    def trajectory(self) -> list[StampedPose]:
        """Every frame with a pose, by time, in the map as it stands now."""
        poses = [
            StampedPose(frame.stamp_ns, frame.camera, self._pose_of(frame))
            for frame in self._frames
            if frame.keyframe_T_frame is not None
        ]
        return sorted(poses, key=lambda p: (p.stamp_ns, p.camera))

    def absorb(self, other: FrameLog, first: int) -> None:
        """The frames of another map whose keyframes are these from ``first`` on."""
        self._finders.clear()  # they know the landmarks of maps that were
        self._frames += [replace(frame, keyframe=first + frame.keyframe) for frame in other._frames]

    def _relative(self, frame: _Frame, found: PnpResult | None) -> _Frame:
        """A frame with its pose as found, unless there is none; then as it was."""
        w_T_r = self._keyframes.pose(frame.keyframe)
        if found is None or w_T_r is None:
            return frame
        return replace(
            frame, keyframe_T_frame=invert(w_T_r) @ found.w_T_c, unit=self._keyframes.unit(frame.keyframe)
        )

    def _pose_of(self, frame: _Frame) -> Array:
        w_T_r = self._keyframes.pose(frame.keyframe)
        assert frame.keyframe_T_frame is not None and w_T_r is not None, "only placed frames have poses"
        relative = frame.keyframe_T_frame.copy()
        factor = self._keyframes.unit(frame.keyframe) / frame.unit
        if np.isfinite(factor):
            relative[:3, 3] *= factor
        return w_T_r @ relative
