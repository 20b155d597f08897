"""Cuts a long recording into overlapping pieces of about the same motion, at places where the camera moves calmly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.types import Array, Frame, Image

# In steps of ``keyframe_motion``: about as many keyframes.
_LEAST, _MOST = 45.0, 150.0  # of a piece
_PIECES = 8  # as long as pieces are not that long: enough for some processes
_OVERLAP = 6.0
_ABOUT = 0.2  # of a piece, by which a cut may be off where it would be, for a calmer place
_FEWEST = 8  # frames of an overlap
_REST = 0.002  # of the long edge: less motion is noise
_LONG_EDGE = 160  # pixels, of the images that are compared


@dataclass(frozen=True)
class Piece:
    """A part of a recording: its ``frames`` (camera, stamp), of which those from ``begin_ns`` to before ``end_ns`` are
    its own; the others are those of its neighbours, too.
    """

    frames: tuple[tuple[str, int], ...]
    begin_ns: int
    end_ns: int

    @property
    def between(self) -> tuple[int, int]:
        """The first stamp, and one beyond the last."""
        stamps = [stamp_ns for _, stamp_ns in self.frames]
        return min(stamps), max(stamps) + 1


class Motion:
    """The frames of a recording, and how far each moved since the one before of its camera."""

    def __init__(self) -> None:
        self.frames: list[tuple[str, int]] = []
        self.steps: list[float] = []  # shares of the long edge, median over the image
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._last: dict[str, Image] = {}

    def see(self, frame: Frame) -> None:
        """Add the next frame."""
        small = _small(frame.image)
        last = self._last.get(frame.camera)
        step = 0.0
        if last is not None and last.shape == small.shape:
            moved = np.linalg.norm(self._flow.calc(last, small, None), axis=2)
            step = float(np.median(moved)) / max(small.shape)
        self._last[frame.camera] = small
        self.frames.append((frame.camera, frame.stamp_ns))
        self.steps.append(step if step > _REST else 0.0)


def _small(image: Image) -> Image:
    """The image (h, w) in grey, at most 160 pixels wide or high; each pixel the mean of those it covers."""
    factor = max(1, round(max(image.shape[:2]) / _LONG_EDGE))
    size = max(16, image.shape[1] // factor), max(16, image.shape[0] // factor)
    return np.asarray(cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY))


def motion_of(frames: Iterable[Frame]) -> Motion:
    """Look at all frames."""
    motion = Motion()
    for frame in frames:
        motion.see(frame)
    return motion


def cut(motion: Motion, config: MapperConfig) -> list[Piece]:
    """The pieces of a recording, in order; one if it is not long.

    Where a piece ends depends on how far the camera moved, not on the number of frames or of processes. Neighbours
    share frames to both sides of the cut, enough for some keyframes of each.
    """
    frames, steps = motion.frames, np.array(motion.steps)
    cameras = len({camera for camera, _ in frames})
    way = np.cumsum(steps) / (config.keyframe_motion * max(cameras, 1))  # in keyframes
    total = float(way[-1]) if len(way) else 0.0
    count = max(1, round(total / float(np.clip(total / _PIECES, _LEAST, _MOST))))
    ends = [0, *(_calm(way, steps, at * total / count, total / count) for at in range(1, count)), len(frames)]
    ends = sorted(set(ends))
    return [_piece(frames, way, first, end) for first, end in pairwise(ends)]


def _calm(way: Array, steps: Array, wanted: float, length: float) -> int:
    """The frame near ``wanted`` along the ``way`` around which the largest step is smallest."""
    low, high = np.searchsorted(way, [wanted - _ABOUT * length, wanted + _ABOUT * length])
    places = range(max(int(low), 1), max(int(high), int(low) + 1, 2))
    worst = [float(steps[slice(*_around(way, place))].max(initial=0.0)) for place in places]
    calm = min(worst) * 1.1  # of places that are as good, the nearest
    good = [place for place, most in zip(places, worst, strict=True) if most <= calm]
    return min(good, key=lambda place: (abs(float(way[min(place, len(way) - 1)]) - wanted), place))


def _around(way: Array, place: int) -> tuple[int, int]:
    """The frames around a cut that both sides have: the first, and one beyond the last."""
    at = float(way[min(place, len(way) - 1)])
    first, end = np.searchsorted(way, [at - _OVERLAP / 2, at + _OVERLAP / 2])
    return max(0, min(int(first), place - _FEWEST // 2)), min(len(way), max(int(end), place + _FEWEST // 2))


def _piece(frames: Sequence[tuple[str, int]], way: Array, first: int, end: int) -> Piece:
    """The frames from ``first`` to before ``end``, with those that it shares with its neighbours."""
    begin = _around(way, first)[0] if first else 0
    last = _around(way, end)[1] if end < len(frames) else len(frames)
    after = frames[end][1] if end < len(frames) else frames[-1][1] + 1
    return Piece(tuple(frames[begin:last]), frames[first][1], after)
