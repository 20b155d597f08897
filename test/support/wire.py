"""Protocol Buffers and TFRecord as they are written: the other half of the readers."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np

from dust3r_ros.layouts.tfrecord import masked_crc
from dust3r_ros.types import Array


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def data(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def doubles(field: int, values: Iterable[float]) -> bytes:
    """Not packed, as proto2 writes them."""
    return b"".join(varint(field << 3 | 1) + struct.pack("<d", value) for value in values)


def transform(field: int, T: Array) -> bytes:
    return data(field, doubles(1, np.asarray(T).ravel()))


def matrix(values: np.ndarray) -> bytes:
    """A MatrixFloat or MatrixInt32."""
    whole = values.dtype.kind in "iu"
    packed = _varints(values.ravel()) if whole else values.astype("<f4").tobytes()
    return data(1, packed) + data(2, b"".join(number(1, size) for size in values.shape))


def _varints(values: np.ndarray) -> bytes:
    """Of numbers below 2^14, which take one byte or two."""
    assert ((values >= 0) & (values < 1 << 14)).all()
    long = values > 0x7F
    both = np.stack([values & 0x7F | 0x80 * long, values >> 7], axis=-1).astype(np.uint8)
    return both[np.stack([np.ones_like(long), long], axis=-1)].tobytes()


def records(contents: Iterable[bytes]) -> bytes:
    found = b""
    for content in contents:
        head = struct.pack("<Q", len(content))
        found += head + struct.pack("<I", masked_crc(head)) + content + struct.pack("<I", masked_crc(content))
    return found
