"""TFRecord files and the Protocol Buffers in them, by field number, without the 500 MB of TensorFlow.

The encoding is documented at https://protobuf.dev/programming-guides/encoding. Nothing is copied before it is
needed, so that only the parts read of a large message cost time. Broken bytes raise ``ValueError``.

A record is its length (8 bytes, little endian), a checksum of the length (4), the data, a checksum of the data (4);
checksums are masked CRC-32C (https://www.tensorflow.org/tutorials/load_data/tfrecord). The checksum of the length is
verified, so that a damaged file or one of another kind is refused; that of the data, of megabytes, is not.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import InputError
from dust3r_ros.types import Array, Array32

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_VARINT = 10  # bytes


class Message:
    """The fields of a message by field number: numbers as ``int``, others as bytes, repeated ones in order."""

    def __init__(self, data: memoryview) -> None:
        self._fields: dict[int, list[int | memoryview]] = {}
        for number, value in _fields(data):
            self._fields.setdefault(number, []).append(value)

    def number(self, field: int, default: int = 0) -> int:
        """An integer, enumeration or boolean; the last value counts."""
        value = self._fields.get(field, [default])[-1]
        if not isinstance(value, int):
            raise ValueError(f"field {field} is not a whole number")
        return value

    def data(self, field: int) -> memoryview:
        """The bytes of a bytes or string field; empty if it is missing."""
        return self._parts(field)[-1] if field in self._fields else memoryview(b"")

    def message(self, field: int) -> Message:
        """A submessage; one without fields if it is missing."""
        return Message(self.data(field))

    def messages(self, field: int) -> list[Message]:
        """The messages of a repeated field."""
        return [Message(part) for part in self._parts(field)]

    def doubles(self, field: int) -> Array:
        """A repeated field of doubles, packed or not."""
        return np.frombuffer(b"".join(self._parts(field)), "<f8").copy()

    def floats(self, field: int) -> Array32:
        """A repeated field of floats, packed or not."""
        return np.frombuffer(b"".join(self._parts(field)), "<f4").copy()

    def integers(self, field: int) -> NDArray[np.int64]:
        """A repeated field of non-negative integers, packed or not."""
        values = self._fields.get(field, [])
        return np.concatenate([
            np.zeros(0, np.int64),
            *(np.array([value], np.int64) if isinstance(value, int) else varints(value) for value in values),
        ])  # fmt: skip

    def _parts(self, field: int) -> list[memoryview]:
        found = [value for value in self._fields.get(field, []) if isinstance(value, memoryview)]
        if len(found) != len(self._fields.get(field, [])):
            raise ValueError(f"field {field} is a whole number, not bytes")
        return found


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of wire type {kind}")
        if not number or at + size > len(data):
            raise ValueError("a message that breaks off")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(_MOST_VARINT):
        if at + place >= len(data):
            raise ValueError("a message that breaks off")
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a whole number of more than ten bytes")


def varints(data: memoryview) -> NDArray[np.int64]:
    """Decode packed integers below 2^63, all at once."""
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if not len(ends):
        if len(raw):
            raise ValueError("packed numbers that break off")
        return np.zeros(0, np.int64)
    begins = np.concatenate([[0], ends[:-1] + 1])
    if ends[-1] + 1 != len(raw) or (ends - begins >= _MOST_VARINT - 1).any():
        raise ValueError("packed numbers that break off, or are below 0")
    place = np.arange(len(raw)) - np.repeat(begins, ends - begins + 1)
    return np.add.reduceat((raw & 0x7F).astype(np.int64) << 7 * place, begins)


_HEAD, _TAIL = 12, 4
_POLYNOMIAL = 0x82F63B78  # Castagnoli polynomial, reversed


def _table() -> tuple[int, ...]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        found.append(value)
    return tuple(found)


_TABLE = _table()


def masked_crc(data: bytes) -> int:
    """CRC-32C (RFC 3720, B.4) of bytes, masked as in TFRecord."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def opened(path: Path) -> memoryview:
    """The file's bytes, memory-mapped: only accessed parts are read. Raises ``InputError`` naming the file."""
    try:
        with path.open("rb") as file:
            # It is unmapped with its last view, which may be in a message.
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise InputError(f"'{path}' cannot be read as TFRecord: {error}") from error


def records(path: Path, data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(offset, data) of every record. Raises ``InputError`` naming the file if it is invalid or truncated."""
    at = 0
    while at < len(data):
        found = record(path, data, at)
        yield at, found
        at += _HEAD + len(found) + _TAIL


def record(path: Path, data: memoryview, at: int) -> memoryview:
    """The data of the record that begins at byte ``at``. Raises ``InputError`` as ``records``."""
    if not 0 <= at <= len(data) - _HEAD:
        raise InputError(f"'{path}' is truncated at byte {len(data)}, in the header of a record")
    head = bytes(data[at : at + _HEAD])
    length, check = struct.unpack("<QI", head)
    if masked_crc(head[:8]) != check:
        raise InputError(
            f"'{path}' is not a TFRecord file or is damaged at byte {at}: a record's length has a wrong checksum"
        )
    if at + _HEAD + length + _TAIL > len(data):
        raise InputError(f"'{path}' is truncated at byte {len(data)}; the record at {at} has {length} bytes")
    return data[at + _HEAD : at + _HEAD + length]
