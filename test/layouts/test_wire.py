"""TFRecord and Protocol Buffers: what is written is read, numbers of every length, what breaks off."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st

from dust3r_ros.errors import InputError
from dust3r_ros.layouts import tfrecord
from dust3r_ros.layouts.tfrecord import Message, varints


def test_the_check_is_castagnolis() -> None:
    """CRC-32C of "123456789" is e3069283 (RFC 3720's polynomial); masked as TensorFlow documents it."""
    rotated = 0xE3069283 >> 15 | 0xE3069283 << 17
    assert tfrecord.masked_crc(b"123456789") == (rotated + 0xA282EAD8) & 0xFFFFFFFF


def test_records_come_as_they_were_written(tmp_path: Path) -> None:
    path, contents = tmp_path / "a.tfrecord", [b"one", b"", b"three" * 1000]
    path.write_bytes(wire.records(contents))
    data = tfrecord.opened(path)
    found = list(tfrecord.records(path, data))
    assert [bytes(record) for _, record in found] == contents
    for offset, record in found:
        assert bytes(tfrecord.record(path, data, offset)) == bytes(record)


def test_a_file_that_is_none_or_breaks_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    whole = wire.records([b"one", b"two"])
    flipped = whole[:22] + bytes([whole[22] ^ 1]) + whole[23:]
    for broken, said in (
        (b"", "cannot be read"), (whole[:-1], "truncated"), (whole[:24], "truncated"),
        (b"no record at all", "at byte 0"), (flipped, "at byte 19: .*checksum"),
    ):  # fmt: skip
        path.write_bytes(broken)
        with pytest.raises(InputError, match=rf"a\.tfrecord.*{said}"):
            list(tfrecord.records(path, tfrecord.opened(path)))
    with pytest.raises(InputError, match=r"gone"):
        tfrecord.opened(tmp_path / "gone")


def test_fields_of_every_kind() -> None:
    inner = wire.number(3, 300) + wire.number(3, 7)
    data = (
        wire.number(1, 2**40) + wire.data(2, b"text") + wire.data(4, inner) + wire.data(4, b"")
        + wire.doubles(5, [0.5, -2]) + wire.data(5, struct.pack("<d", 9)) + wire.data(6, struct.pack("<2f", 1.5, 2.5))
        + wire.data(7, wire.varint(300) + b"\1")
        + wire.varint(8 << 3 | 5) + struct.pack("<f", 8.0)
    )  # fmt: skip
    message = Message(memoryview(data))
    assert message.number(1) == 2**40 and message.number(99, 5) == 5
    assert bytes(message.data(2)) == b"text" and not len(message.data(99)) and message.message(99).number(1) == 0
    assert [one.number(3) for one in message.messages(4)] == [7, 0]
    assert message.messages(4)[0].integers(3).tolist() == [300, 7]
    assert message.doubles(5).tolist() == [0.5, -2, 9] and message.floats(6).tolist() == [1.5, 2.5]
    assert message.integers(7).tolist() == [300, 1] and message.floats(8).tolist() == [8.0]
    with pytest.raises(ValueError, match="field 1 is a whole number"):
        message.data(1)
    with pytest.raises(ValueError, match="field 2 is not a whole number"):
        message.number(2)


@given(st.lists(st.integers(0, 2**62)))
def test_packed_numbers_of_every_length(values: list[int]) -> None:
    assert varints(memoryview(b"".join(map(wire.varint, values)))).tolist() == values


@given(st.binary(max_size=40))
def test_any_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    with suppress(ValueError):
        Message(memoryview(data))
    with suppress(ValueError):
        assert len(varints(memoryview(data))) == sum(byte < 0x80 for byte in data)


def test_a_message_that_breaks_off() -> None:
    data = wire.data(1, b"content")
    for size in range(1, len(data)):
        with pytest.raises(ValueError, match="breaks off"):
            Message(memoryview(data[:size]))
    assert np.array_equal(varints(memoryview(b"")), [])
