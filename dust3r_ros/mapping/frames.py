"""Images on their way through the mapper, and those that left it without a pose, to be tried again."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import numpy as np

from dust3r_ros.features.features import PHOTOGRAPH, extract
from dust3r_ros.features.masks import ImageMask
from dust3r_ros.features.place_recognition import Overlaps
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.rigid import angle_deg
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.tracking.exchange import is_keyframe
from dust3r_ros.types import Array, Image, TrackingState


@dataclass(eq=False)
class CameraFrame:
    """One image on its way through the mapper: native or working ``image``, tracked one, results of the steps.

    ``session``: of its stamp, as of ``FrameLog``; ``link``: as of ``KeyframeRecord``.
    """

    stamp_ns: int
    stream: CameraStream
    image: Image
    gray: Image
    mask: ImageMask | None
    tracks: Tracks = field(default_factory=no_tracks)
    drifts: bool = True  # whether the tracks do
    found: PnpResult | None = None
    keyframe: int | None = None
    state: TrackingState = TrackingState.INITIALISING
    removed: tuple[int, ...] = ()  # names of the keyframes of a map left behind
    session: int = 0
    link: bool = False

    @property
    def w_T_c(self) -> Array | None:  # noqa: N802
        """The pose (4, 4) that was found."""
        return None if self.found is None else self.found.w_T_c

    @cached_property
    def working(self) -> Image:
        """The working image (H, W, 3), apart from the native one: its memory is the caller's."""
        native = self.image.shape[:2] == (self.stream.height, self.stream.width)
        return self.stream.resize.apply(self.image) if native else self.image


def wants_keyframe(frame: CameraFrame, state: Reconstruction, young: bool, live: bool) -> bool:
    """Whether a frame should be a keyframe of a map, ``young`` or not."""
    stream, last = frame.stream, state.last(frame.stream)
    if frame.link or not state.records or (last is not None and state.records[last].link):
        return True
    return is_keyframe(stream.motion(frame.tracks), stream.overlap(frame.tracks), young, state.config, live)


@dataclass(frozen=True, eq=False)
class TrackedImage:
    """The corners (N) followed into the image of a stamp.

    ``anchored_ns``: stamp of the image that they were last refreshed from. ``gray`` (H, W): the tracked image, if kept.
    ``session``: of the stamps.
    """

    stamp_ns: int
    tracks: Tracks
    anchored_ns: int
    gray: Image | None = None
    session: int = 0

    @property
    def when(self) -> tuple[int, int]:
        """Session and stamp, which rise with time."""
        return self.session, self.stamp_ns


_MOST_PX = 3.0  # a larger shift is another spot


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


_FASTER, _OFF, _OFF_DEG, _GAINED_DEG = 3.0, 0.1, 20.0, 90.0  # times its speed; units, and degrees; a second


def is_in_reach(poses: Array, took_s: float, since_s: float, unit: float, w_T_c: Array) -> bool:
    """Whether a camera that took ``took_s`` for ``poses`` (N, 4, 4) may be at ``w_T_c`` (4, 4) ``since_s`` later.

    It gains twice its speed, and in a second a ``unit`` and 90 degrees per second; poses are somewhat off.
    """
    share, gained = _FASTER * since_s / max(took_s, since_s), since_s**2
    went = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).sum()
    if np.linalg.norm(w_T_c[:3, 3] - poses[-1, :3, 3]) > share * went + (gained + _OFF) * unit:
        return False
    turned = sum(angle_deg(a[:3, :3].T @ b[:3, :3]) for a, b in pairwise(poses))
    return angle_deg(poses[-1, :3, :3].T @ w_T_c[:3, :3]) <= share * turned + gained * _GAINED_DEG + _OFF_DEG


_MOST_LOST, _MOST_POSED, _MOST_SORTED = 1000, 100, 500


def place_in_turn(
    frames: Sequence[CameraFrame], place: Callable[[CameraFrame], bool], begin: Callable[[], object]
) -> list[CameraFrame]:
    """Place frames in an order in which they show what others do; see ``Overlaps.place``. Returns those left."""
    overlaps = Overlaps([extract(frame.gray, PHOTOGRAPH, frame.mask) for frame in frames])
    left = overlaps.place(lambda at: place(replace(frames[at])), begin)
    begin()  # the map of the last ones ends, too
    return [frames[at] for at in np.flatnonzero(left).tolist()]


class LostImages:
    """The newest images without a pose, each once, until the map shows what they do."""

    def __init__(self, put_away: Callable[[np.ndarray], np.ndarray]) -> None:
        """``put_away`` is given each image and returns the one to keep in its place."""
        self._put_away = put_away
        self._frames: _Kept = {}
        self._posed: _Kept = {}  # in a map that may be given up

    def keep(self, frame: CameraFrame, sure: bool) -> None:
        """Keep a frame's working image and tracked one, if it has no pose, or only in a map that is not ``sure``."""
        if sure:
            self._posed.clear()
        if frame.found is not None and (sure or frame.keyframe is not None):
            return
        images = self._put_away(frame.working), self._put_away(frame.gray)
        kept = CameraFrame(frame.stamp_ns, frame.stream, *images, frame.mask, state=frame.state, session=frame.session)
        if frame.found is None:
            _add([kept], self._frames, _MOST_LOST)
        else:
            _add([kept], self._posed, _MOST_POSED)

    def keep_all(self, frames: Iterable[CameraFrame]) -> None:
        """Keep the images of a map that is given up."""
        _add([*frames, *self._posed.values()], self._frames, _MOST_LOST)
        self._posed.clear()

    def every(self, frames: Iterable[CameraFrame]) -> list[CameraFrame]:
        """The newest of these and of those kept, each once, in the order of their stamps."""
        known = self._frames | self._posed | {_which(frame): frame for frame in frames}
        return [known[key] for key in sorted(known)][-_MOST_SORTED:]

    def clear(self) -> None:
        """Forget all: they are of another clock."""
        self._frames.clear()
        self._posed.clear()

    def of_others(self, state: Reconstruction) -> bool:
        """Whether some, or all there are, are of cameras that wait for a map to become certain of its focal."""
        waiting = bool(state.alone) or not all(state.knows(frame.stream) for frame in self._frames.values())
        return state.initialised and not state.sure and waiting

    def find(self, locate: Callable[[CameraFrame], bool], records: Iterable[KeyframeRecord] = ()) -> bool:
        """Have each located, back and forth, since each may lead to the next; what is found is not kept.

        ``locate`` returns whether it found the frame. ``records``: keyframes to be located as well, which are not kept.
        Returns whether there was anything to locate.
        """
        known = self._frames | {_which(frame): frame for frame in frames_of(records)}
        keys = sorted(known)
        lost, untried, step = set(range(len(keys))), set(range(len(keys))), -1
        while untried:
            for at in range(len(keys))[::step]:
                if at not in untried:
                    continue
                untried.discard(at)
                if locate(known[keys[at]]):
                    lost.discard(at)
                    self._frames.pop(keys[at], None)
                    untried |= {at - 1, at + 1} & lost
            step = -step
        return bool(keys)


_Kept = dict[tuple[int, int, int], CameraFrame]


def _which(frame: CameraFrame) -> tuple[int, int, int]:
    return frame.session, frame.stamp_ns, frame.stream.index


def _add(frames: Iterable[CameraFrame], kept: _Kept, most: int) -> None:
    """Keep frames, and of all the newest."""
    kept.update((_which(frame), frame) for frame in frames)
    for key in list(kept)[:-most]:
        del kept[key]


def frames_of(records: Iterable[KeyframeRecord]) -> Iterator[CameraFrame]:
    """The images of keyframes, as far as they are kept."""
    for record in records:
        if record.gray is not None:
            mask = record.stream.mask_of(record.masked)
            images = record.image, record.gray
            yield CameraFrame(record.stamp_ns, record.stream, *images, mask, session=record.session)


_Part = TypeVar("_Part", bound=np.ndarray)


def shown(part: _Part) -> _Part:
    """An image or depth of a map, for those outside of it: they cannot draw on it."""
    view = part.view()
    view.flags.writeable = False
    return view
