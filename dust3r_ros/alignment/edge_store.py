"""Edges of a growing map: 28 numbers each, whatever the number of pixels they came from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.moments import packed, re_expressed, unpacked
from dust3r_ros.types import Array

Ids = NDArray[np.int64]


class EdgeStore:
    """The pair graph as columns that grow: ends, moments, whether an edge closes a loop and whether it counts.

    An edge of keyframes ``first`` and ``second`` holds the moments of points a in the canonical
    frame of ``first`` and b in that of ``second`` (see ``moments``).
    """

    def __init__(self) -> None:
        self._count = 0
        self._ends = np.zeros((64, 2), dtype=np.int64)
        self._numbers = np.zeros((64, 28))
        self._loop = np.zeros(64, dtype=bool)
        self._on = np.zeros(64, dtype=bool)

    def __len__(self) -> int:
        return self._count

    @property
    def first(self) -> Ids:
        """(E,) keyframe in whose frame the points a are."""
        return self._ends[: self._count, 0]

    @property
    def second(self) -> Ids:
        """(E,) keyframe in whose frame the points b are."""
        return self._ends[: self._count, 1]

    @property
    def loop(self) -> NDArray[np.bool_]:
        """(E,) whether the edge closes a loop."""
        return self._loop[: self._count]

    @property
    def on(self) -> NDArray[np.bool_]:
        """(E,) whether the edge counts; an edge begins switched off."""
        return self._on[: self._count]

    @property
    def numbers(self) -> Array:
        """(E, 28) the moments, packed."""
        return self._numbers[: self._count]

    def restore(self, ends: Ids, numbers: Array, loop: NDArray[np.bool_], on: NDArray[np.bool_]) -> None:
        """Edges (E, 2) in place of none, with their moments (E, 28)."""
        for (first, second), closes in zip(ends.tolist(), loop.tolist(), strict=True):
            self.append(first, second, closes)
        self._numbers[: self._count], self._on[: self._count] = numbers, on

    def ends_on(self) -> Ids:
        """(n, 2) first and second of the edges that count."""
        return self._ends[: self._count][self.on]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(column.nbytes for column in (self._ends, self._numbers, self._loop, self._on))

    def append(self, first: int, second: int, loop: bool) -> int:
        """A new edge without moments yet, switched off; returns its number."""
        if self._count == len(self._on):
            for name in ("_ends", "_numbers", "_loop", "_on"):
                column = getattr(self, name)
                setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
        edge = self._count
        self._count += 1
        self._ends[edge], self._loop[edge] = (first, second), loop
        return edge

    def switch(self, edges: Ids, on: bool) -> None:
        """Let edges count or not."""
        self._on[edges] = on

    def moments(self, edges: Ids) -> Array:
        """(n, 8, 8)."""
        return unpacked(self._numbers[edges])

    def put_moments(self, edges: Ids, M: Array) -> None:
        """Replace moments by ``M`` (n, 8, 8)."""
        self._numbers[edges] = packed(M)

    def touching(self, keyframes: Ids) -> Ids:
        """Edges that count and have an end among ``keyframes``."""
        member = np.zeros(max(int(self._ends[: self._count].max(initial=-1)), int(keyframes.max(initial=-1))) + 1, bool)
        member[keyframes] = True
        return np.flatnonzero(self.on & (member[self.first] | member[self.second]))

    def stretch_rays(self, keyframes: NDArray[np.bool_], factor: float) -> None:
        """Re-express moments after x and y of the canonical points of ``keyframes`` (K,) grew by ``factor``.

        That is what a new focal does to them (factor = old over new): depth stays. The points a come
        from the prediction, not from canonical depth, so only the second end changes.
        """
        edges = np.flatnonzero(keyframes[self.second])
        stretch = np.broadcast_to(np.diag([factor, factor, 1.0, 1.0]), (len(edges), 4, 4))
        unchanged = np.broadcast_to(np.eye(4), stretch.shape)
        self.put_moments(edges, re_expressed(self.moments(edges), unchanged, stretch))
