"""MCAP files whose writer was killed: whole up to some record, without the end that readers look for.

Records and their order: the MCAP specification (mcap.dev/spec).
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

_MAGIC = b"\x89MCAP0\r\n"
_DATA_END, _FOOTER = 0x0F, 0x02
_LAST_OPCODE = 0x0F
_RECORD = struct.Struct("<BQ")
# An end without an index: readers then look through the records.
_END = _RECORD.pack(_DATA_END, 4) + bytes(4) + _RECORD.pack(_FOOTER, 20) + bytes(20) + _MAGIC


def cut_off(path: Path) -> CutMcap | None:
    """A view of an MCAP file without an end, as far as it is whole; None for one that has its end, or is none.

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
    """Where the last whole record of the data ends."""
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


class CutMcap(type(Path())):  # type: ignore[misc]  # of the platform's kind
    """The path of such a file, which opens as if it had an end after its first ``end`` bytes."""

    end: int

    def open(self, *args: Any, **kwargs: Any) -> Any:
        """For reading of bytes, whatever is asked for."""
        return io.BufferedReader(_Ended(open(str(self), "rb"), self.end))


class _Ended(io.RawIOBase):
    """The first bytes of a file, then an end."""

    def __init__(self, file: Any, end: int) -> None:
        self._file, self._cut, self._at = file, end, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

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

    def close(self) -> None:
        self._file.close()
        super().close()
