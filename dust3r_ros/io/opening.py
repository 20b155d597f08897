"""A recording opened, whatever it is: a folder of images, a video file or a bag."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dust3r_ros.errors import InputError
from dust3r_ros.io.frames import FrameSource
from dust3r_ros.io.image_folder import ImageFolder
from dust3r_ros.io.video import VideoFile

if TYPE_CHECKING:
    from dust3r_ros.io.bag_topics import BagTopics

_BAG_SUFFIXES = (".bag", ".mcap", ".db3")


def open_source(
    path: str | Path, topic: str | None = None, camera: str | None = None, *, topics: BagTopics | None = None
) -> FrameSource:
    """The frames of a folder of images, a video file, a ROS 1 bag or a rosbag2 (sqlite3, MCAP; folder or file).

    ``topic`` chooses among the image topics of a bag. ``camera`` names the camera; None takes the
    topic's namespace for bags, "camera" otherwise. ``topics`` says more of a bag, in their place.
    Raises ``InputError`` when there is nothing to read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"input '{path}' does not exist; give a folder of images, a video file or a bag")
    bag = _bag(path)
    if bag is not None:
        from dust3r_ros.io.bag_topics import BagTopics
        from dust3r_ros.io.bags import BagSource

        return BagSource(bag, topics or BagTopics((topic,) if topic else (), (camera,) if camera else ()))
    if topics is not None:
        topic, camera = next(iter(topics.named), None), next(iter(topics.cameras), None)
    if topic:
        raise InputError(f"topic '{topic}' was given, but '{path}' is no bag; leave the topic out")
    if topics is not None and len(topics.cameras) > 1:
        raise InputError(f"{len(topics.cameras)} names of cameras were given; '{path}' is of one camera")
    if path.is_dir():
        return ImageFolder(path, camera or "camera")
    return VideoFile(path, camera or "camera")


def is_bag(path: str | Path) -> bool:
    """Whether ``open_source`` reads it as a bag."""
    return Path(path).exists() and _bag(Path(path)) is not None


def _bag(path: Path) -> Path | None:
    """What of ``path`` rosbags can open; None when it is no bag."""
    if not path.is_dir():
        return path if path.suffix.lower() in _BAG_SUFFIXES else None
    if (path / "metadata.yaml").is_file():
        return path
    files = sorted(child for child in path.iterdir() if child.suffix.lower() in _BAG_SUFFIXES)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(f"folder '{path}' holds {len(files)} bags and no metadata.yaml; give one of {names}")
    return files[0] if files else None
