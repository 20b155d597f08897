"""Landmarks: their ids, which of them turned out to be the same, and where they are."""

from __future__ import annotations

import numpy as np

from dust3r_ros.types import Array


class Landmarks:
    """Numbers landmarks from 0, keeps their positions and remembers mergers: of two ids the older stays."""

    def __init__(self) -> None:
        self._count = 0
        self._table = np.zeros(1024, np.int64)  # both grow by doubling
        self._positions = np.full((1024, 3), np.nan)

    def __len__(self) -> int:
        return self._count

    @property
    def positions(self) -> Array:
        """(L, 3) in the map frame, NaN where there is none; a view that may be written to."""
        return self._positions[: self._count]

    @property
    def _alias(self) -> np.ndarray:
        return self._table[: self._count]

    def new(self, count: int) -> np.ndarray:
        """The next ``count`` ids, without positions."""
        ids = np.arange(self._count, self._count + count)
        self._count += count
        if self._count > len(self._table):
            more = self._count + len(self._table)
            self._table = np.concatenate([self._table, np.zeros(more, np.int64)])
            self._positions = np.concatenate([self._positions, np.full((more, 3), np.nan)])
        self._table[ids] = ids
        return ids

    def resolved(self, ids: np.ndarray) -> np.ndarray:
        """The ids that landmarks (K,) have now."""
        further = self._alias[ids]
        while not np.array_equal(further, ids):
            ids, further = further, self._alias[further]
        return ids

    def merge(self, a: np.ndarray, b: np.ndarray) -> dict[int, int]:
        """Landmarks ``a`` (K,) and ``b`` (K,) are the same, each; returns {id that is gone: id that stays}.

        One that stays without a position takes that of one that goes.
        """
        stays: dict[int, int] = {}

        def root(i: int) -> int:
            while i in stays:
                i = stays[i]
            return i

        for i, j in zip(self.resolved(a).tolist(), self.resolved(b).tolist(), strict=True):
            i, j = root(i), root(j)
            if i != j:
                stays[max(i, j)] = min(i, j)
        stays = {gone: root(gone) for gone in stays}
        for gone, kept in stays.items():
            self._alias[gone] = kept
            if np.isnan(self._positions[kept, 0]):
                self._positions[kept] = self._positions[gone]
            self._positions[gone] = np.nan
        return stays
