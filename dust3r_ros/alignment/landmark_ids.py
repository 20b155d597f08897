"""Landmark ids, and which of them turned out to name the same landmark."""

from __future__ import annotations

import numpy as np


class LandmarkIds:
    """Numbers landmarks from 0 and remembers mergers: of two ids the older stays."""

    def __init__(self) -> None:
        self._alias = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._alias)

    def new(self, count: int) -> np.ndarray:
        """The next ``count`` ids."""
        ids = np.arange(len(self._alias), len(self._alias) + count)
        self._alias = np.concatenate([self._alias, ids])
        return ids

    def resolved(self, ids: np.ndarray) -> np.ndarray:
        """The ids that landmarks (K,) have now."""
        further = self._alias[ids]
        while not np.array_equal(further, ids):
            ids, further = further, self._alias[further]
        return ids

    def merge(self, a: np.ndarray, b: np.ndarray) -> dict[int, int]:
        """Landmarks ``a`` (K,) and ``b`` (K,) are the same, each; returns {id that is gone: id that stays}."""
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
        return stays
