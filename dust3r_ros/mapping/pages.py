"""Large arrays of keyframes: in memory up to a limit, beyond it in a file whose pages the kernel brings in and out."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from pathlib import Path

import numpy as np

_CHUNK = 64 << 20  # bytes by which the file grows
_LEAST = 16 << 10  # bytes; smaller arrays stay in memory
_ALIGNED = 64
_KEEPS_DISK = Path("/var/tmp")  # /tmp is often memory


class Pages:
    """Keeps arrays that are read rarely; all its memory is given back when they are gone. For one thread.

    The file has no name and vanishes with the process.
    """

    def __init__(self, limit_mb: float, folder: str | None = None) -> None:
        """``limit_mb`` (MiB): beyond this, arrays go to a file in ``folder`` (default: $TMPDIR, else /var/tmp)."""
        self._limit, self._folder = int(limit_mb * 2**20), folder
        self._in_memory = self._on_disk = 0
        self._kept: set[int] = set()  # ids of the arrays
        self._file: int | None = None
        self._chunks: list[mmap.mmap] = []
        self._end = 0  # of what is used of the last chunk
        self._free: dict[int, list[tuple[int, int]]] = {}  # chunk and offset of gaps, by size
        self.problem = ""  # why the last array that should have gone to the file did not

    @property
    def in_memory_mb(self) -> float:
        """MiB of the arrays kept in memory."""
        return self._in_memory / 2**20

    @property
    def on_disk_mb(self) -> float:
        """MiB of the arrays kept in the file."""
        return self._on_disk / 2**20

    def keep(self, values: np.ndarray) -> np.ndarray:
        """The array itself if there is room in memory, or none on disk; else an equal one in the file.

        An array that was kept before stays where it is.
        """
        if values.nbytes < _LEAST or id(values) in self._kept:
            return values
        return self._kept_at(values, self._in_memory + _aligned(values) > self._limit)

    def put_away(self, values: np.ndarray) -> np.ndarray:
        """An equal array in the file, even if there is room in memory: one of those that only become more."""
        return self._kept_at(values, True)

    def _kept_at(self, values: np.ndarray, on_disk: bool) -> np.ndarray:
        size = _aligned(values)
        place = self._place(size) if on_disk else None
        if place is None:
            self._in_memory += size
            kept = values
        else:
            self._on_disk += size
            chunk, begin = self._chunks[place[0]], place[1]
            kept = np.ndarray(values.shape, values.dtype, chunk, begin)
            kept[...] = values
            first = begin - begin % mmap.PAGESIZE
            chunk.madvise(mmap.MADV_DONTNEED, first, begin + size - first)  # until it is read
        self._kept.add(id(kept))
        weakref.finalize(kept, self._release, id(kept), size, place).atexit = False
        return kept

    def trim(self) -> None:
        """Give back the memory of pages that were read since; they are read from the file again when needed."""
        for chunk in self._chunks:
            chunk.madvise(mmap.MADV_DONTNEED)

    def _place(self, size: int) -> tuple[int, int] | None:
        """A gap in the file; None if the disk is full."""
        if self._free.get(size):
            return self._free[size].pop()
        if not self._chunks or self._end + size > len(self._chunks[-1]):
            try:
                self._grow(size)
            except OSError as error:
                self.problem = f"the map cannot be kept on disk and stays in memory: {error}"
                return None
            self.problem = ""
        self._end += size
        return len(self._chunks) - 1, self._end - size

    def _grow(self, size: int) -> None:
        if self._file is None:
            folder = self._folder or os.environ.get("TMPDIR") or (str(_KEEPS_DISK) if _KEEPS_DISK.is_dir() else None)
            with tempfile.TemporaryFile(dir=folder) as file:
                self._file = os.dup(file.fileno())
                weakref.finalize(self, os.close, self._file).atexit = False
        length = -(-max(size, _CHUNK) // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self.trim()
        begin = os.fstat(self._file).st_size
        os.posix_fallocate(self._file, begin, length)  # a page that finds no room later would kill the process
        self._chunks.append(mmap.mmap(self._file, length, offset=begin))
        self._end = 0

    def _release(self, name: int, size: int, place: tuple[int, int] | None) -> None:
        self._kept.discard(name)
        if place is None:
            self._in_memory -= size
        else:
            self._on_disk -= size
            self._free.setdefault(size, []).append(place)


def _aligned(values: np.ndarray) -> int:
    """Bytes an array takes in the file."""
    return -(-values.nbytes // _ALIGNED) * _ALIGNED
