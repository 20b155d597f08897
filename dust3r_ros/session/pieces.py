"""Cuts a long recording into overlapping pieces of about the same motion, at places where the camera moves calmly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.focal import reference_focal
from dust3r_ros.geometry.pinhole import center_of
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
_POINTS, _FEWEST_POINTS = 2000, 20  # of an image that are followed; still seen in another
_ALIKE = 0.75  # correlation of what flow connects: mostly more while the flow is right, below 0.4 once it is lost
_CONTRAST = 5.0  # grey values, standard deviation: an image with less may be noise, which never looks the same
_PAIRS, _OFF_PX, _TRIES = 150, 0.5, 60  # of points, for a rotation; RANSAC
_INFORMATIVE = 0.35  # radians; along a straight way, noise makes 0.1 to 0.3
_AS_GOOD = 0.75  # of the largest turn: a piece that turns as much determines the focal as well
_NONE: Array32 = np.zeros((0, 2), np.float32)


@dataclass(frozen=True)
class Piece:
    """A part of a recording: its ``frames`` (camera, stamp), of which those from ``begin_ns`` to before ``end_ns`` are
    its own; the others are those of its neighbours, too. ``turn``: by how much its cameras turned to and fro (radians).
    """

    frames: tuple[tuple[str, int], ...]
    begin_ns: int
    end_ns: int
    turn: float = 0.0

    @property
    def between(self) -> tuple[int, int]:
        """The first stamp, and one beyond the last."""
        stamps = [stamp_ns for _, stamp_ns in self.frames]
        return min(stamps), max(stamps) + 1


@dataclass
class _Anchor:
    """An image (h, w) of a camera, pixels ``at`` (N, 2) of it that have texture, and how far it has moved since, at
    most. ``last``: the image that was looked at last, and the pixels ``seen`` (M, 2) here and there.
    """

    image: Image
    at: NDArray[np.int64]
    last: Image
    seen: tuple[Array32, Array32] = (_NONE, _NONE)
    moved: float = 0.0

    @classmethod
    def of(cls, image: Image) -> _Anchor:
        """With some of that quarter of the pixels that has most texture: elsewhere, flow is a guess."""
        slope = np.hypot(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))
        at = np.argwhere(slope >= np.quantile(slope, 0.75))[:, ::-1]
        return cls(image, at[:: max(1, len(at) // _POINTS)], image)

    def seen_in(self, image: Image, flow: Array32) -> tuple[Array32, Array32] | None:
        """Where the ``flow`` (h, w, 2) takes the pixels, (M, 2) here and there, of those still in the ``image`` (h, w).

        None where it was lost: then what it takes there looks different.
        """
        there = (self.at + flow[self.at[:, 1], self.at[:, 0]]).astype(np.float32)
        height, width = flow.shape[:2]
        inside = np.all((there >= 0) & (there <= [width - 1, height - 1]), axis=1)
        here, there = self.at[inside], there[inside]
        if len(here) < _FEWEST_POINTS:
            return None
        then = self.image[here[:, 1], here[:, 0]].astype(np.float64)
        now = cv2.remap(image, there[:, None], None, cv2.INTER_LINEAR).ravel().astype(np.float64)
        contrast = float(then.std() * now.std())
        if contrast > _CONTRAST**2 and np.mean((then - then.mean()) * (now - now.mean())) < _ALIKE * contrast:
            return None
        return here.astype(np.float32), there


class Motion:
    """The ``frames`` of a recording, camera and stamp, and ``steps``: what each adds to the motion of its camera.

    ``turns``: by camera, the frames at which a unit ends, and its rotation vector (radians), roughly.

    The unit is what separates keyframes: a median motion of what has texture, or a share of it that is no longer seen.
    It is measured against the image where the last unit began: slow motion counts, and noise at rest does not add up.
    While a camera is slow, not every image is looked at.
    """

    def __init__(self, config: MapperConfig) -> None:
        self.frames: list[tuple[str, int]] = []
        self.steps: list[float] = []
        self.turns: dict[str, list[tuple[int, Array]]] = {}
        self._config = config
        self._flow = wide_flow()
        self._anchors: dict[str, _Anchor] = {}
        self._passed: dict[str, list[int]] = {}  # images since the last that was looked at
        self._wait: dict[str, int] = {}  # how many more are passed

    def needs(self, camera: str) -> bool:
        """Whether the next image of a camera is looked at; others may be empty."""
        return len(self._passed.get(camera, ())) >= self._wait.get(camera, 0)

    def see(self, frame: Frame) -> None:
        """Add the next frame."""
        looked = self.needs(frame.camera)
        self.frames.append((frame.camera, frame.stamp_ns))
        self.steps.append(0.0)
        passed = self._passed.setdefault(frame.camera, [])
        passed.append(len(self.steps) - 1)
        if not looked:
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
        pixels = self._followed(anchor, small)
        if pixels is None and anchor.last is not anchor.image:  # too far at once
            anchor = self._end(frame.camera, anchor)
            pixels = self._followed(anchor, small)
        moved = max(1.0, anchor.moved) if pixels is None else self._moved(anchor, *pixels)
        step, anchor.moved = max(0.0, moved - anchor.moved), max(anchor.moved, moved)
        anchor.last, anchor.seen = small, pixels or (_NONE, _NONE)
        if moved >= 1.0:
            self._end(frame.camera, anchor)
        return step

    def _followed(self, anchor: _Anchor, image: Image) -> tuple[Array32, Array32] | None:
        return anchor.seen_in(image, self._flow.calc(anchor.image, image, None))

    def _end(self, camera: str, anchor: _Anchor) -> _Anchor:
        """End a unit with the image that was looked at last, where the next one begins."""
        turn = _rotation(*anchor.seen, anchor.image.shape)
        self.turns.setdefault(camera, []).append((len(self.steps) - 1, turn))
        self._anchors[camera] = _Anchor.of(anchor.last)
        return self._anchors[camera]

    def _moved(self, anchor: _Anchor, here: Array32, there: Array32) -> float:
        """The motion of pixels (M, 2) of an anchor, in units."""
        gone = 1.0 - len(here) / len(anchor.at)
        median = float(np.median(np.linalg.norm(there - here, axis=1))) / max(anchor.image.shape)
        return max(median / self._config.keyframe_motion, gone / (1.0 - self._config.keyframe_overlap))


def _rotation(here: Array32, there: Array32, shape: tuple[int, ...]) -> Array:
    """(3,) the rotation vector of a camera from pixels (M, 2) of two images of ``shape`` (h, w), 0 if unknown.

    The focal is a usual one; a wrong one scales the rotation.
    """
    if len(here) < _FEWEST_POINTS:
        return np.zeros(3)
    x, y = center_of(shape[0], shape[1])
    some = slice(None, None, max(1, len(here) // _PAIRS))
    essential, _ = cv2.findEssentialMat(
        here[some].astype(np.float64), there[some].astype(np.float64), reference_focal(shape[0], shape[1]), (x, y),
        cv2.USAC_FAST, 0.99, _OFF_PX, _TRIES,
    )  # fmt: skip
    if essential is None or essential.shape[0] < 3:
        return np.zeros(3)
    vectors = [cv2.Rodrigues(rotation)[0].ravel() for rotation in cv2.decomposeEssentialMat(essential[:3])[:2]]
    return np.asarray(min(vectors, key=lambda one: float(np.linalg.norm(one))))


def _small(image: Image) -> Image:
    """The image (h, w) in grey, about 240 pixels wide or high; each pixel the mean of those it covers."""
    factor = max(1, round(max(image.shape[:2]) / _LONG_EDGE))
    size = max(32, image.shape[1] // factor), max(32, image.shape[0] // factor)  # or OpenCV crashes
    return np.asarray(cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY))


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
    return [_piece(motion, way, first, end) for first, end in pairwise(ends)]


def most_informative_first(pieces: Sequence[Piece]) -> list[int]:
    """The places of the pieces that may determine the focal, the likeliest first: in these the camera turns.

    Of those that turn about as much as the most, the one with fewest frames is first. There is always one.
    """
    most = max(piece.turn for piece in pieces)
    order = sorted(
        range(len(pieces)),
        key=lambda at: (0, len(pieces[at].frames)) if pieces[at].turn >= _AS_GOOD * most else (1, -pieces[at].turn),
    )
    return [order[0], *(at for at in order[1:] if pieces[at].turn > _INFORMATIVE)]


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


def _piece(motion: Motion, way: Array, first: int, end: int) -> Piece:
    """The frames from ``first`` to before ``end``, with those that it shares with its neighbours."""
    frames = motion.frames
    begin = _around(way, first)[0] if first else 0
    last = _around(way, end)[1] if end < len(frames) else len(frames)
    after = frames[end][1] if end < len(frames) else frames[-1][1] + 1
    return Piece(tuple(frames[begin:last]), frames[first][1], after, _turned(motion, first, end))


def _turned(motion: Motion, first: int, end: int) -> float:
    """By how much a camera turned from ``first`` to before ``end`` (radians), the one that turned most.

    Between two images a sideways step looks like a turn now and then; so the median of three in a row counts.
    """
    turned = [0.0]
    for turns in motion.turns.values():
        own = np.array([vector for at, vector in turns if first <= at < end]).reshape(-1, 3)
        three = np.median(np.stack([own[:-2], own[1:-1], own[2:]]), axis=0) if len(own) > 2 else own[:0]
        turned.append(float(np.linalg.norm(three, axis=1).sum()))
    return max(turned)
