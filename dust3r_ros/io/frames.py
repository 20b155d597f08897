"""Recorded frames from any kind of recording, in order; read ahead in a separate thread."""

from __future__ import annotations

import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.types import Array, Calibration, Frame, Image

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_TRANSPORTS = ("compressed", "compressedDepth", "theora", "ffmpeg", "zstd")


@dataclass(frozen=True, eq=False)
class Shot:
    """One recorded "image", "mask" or "depth" of a camera, not decoded yet; ``load`` may raise ``InputError``."""

    kind: str
    camera: str
    stamp_ns: int
    load: Callable[[], Any]


class FrameSource(ABC):
    """Frames in the order of their stamps, which increase strictly per camera; may be iterated repeatedly.

    A frame that cannot be read, or does not come after the one before, is left out with a warning and counted in
    ``skipped`` (for the current iteration), with the reason of the first in ``why_skipped``; ``InputError`` at the
    end if no frame was left. ``len`` is the number of frames by the recording's metadata. ``between``: only frames
    from the first stamp to before the second are read; None: all. ``needs``: whether the next image of a camera is
    needed; where it is not, its frame comes with an empty one, not decoded. ``sizes``: height and width of cameras
    that are known before, for recordings that do not name theirs; ``focals``: about their focals, pixels; ``named``: in
    such recordings the camera by stamp, where that is known; ``levels``: whether they may say where up is, which is
    rough: not of a map that is known before. ``remarks`` are about the recording, a sentence each.
    ``incomplete`` counts frames (of the current iteration) that lack an expected companion; ``lacking`` says what the
    first of them lacks.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.skipped = 0
        self.why_skipped = ""
        self.incomplete = 0
        self.lacking = ""
        self.between: tuple[int, int] | None = None
        self.needs: Callable[[str], bool] = lambda camera: True
        self.sizes: dict[str, tuple[int, int]] = {}
        self.focals: dict[str, float] = {}
        self.named: Mapping[int, str] = {}
        self.levels = True
        self.remarks: tuple[str, ...] = ()

    def wants(self, stamp_ns: int) -> bool:
        """Whether a frame with this stamp is to be read."""
        return self.between is None or self.between[0] <= stamp_ns < self.between[1]

    def image(self, camera: str, load: Callable[[], _T]) -> _T | Image:
        """What ``load`` gives, if it is needed, else an empty image."""
        return load() if self.needs(camera) else np.zeros((0, 0, 3), np.uint8)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _frames(self) -> Iterator[Frame | InputError]:
        """Every frame, or why it cannot be read."""

    def shots(self) -> Iterator[Shot | InputError]:
        """All recorded camera data in the order of recording, decoded only when loaded."""
        for frame in self._frames():
            if isinstance(frame, InputError):
                yield frame
            else:
                if (mask := frame.mask) is not None:
                    yield Shot("mask", frame.camera, frame.stamp_ns, lambda mask=mask: mask)  # type: ignore[misc]
                yield Shot("image", frame.camera, frame.stamp_ns, lambda frame=frame: frame.image)  # type: ignore[misc]

    @property
    def recorded(self) -> Mapping[str, Mapping[str, str]]:
        """Topics of a bag by camera and kind ("image", "mask", "depth"), as in a manifest."""
        return {}

    def calibrations(self) -> Mapping[str, Calibration]:
        """Recorded calibrations by camera name."""
        return {}

    def extrinsics(self) -> Mapping[str, Array]:
        """Camera poses on the rig, (4, 4), metres, in the frame of the first camera; by name."""
        return {}

    def __iter__(self) -> Iterator[Frame]:
        self.skipped = self.incomplete = 0
        self.lacking = self.why_skipped = ""
        newest: dict[str, int] = {}
        given = 0
        for frame in self._frames():
            if isinstance(frame, InputError):
                self._skip(str(frame))
            elif frame.stamp_ns <= (last := newest.get(frame.camera, -1)):
                self._skip(f"frame at {frame.stamp_ns} ns does not come after the one before it at {last} ns")
            else:
                newest[frame.camera] = frame.stamp_ns
                given += 1
                yield frame
        if self.skipped:
            _log.warning("%s: %d of %d frames skipped", self.name, self.skipped, self.skipped + given)
        if not given:
            why = f"{self.skipped} skipped: {self.why_skipped}" if self.skipped else "nothing"
            raise InputError(f"'{self.name}' holds no readable frame ({why}); it needs at least one")

    def _skip(self, reason: str) -> None:
        self.skipped += 1
        self.why_skipped = self.why_skipped or reason
        if self.skipped <= 3:
            _log.warning("%s: skipped a frame: %s", self.name, reason)


def camera_of_topic(topic: str) -> str:
    """The camera's name: the namespace of its image topic; "camera" for a topic in the root namespace.

    /camera/image_raw and /camera/image_raw/compressed: "camera"; /front/left/image_raw: "front/left".
    """
    return without_transport(topic).strip("/").rpartition("/")[0] or "camera"


def without_transport(topic: str) -> str:
    """An image topic without its transport: /camera/image_raw for /camera/image_raw/compressed."""
    parts = [part for part in topic.split("/") if part]
    if len(parts) > 1 and parts[-1] in _TRANSPORTS:
        parts.pop()
    return "/" + "/".join(parts)


_Ready = queue.Queue[tuple[str, object]]  # "item", "end" or "error", and the item or the error
_POLL_S = 0.1


def read_ahead(items: Iterable[_T], most: int = 4) -> Generator[_T, None, None]:
    """The same items in the same order, with up to ``most`` of them produced ahead.

    An error in producing an item is raised in its place. The thread ends with the iteration, even if that is abandoned.
    """
    ready: _Ready = queue.Queue(max(1, most))
    given_up = threading.Event()
    maker = threading.Thread(target=_make, args=(items, ready, given_up), name="read-ahead", daemon=True)
    maker.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            if kind == "end":
                return
            yield value  # type: ignore[misc]
    finally:
        given_up.set()
        maker.join()


def _make(items: Iterable[Any], ready: _Ready, given_up: threading.Event) -> None:
    """Offer every item, then the end or the error."""
    try:
        for item in items:
            if not _offer("item", item, ready, given_up):
                return
        _offer("end", None, ready, given_up)
    except BaseException as error:
        _offer("error", error, ready, given_up)


def _offer(kind: str, value: object, ready: _Ready, given_up: threading.Event) -> bool:
    """Wait for room; returns whether there was any before the iteration was abandoned."""
    while not given_up.is_set():
        try:
            ready.put((kind, value), timeout=_POLL_S)
        except queue.Full:
            continue
        return True
    return False
