"""Image topics of ROS 1 bags and rosbag2 (sqlite3, MCAP), without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from dust3r_ros.errors import InputError
from dust3r_ros.io.encodings import decode_compressed, decode_image
from dust3r_ros.io.frames import Frame, FrameSource, camera_of_topic

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")

_REPAIR = {".bag": "rosbag reindex", ".mcap": "mcap recover"}


class BagSource(FrameSource):
    """The messages of one image topic; without ``topic`` the bag must have exactly one.

    Stamps are the headers', or the time of recording where the header's stamp is zero.
    """

    def __init__(self, path: Path, topic: str | None = None, camera: str | None = None) -> None:
        super().__init__(str(path))
        self._path = path
        with self._open() as reader:
            self._topic = _choose(reader, topic, path)
            self._count = sum(c.msgcount for c in reader.connections if c.topic == self._topic)
        self._camera = camera or camera_of_topic(self._topic)

    @property
    def topic(self) -> str:
        """The topic that is read."""
        return self._topic

    def __len__(self) -> int:
        return self._count

    def _open(self) -> closing[AnyReader]:
        """An opened reader, to be used in ``with``."""
        try:
            reader = AnyReader([self._path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
            reader.open()
        except Exception as error:  # rosbags lets those of sqlite3, struct, yaml and more through
            repair = _REPAIR.get(self._path.suffix, "ros2 bag reindex")
            raise InputError(
                f"bag '{self._path}' cannot be opened: {_sentence(error)}; "
                f"it must be a whole recording ('{repair}' mends one that was cut off)"
            ) from error
        return closing(reader)

    def _frames(self) -> Iterator[Frame | InputError]:
        with self._open() as reader:
            connections = [c for c in reader.connections if c.topic == self._topic]
            messages = reader.messages(connections=connections)
            while True:
                try:
                    connection, bag_ns, raw = next(messages)
                except StopIteration:
                    return
                except Exception as error:  # a damaged chunk or page: what follows cannot be found
                    yield InputError(f"topic '{self._topic}' breaks off: {_sentence(error)}")
                    return
                yield self._frame(reader, connection, bag_ns, raw)

    def _frame(self, reader: AnyReader, connection: Any, bag_ns: int, raw: bytes) -> Frame | InputError:
        try:
            message: Any = reader.deserialize(raw, connection.msgtype)
        except Exception as error:  # whatever damaged bytes make the deserialiser trip over
            return InputError(f"message of topic '{self._topic}' at {bag_ns} ns cannot be read: {_sentence(error)}")
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 10**9 + stamp.nanosec
        try:
            if connection.msgtype == IMAGE_TYPES[0]:
                image = decode_image(
                    message.encoding, message.height, message.width, message.step, message.is_bigendian, message.data
                )
            else:
                image = decode_compressed(message.format, message.data)
        except InputError as error:
            return error
        return Frame(stamp_ns or bag_ns, self._camera, image)


def _choose(reader: AnyReader, topic: str | None, path: Path) -> str:
    types = {connection.topic: connection.msgtype for connection in reader.connections}
    images = sorted(n for n, kind in types.items() if kind in IMAGE_TYPES and not n.endswith("/compressedDepth"))
    known = f"its image topics are {', '.join(images)}" if images else "it has no image topic"
    if topic:
        full = topic if topic.startswith("/") else f"/{topic}"
        if full not in types:
            raise InputError(f"bag '{path}' has no topic '{topic}'; {known}")
        if types[full] not in IMAGE_TYPES:
            raise InputError(f"topic '{full}' of bag '{path}' is of type {types[full]}; {known}")
        return full
    if len(images) != 1:
        wrong = "needs a topic to be chosen" if images else "cannot be used"
        raise InputError(f"bag '{path}' {wrong}; {known}")
    return images[0]


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
