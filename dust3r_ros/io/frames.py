"""Recorded frames, one after the other, whatever they are recorded in."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dust3r_ros.errors import InputError
from dust3r_ros.types import Image

_log = logging.getLogger(__name__)

BAG_SUFFIXES = (".bag", ".mcap", ".db3")
_TRANSPORTS = ("compressed", "compressedDepth", "theora", "ffmpeg", "zstd")


@dataclass(frozen=True, eq=False)
class Frame:
    """One image: when (ns), by which camera, RGB (H, W, 3) uint8 at native resolution."""

    stamp_ns: int
    camera: str
    image: Image


class FrameSource(ABC):
    """Frames in the order of their stamps, which rise strictly; may be iterated again.

    What cannot be read, or does not come after the frame before it, is left out with a warning and
    counted in ``skipped`` (of the current iteration); ``InputError`` at the end when nothing was left.
    ``len`` is how many frames the recording says it has.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.skipped = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _frames(self) -> Iterator[Frame | InputError]:
        """Every frame, or why it cannot be read."""

    def __iter__(self) -> Iterator[Frame]:
        self.skipped = 0
        last, given = None, 0
        for frame in self._frames():
            if isinstance(frame, InputError):
                self._skip(str(frame))
            elif last is not None and frame.stamp_ns <= last:
                self._skip(f"frame at {frame.stamp_ns} ns does not come after the one before it at {last} ns")
            else:
                last = frame.stamp_ns
                given += 1
                yield frame
        if self.skipped:
            _log.warning("%s: %d of %d frames skipped", self.name, self.skipped, self.skipped + given)
        if not given:
            raise InputError(f"'{self.name}' holds no readable frame ({self.skipped} skipped); one is the least")

    def _skip(self, reason: str) -> None:
        self.skipped += 1
        if self.skipped <= 3:
            _log.warning("%s: skipped a frame: %s", self.name, reason)


def open_source(path: str | Path, topic: str | None = None, camera: str | None = None) -> FrameSource:
    """The frames of a folder of images, a video file, a ROS 1 bag or a rosbag2 (sqlite3, MCAP; folder or file).

    ``topic`` chooses among the image topics of a bag. ``camera`` names the camera; None takes the
    topic's namespace for bags, "camera" otherwise. Raises ``InputError`` when there is nothing to read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"input '{path}' does not exist; give a folder of images, a video file or a bag")
    bag = _bag(path)
    if bag is not None:
        from dust3r_ros.io.bags import BagSource

        return BagSource(bag, topic, camera)
    if topic:
        raise InputError(f"topic '{topic}' was given, but '{path}' is no bag; leave the topic out")
    if path.is_dir():
        from dust3r_ros.io.image_folder import ImageFolder

        return ImageFolder(path, camera or "camera")
    from dust3r_ros.io.video import VideoFile

    return VideoFile(path, camera or "camera")


def _bag(path: Path) -> Path | None:
    """What of ``path`` rosbags can open; None when it is no bag."""
    if not path.is_dir():
        return path if path.suffix.lower() in BAG_SUFFIXES else None
    if (path / "metadata.yaml").is_file():
        return path
    files = sorted(child for child in path.iterdir() if child.suffix.lower() in BAG_SUFFIXES)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(f"folder '{path}' holds {len(files)} bags and no metadata.yaml; give one of {names}")
    return files[0] if files else None


def camera_of_topic(topic: str) -> str:
    """The camera's name: the namespace of its image topic; "camera" for a topic in the root namespace.

    /camera/image_raw and /camera/image_raw/compressed: "camera"; /front/left/image_raw: "front/left".
    """
    parts = [part for part in topic.split("/") if part]
    if len(parts) > 1 and parts[-1] in _TRANSPORTS:
        parts.pop()
    return "/".join(parts[:-1]) or "camera"
