"""TFRecord files, without TensorFlow: records of bytes behind one another.

A record is its length (8 bytes, little endian), a check of the length (4), the data, a check of the data (4); checks
are masked CRC-32C (https://www.tensorflow.org/tutorials/load_data/tfrecord). The check of the length is verified, so
that a file of another kind or a damaged one is refused; that of the data, of megabytes, is left alone.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from dust3r_ros.errors import InputError

_HEAD, _TAIL = 12, 4
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reversed


def _table() -> tuple[int, ...]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        found.append(value)
    return tuple(found)


_TABLE = _table()


def masked_crc(data: bytes) -> int:
    """CRC-32C (RFC 3720, B.4) of some bytes, rotated and shifted as TFRecord stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def opened(path: Path) -> memoryview:
    """The file's bytes, mapped: what is not looked at is not read. Raises ``InputError`` naming the file."""
    try:
        with path.open("rb") as file:
            # It is unmapped with the last view of it, which may be part of a message.
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise InputError(f"'{path}' cannot be read as TFRecord: {error}") from error


def records(path: Path, data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(offset, data) of every record. Raises ``InputError`` naming the file where it is none, or breaks off."""
    at = 0
    while at < len(data):
        found = record(path, data, at)
        yield at, found
        at += _HEAD + len(found) + _TAIL


def record(path: Path, data: memoryview, at: int) -> memoryview:
    """The data of the record that begins at byte ``at``. Raises ``InputError`` as ``records``."""
    if not 0 <= at <= len(data) - _HEAD:
        raise InputError(f"'{path}' breaks off at byte {len(data)}, in the head of a record")
    head = bytes(data[at : at + _HEAD])
    length, check = struct.unpack("<QI", head)
    if masked_crc(head[:8]) != check:
        raise InputError(f"'{path}' is no TFRecord, or damaged, at byte {at}: the check of a record's length is wrong")
    if at + _HEAD + length + _TAIL > len(data):
        raise InputError(f"'{path}' breaks off at byte {len(data)}; the record at {at} has {length} bytes")
    return data[at + _HEAD : at + _HEAD + length]
