"""Cuts a long recording into overlapping pieces of about the same motion, at places where the camera moves calmly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.config import MapperConfig
from dust3r_ros.tracking import wide_flow
from dust3r_ros.types import Array, Array32, Frame, Image

# In units of ``Motion``: about as many keyframes.
_LEAST, _MOST = 45.0, 150.0  # of a piece
_PIECES = 8  # as long as pieces are not that long: enough for some processes
_OVERLAP = 5.0
_ABOUT = 0.2  # of a piece, by which a cut may be off where it would be, for a calmer place
_FEWEST = 8  # frames of an overlap
_LONG_EDGE = 240  # pixels, of the images that are compared
_NEXT, _PASSED = 0.3, 7  # motion after which the camera is looked at again, and most images that are passed meanwhile


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


@dataclass
class _Anchor:
    """An image (h, w) of a camera, which pixels (h, w) have texture, and how far it has moved since, at most."""

    image: Image
    textured: NDArray[np.bool_]
    moved: float = 0.0

    @classmethod
    def of(cls, image: Image) -> _Anchor:
        """With the quarter of the pixels that have most texture: elsewhere, flow is a guess."""
        slope = np.hypot(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))
        return cls(image, slope >= np.quantile(slope, 0.75))


class Motion:
    """The ``frames`` of a recording, camera and stamp, and ``steps``: what each adds to the motion of its camera.

    The unit is what separates keyframes: a median motion of what has texture, or a share of it that is no longer seen.
    It is measured against the image where the last unit began: slow motion counts, and noise at rest does not add up.
    While a camera is slow, not every image is looked at.
    """

    def __init__(self, config: MapperConfig) -> None:
        self.frames: list[tuple[str, int]] = []
        self.steps: list[float] = []
        self._config = config
        self._flow = wide_flow()
        self._anchors: dict[str, _Anchor] = {}
        self._passed: dict[str, list[int]] = {}  # images since the last that was looked at
        self._wait: dict[str, int] = {}  # how many more are passed

    def see(self, frame: Frame) -> None:
        """Add the next frame."""
        self.frames.append((frame.camera, frame.stamp_ns))
        self.steps.append(0.0)
        passed = self._passed.setdefault(frame.camera, [])
        passed.append(len(self.steps) - 1)
        if len(passed) <= self._wait.get(frame.camera, 0):
            return
        step = self._look(frame) / len(passed)
        for index in passed:
            self.steps[index] = step
        passed.clear()
        self._wait[frame.camera] = min(_PASSED, int(_NEXT / max(step, 1e-6))) if len(self.steps) > 1 else 0

    def _look(self, frame: Frame) -> float:
        """The motion of a camera since it was looked at last."""
        small = _small(frame.image)
        anchor = self._anchors.get(frame.camera)
        if anchor is None or anchor.image.shape != small.shape:
            self._anchors[frame.camera] = _Anchor.of(small)
            return 0.0
        moved = self._moved(anchor, self._flow.calc(anchor.image, small, None))
        step, anchor.moved = max(0.0, moved - anchor.moved), max(anchor.moved, moved)
        if moved >= 1.0:
            self._anchors[frame.camera] = _Anchor.of(small)
        return step

    def _moved(self, anchor: _Anchor, flow: Array32) -> float:
        """The motion of a flow (h, w, 2), in units."""
        height, width = flow.shape[:2]
        there = flow[anchor.textured]
        at = there + np.argwhere(anchor.textured)[:, ::-1]
        gone = float(np.mean(np.any((at < 0) | (at > [width - 1, height - 1]), axis=1)))
        median = float(np.median(np.linalg.norm(there, axis=1))) / max(height, width)
        return max(median / self._config.keyframe_motion, gone / (1.0 - self._config.keyframe_overlap))


def _small(image: Image) -> Image:
    """The image (h, w) in grey, about 240 pixels wide or high; each pixel the mean of those it covers."""
    factor = max(1, round(max(image.shape[:2]) / _LONG_EDGE))
    size = max(16, image.shape[1] // factor), max(16, image.shape[0] // factor)
    return np.asarray(cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY))


def motion_of(frames: Iterable[Frame], config: MapperConfig) -> Motion:
    """Look at all frames."""
    motion = Motion(config)
    for frame in frames:
        motion.see(frame)
    return motion


def cut(motion: Motion) -> list[Piece]:
    """The pieces of a recording, in order; one if it is not long.

    Where a piece ends depends on how far the camera moved, not on the number of frames or of processes. Neighbours
    share frames to both sides of the cut, enough for some keyframes of each.
    """
    frames, steps = motion.frames, np.array(motion.steps)
    cameras = len({camera for camera, _ in frames})
    way = np.cumsum(steps) / max(cameras, 1)
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
