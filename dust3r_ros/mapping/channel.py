"""Messages between two processes: small data by socket, arrays by shared memory.

Apart from ``process.py``, which is ``__main__`` in one of them: a class has to have one name in both.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import tempfile
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

RING_BYTES = 64 * 2**20  # for each direction; unused pages cost nothing
_HEADER = 16  # bytes written so far by the sender, bytes read so far by the receiver
_LEAST = 2048  # bytes: smaller arrays are sent with the message


def shared_file() -> int:
    """A file descriptor of memory that two processes can map; freed when both have closed it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("dust3r_ros")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, RING_BYTES + _HEADER)
    return descriptor


class _Ring:
    """A ring buffer of bytes from one sender to one receiver, in the order of the messages that refer to them."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, RING_BYTES + _HEADER)

    def put(self, data: memoryview) -> int | None:
        """Write bytes; returns their start, counted from the first ever, or None if there is no room now."""
        written, read = struct.unpack_from("<QQ", self._memory, 0)
        begin = written + (-written) % 64
        if begin % RING_BYTES + len(data) > RING_BYTES:  # contiguous
            begin += RING_BYTES - begin % RING_BYTES
        if begin + len(data) - read > RING_BYTES:
            return None
        at = _HEADER + begin % RING_BYTES
        self._memory[at : at + len(data)] = data
        struct.pack_into("<Q", self._memory, 0, begin + len(data))
        return begin

    def get(self, begin: int, size: int) -> bytearray:
        """A copy of the bytes; after that they and all earlier ones may be overwritten."""
        at = _HEADER + begin % RING_BYTES
        data = bytearray(memoryview(self._memory)[at : at + size])
        struct.pack_into("<Q", self._memory, 8, begin + size)
        return data

    def close(self) -> None:
        self._memory.close()


@dataclass(frozen=True)
class _Piece:
    """Bytes in shared memory, or with the message if there was no room."""

    begin: int
    size: int
    inline: bytes | None = None


class Channel:
    """One end of a connection; ``send`` from any thread, ``receive`` from one. The receiver owns received arrays."""

    def __init__(self, connection: Connection, out_file: int, in_file: int) -> None:
        self._connection = connection
        self._out, self._in = _Ring(out_file), _Ring(in_file)
        self._lock = threading.Lock()

    def send(self, message: Any) -> None:
        """Raises ``OSError`` when the other end is gone."""
        with self._lock:
            pieces: list[_Piece] = []

            def place(buffer: pickle.PickleBuffer) -> bool:
                data = buffer.raw()
                if len(data) < _LEAST:
                    return True  # in the message
                begin = self._out.put(data)
                pieces.append(_Piece(begin or 0, len(data), bytes(data) if begin is None else None))
                return False

            text = pickle.dumps(message, protocol=5, buffer_callback=place)
            self._connection.send_bytes(pickle.dumps((text, pieces), protocol=5))

    def receive(self) -> Any:
        """The next message; waits for it. Raises ``EOFError`` or ``OSError`` when the other end is gone."""
        text, pieces = pickle.loads(self._connection.recv_bytes())
        buffers = [piece.inline or self._in.get(piece.begin, piece.size) for piece in pieces]
        return pickle.loads(text, buffers=buffers)

    def waits(self, seconds: float) -> bool:
        """Whether a message is available or arrives within ``seconds``."""
        return self._connection.poll(seconds)

    def close(self) -> None:
        """Close the connection, and free its memory."""
        with self._lock:
            for end in (self._connection, self._out, self._in):
                end.close()
