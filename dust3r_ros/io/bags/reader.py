"""Bags, read with rosbags, including MCAP files that were cut off during recording.

Records and their order: the MCAP specification (mcap.dev/spec).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dust3r_ros.errors import InputError, refuse_pointers

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

_MAGIC = b"\x89MCAP0\r\n"
_DATA_END, _FOOTER = 0x0F, 0x02
_LAST_OPCODE = 0x0F
_RECORD = struct.Struct("<BQ")
# An end without an index, so that readers scan the records.
_END = _RECORD.pack(_DATA_END, 4) + bytes(4) + _RECORD.pack(_FOOTER, 20) + bytes(20) + _MAGIC


def require_rosbags(path: Path) -> None:
    """Raises ``InputError`` if rosbags is missing: only pip provides it."""
    try:
        import rosbags.highlevel  # noqa: F401
    except ImportError as error:
        raise InputError(f"bag '{path}' needs the package rosbags ({error}): pip install rosbags") from error


def cut_off(path: Path) -> CutMcap | None:
    """A view of the intact part of a truncated MCAP file; None for a complete one or another file.

    ``path`` may be the folder of a recording with one such file.
    """
    if path.is_dir():
        files = list(path.glob("*.mcap"))
        if len(files) != 1:
            return None
        path = files[0]
    if path.suffix.lower() != ".mcap":
        return None
    try:
        with open(path, "rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            file.seek(max(0, size - len(_MAGIC)))
            if size > 2 * len(_MAGIC) and file.read() == _MAGIC:
                return None
            end = _whole(file, size)
    except OSError:
        return None
    found = CutMcap(path)
    found.end = end
    return found


def _whole(file: Any, size: int) -> int:
    """The offset at which the last whole data record ends."""
    end = len(_MAGIC)
    while True:
        file.seek(end)
        head = file.read(_RECORD.size)
        if len(head) < _RECORD.size:
            return end
        opcode, length = _RECORD.unpack(head)
        after = end + _RECORD.size + length
        if after > size or not 0 < opcode < _LAST_OPCODE or opcode == _FOOTER:
            return end
        end = after


class CutMcap(type(Path())):  # type: ignore[misc]  # the platform's class
    """The path of a truncated file; it opens as if its first ``end`` bytes were followed by a proper end."""

    end: int

    def open(self, *args: Any, **kwargs: Any) -> Any:
        """Open for reading bytes, whatever the arguments."""
        return io.BufferedReader(_Ended(open(str(self), "rb"), self.end))


class _Changed(io.RawIOBase):
    """A file that is read otherwise than it is."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


class _Ended(_Changed):
    """The first bytes of a file, followed by ``_END``."""

    def __init__(self, file: Any, end: int) -> None:
        super().__init__(file)
        self._cut, self._at = end, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._cut + len(_END)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = len(buffer)
        if self._at < self._cut:
            self._file.seek(self._at)
            data = self._file.read(min(wanted, self._cut - self._at))
        else:
            start = self._at - self._cut
            data = _END[start : start + wanted]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


_HEADER, _PROFILE = 0x01, len(_MAGIC) + _RECORD.size  # the first record, and where its first string is
_NO_PROFILE, _ROS2 = struct.pack("<I", 0), struct.pack("<I", 4) + b"ros2"  # no longer than two empty strings


def _profiled(path: Path) -> Path:
    """The same path; of an MCAP file without a profile, as from ``mcap merge``, one that opens as ROS 2's."""
    if path.suffix.lower() != ".mcap" or path.is_dir():
        return path
    with path.open("rb") as file:
        head = file.read(_PROFILE + len(_NO_PROFILE))
    if head[: len(_MAGIC) + 1] != _MAGIC + bytes([_HEADER]) or head[_PROFILE:] != _NO_PROFILE:
        return path
    found = ProfiledMcap(path)
    found.plain = path
    return found


class ProfiledMcap(type(Path())):  # type: ignore[misc]  # the platform's class
    """The path of an MCAP file, which opens as if its profile were that of ROS 2."""

    plain: Path

    def open(self, *args: Any, **kwargs: Any) -> Any:
        """Open for reading bytes, whatever the arguments."""
        return io.BufferedReader(_Profiled(self.plain.open("rb")))


class _Profiled(_Changed):
    """A file whose first string is "ros2"; what follows in that record, the name of a library, is not read."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        start = self._file.tell()
        data = bytearray(self._file.read(len(buffer)))
        for at in range(max(start, _PROFILE), min(start + len(data), _PROFILE + len(_ROS2))):
            data[at - start] = _ROS2[at - _PROFILE]
        buffer[: len(data)] = data
        return len(data)


_MOST_MESSAGES = 1 << 40
_ZSTD = b"\x28\xb5\x2f\xfd"  # begins its frames; a serialised message begins with 0, and in ROS 1 with a small number
_OTHER_PROFILE = "Profile is not ros2"  # an error of rosbags
_REPAIR = {".bag": "rosbag reindex", ".mcap": "mcap recover"}


@dataclass(frozen=True, eq=False)
class Message:
    """One message: ``kind`` is its ROS 2 type name, ``bag_ns`` the time of recording."""

    topic: str
    kind: str
    bag_ns: int
    content: Any

    @property
    def stamp_ns(self) -> int:
        """The header's stamp, or the time of recording if that is zero."""
        stamp = self.content.header.stamp
        return stamp.sec * 10**9 + stamp.nanosec or self.bag_ns

    @property
    def frame_id(self) -> str:
        """The header's frame, without a leading slash."""
        return str(self.content.header.frame_id).lstrip("/")


@dataclass(frozen=True)
class Unreadable:
    """A message that is damaged, or the rest of the bag from here on (``rest``)."""

    topic: str
    reason: str
    rest: bool = False


class Bag:
    """A recording: a ROS 1 bag, a folder of rosbag2 or one of its storage files.

    ``kinds`` are the message types by topic, ``counts`` the message counts by the recording's metadata. An MCAP file
    whose writer was killed is read as far as it goes; other truncated recordings are refused.
    """

    def __init__(self, path: Path) -> None:
        """Raises ``InputError`` when it cannot be opened."""
        self.path = path
        self._cut = cut_off(path)
        with self._open() as reader:
            _check_metadata(path, reader.connections)
            self.kinds = {connection.topic: _type_name(connection.msgtype) for connection in reader.connections}
            self.counts = dict.fromkeys(self.kinds, 0)
            for connection in reader.connections:
                self.counts[connection.topic] += connection.msgcount
        if self._cut is not None and not any(self.counts.values()):
            raise InputError(f"bag '{path}' was cut off before it held any complete data; it cannot be repaired")

    def messages(self, topics: Collection[str]) -> Iterator[Message | Unreadable]:
        """The messages of ``topics`` in the order of recording."""
        with self._open() as reader:
            connections = [c for c in reader.connections if c.topic in topics]
            if not connections:
                return
            messages = reader.messages(connections=connections)
            while True:
                try:
                    connection, bag_ns, raw = next(messages)
                except StopIteration:
                    if self._cut is not None:
                        yield Unreadable(", ".join(sorted(topics)), "the bag was cut off during recording", rest=True)
                    return
                except Exception as error:  # a damaged chunk or page: the rest cannot be located
                    yield Unreadable(", ".join(sorted(topics)), f"the bag breaks off: {sentence(error)}", rest=True)
                    return
                yield _message(reader, connection, bag_ns, raw)

    def first(self, topics: Collection[str], most: int = 1) -> Iterator[Message]:
        """The first readable messages of each topic, at most ``most``."""
        left = {topic: min(most, self.counts[topic]) for topic in topics if self.counts.get(topic)}
        if not left:
            return
        for message in self.messages(left):
            if isinstance(message, Message) and left[message.topic]:
                left[message.topic] -= 1
                yield message
            if not any(left.values()):
                return

    def _open(self) -> closing[AnyReader]:
        """An opened reader, to be used in ``with``."""
        require_rosbags(self.path)
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore

        path = self._cut or self.path
        refuse_pointers(path)
        try:
            path = _profiled(path)
            reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
            reader.open()
        except Exception as error:  # rosbags lets errors of sqlite3, struct, yaml and others through
            if isinstance(path, ProfiledMcap) or _OTHER_PROFILE in str(error):
                raise InputError(
                    f"bag '{self.path}' is an MCAP file of other messages than ROS 2's, such as protobuf or JSON; "
                    "give its images as a folder or a video, or the bag that it was made from"
                ) from error
            repair = _REPAIR.get(self.path.suffix, "ros2 bag reindex")
            raise InputError(
                f"bag '{self.path}' cannot be opened: {sentence(error)}; "
                f"it must be a complete recording ('{repair}' repairs a truncated one)"
            ) from error
        return closing(reader)


def _check_metadata(path: Path, connections: Iterable[Any]) -> None:
    """Raises ``InputError`` for topics, types or counts that cannot be; rosbags takes what metadata.yaml has."""
    for item in connections:
        named = isinstance(item.topic, str) and isinstance(item.msgtype, str)
        if not (named and type(item.msgcount) is int and 0 <= item.msgcount < _MOST_MESSAGES):
            raise InputError(
                f"bag '{path}' has damaged metadata: topic {item.topic!r} of type {item.msgtype!r} with "
                f"{item.msgcount!r} messages ('ros2 bag reindex' writes it anew)"
            )


def _type_name(name: str) -> str:
    """As ROS 2 has it: "sensor_msgs/msg/Image" for "sensor_msgs/Image", which recorders outside ROS 2 may write."""
    return "/msg/".join(name.split("/")) if name.count("/") == 1 else name


def _message(reader: AnyReader, connection: Any, bag_ns: int, raw: bytes) -> Message | Unreadable:
    kind = _type_name(connection.msgtype)
    try:
        content = reader.deserialize(_plain(raw), kind)
    except Exception as error:  # damaged bytes may raise anything in the deserialiser
        return Unreadable(connection.topic, f"the message at {bag_ns} ns cannot be read: {sentence(error)}")
    return Message(connection.topic, kind, bag_ns, content)


def _plain(raw: bytes) -> bytes:
    """A message without the compression that rosbag2 gave it, which only metadata.yaml tells; that may be missing."""
    if raw[:4] != _ZSTD:
        return raw
    from backports import zstd  # as in rosbags

    return bytes(zstd.decompress(raw))


def sentence(error: Exception) -> str:
    """An error's message in one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
