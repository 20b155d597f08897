"""Images on their way through the mapper, and those that left it without a pose, to be tried again."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dust3r_ros.features.masks import ImageMask
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.mapping.camera_stream import CameraStream, KeyframeRecord
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.types import Array, Image, StampedPose, TrackingState


@dataclass(eq=False)
class CameraFrame:
    """One image on its way through the mapper: native or working ``image``, tracked one, results of the steps."""

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

    @property
    def working(self) -> Image:
        """The working image (H, W, 3)."""
        resize = self.stream.resize
        is_small = self.image.shape[:2] == (resize.height, resize.width)
        return self.image if is_small else resize.apply(self.image)


@dataclass(frozen=True, eq=False)
class TrackedImage:
    """The corners (N) followed into the image of a stamp.

    ``anchored_ns``: stamp of the image that they were last refreshed from. ``gray`` (H, W): the tracked image, if kept.
    """

    stamp_ns: int
    tracks: Tracks
    anchored_ns: int
    gray: Image | None = None


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


_MOST_LOST = 1000


class LostImages:
    """The newest images without a pose, until the map shows what they do."""

    def __init__(self, put_away: Callable[[np.ndarray], np.ndarray]) -> None:
        """``put_away`` is given each image and returns the one to keep in its place."""
        self._put_away = put_away
        self._frames: deque[CameraFrame] = deque(maxlen=_MOST_LOST)

    def keep(self, frame: CameraFrame) -> None:
        """Keep a frame's working image and tracked one."""
        images = self._put_away(frame.working), self._put_away(frame.gray)
        self._frames.append(CameraFrame(frame.stamp_ns, frame.stream, *images, frame.mask, state=frame.state))

    def keep_all(self, records: Iterable[KeyframeRecord]) -> None:
        """Keep the keyframes of a map that is given up, except those of older sessions."""
        for record in records:
            if record.gray is not None:
                mask = record.stream.mask_of(record.masked)
                self._frames.append(CameraFrame(record.stamp_ns, record.stream, record.image, record.gray, mask))

    def clear(self) -> None:
        """Forget all: they are of another clock."""
        self._frames.clear()

    def find(self, posed: Sequence[StampedPose], locate: Callable[[CameraFrame, Array | None], Array | None]) -> None:
        """Ask ``locate`` for the pose ``w_T_c`` (4, 4) of each, back and forth, since each may lead to the next.

        It is given the pose from nearest that time, if there is one. Of one that is found, nothing is kept.
        """
        known = defaultdict[str, list[tuple[int, Array]]](list)
        for pose in posed:
            insort(known[pose.camera], (pose.stamp_ns, pose.w_T_c), key=_stamp)
        frames = sorted(self._frames, key=lambda frame: frame.stamp_ns)
        lost, untried, step = set(range(len(frames))), set(range(len(frames))), -1
        while untried:
            for at in range(len(frames))[::step]:
                if at not in untried:
                    continue
                untried.discard(at)
                frame, own = frames[at], known[frames[at].stream.name]
                w_T_c = locate(frame, _nearest(own, frame.stamp_ns))
                if w_T_c is not None:
                    insort(own, (frame.stamp_ns, w_T_c), key=_stamp)
                    lost.discard(at)
                    untried |= {at - 1, at + 1} & lost
            step = -step
        self._frames = deque((frames[at] for at in sorted(lost)), maxlen=_MOST_LOST)


def _stamp(posed: tuple[int, Array]) -> int:
    return posed[0]


def _nearest(posed: Sequence[tuple[int, Array]], stamp_ns: int) -> Array | None:
    """The pose with the nearest stamp; None if there is none."""
    at = bisect_left(posed, stamp_ns, key=_stamp)
    around = [(abs(posed[k][0] - stamp_ns), posed[k][1]) for k in (at - 1, at) if 0 <= k < len(posed)]
    return min(around, key=lambda found: found[0])[1] if around else None
