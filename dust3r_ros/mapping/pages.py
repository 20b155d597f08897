"""Large arrays of keyframes, and tables that grow: in memory up to a limit, beyond it in a file.

The kernel brings its pages in and out.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator
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


_BLOCK = 4096  # rows
_IN_MEMORY = 8  # blocks; what only grows would fill the memory in some days


class Rows:
    """A table of ``dtype``, in blocks that stay where they are; its column ``changed`` counts changes."""

    def __init__(self, dtype: np.dtype, put_away: Callable[[np.ndarray], np.ndarray]) -> None:
        """``put_away`` is given each block but the first few and returns the one to use in its place."""
        self._dtype, self._put_away = dtype, put_away
        self._blocks: list[np.ndarray] = []
        self._changes: list[int] = []  # the newest in each block, so that few are read
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: int) -> np.ndarray:
        """Row ``at`` as an array of one, to read and to write."""
        return self._blocks[at // _BLOCK][at % _BLOCK : at % _BLOCK + 1]

    def append(self, *values: object) -> None:
        """Add a row."""
        if self._count == _BLOCK * len(self._blocks):
            block = np.zeros(_BLOCK, self._dtype)
            self._blocks.append(block if len(self._blocks) < _IN_MEMORY else self._put_away(block))
            self._changes.append(-1)
        self._blocks[-1][self._count % _BLOCK] = values
        self._count += 1

    def changed(self, number: int, at: int | None = None) -> None:
        """Note that change ``number`` was written to row ``at``, or to rows anywhere."""
        for block in range(len(self._blocks)) if at is None else (at // _BLOCK,):
            self._changes[block] = max(self._changes[block], number)

    def changed_after(self, number: int) -> np.ndarray:
        """Indices of the rows that were changed after change ``number``."""
        blocks = [at for at, newest in enumerate(self._changes) if newest > number]
        return self.find(lambda block: block["changed"] > number, blocks)

    def blocks(self) -> Iterator[np.ndarray]:
        """The rows, block by block."""
        for first, block in zip(range(0, self._count, _BLOCK), self._blocks, strict=True):
            yield block[: self._count - first]

    def find(self, wanted: Callable[[np.ndarray], np.ndarray], only: Collection[int] | None = None) -> np.ndarray:
        """Indices of the rows for which ``wanted(block)`` is true; ``only``: the blocks to read, by default all."""
        chosen = ((at, block) for at, block in enumerate(self.blocks()) if only is None or at in only)
        found = [_BLOCK * at + np.flatnonzero(wanted(block)) for at, block in chosen]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Copies of the rows with these indices, which rise."""
        parts = [block[indices[indices // _BLOCK == at] % _BLOCK] for at, block in enumerate(self._blocks)]
        return np.concatenate(parts) if parts else np.zeros(0, self._dtype)
