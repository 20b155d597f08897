"""What a sparse map is made of: landmarks with their ids, mergers and positions; views and focals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.types import Array

BLOCK = 4096  # ids that are written at once


class Landmarks:
    """Numbers landmarks from 0, keeps their positions and remembers mergers: of two ids the older stays."""

    def __init__(self) -> None:
        self._count = 0
        self._table = np.zeros(1024, np.int64)  # both grow by doubling
        self._positions = np.full((1024, 3), np.nan)
        self._barred = np.zeros(0, np.int64)
        self.merges: list[np.ndarray] = []  # blocks of ids from which each merger so far took some away

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

    def bar(self, ids: np.ndarray) -> None:
        """Landmarks (K,) lose their position for good, and so does what turns out to be the same."""
        self._barred = np.concatenate([self._barred, ids])
        self._positions[self.resolved(ids)] = np.nan

    def is_barred(self, ids: np.ndarray) -> np.ndarray:
        """(K,) which landmarks may have no position."""
        if not len(self._barred):
            return np.zeros(len(ids), bool)
        self._barred = np.unique(self.resolved(self._barred))
        return np.isin(self.resolved(ids), self._barred)

    @property
    def barred(self) -> np.ndarray:
        """Ids (K,) of those that may have no position, perhaps by older names."""
        return self._barred

    def pardon(self) -> None:
        """Nothing is barred any more."""
        self._barred = self._barred[:0]

    @property
    def aliases(self) -> np.ndarray:
        """(L,) what landmarks have become, each one step on; by these ``restore`` brings them back."""
        return self._alias

    def restore(self, aliases: np.ndarray) -> None:
        """Landmarks in place of none, as ``aliases`` (L,) of another session says; without positions."""
        ids = self.new(len(aliases))
        self._alias[ids] = aliases

    def merge(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Landmarks ``a`` (K,) and ``b`` (K,) are the same, each; returns the ids that are gone by it, sorted.

        One that stays without a position takes that of one that goes.
        """
        a, b = self.resolved(a), self.resolved(b)
        differ = a != b
        ids, ends = np.unique(np.concatenate([a[differ], b[differ]]), return_inverse=True)
        if len(ids) == 0:
            return ids
        links = csr_array((np.ones(len(ends) // 2), tuple(ends.reshape(2, -1))), shape=(len(ids), len(ids)))
        _, part = connected_components(links, directed=False)
        oldest = ids[np.unique(part, return_index=True)[1]]  # ids are sorted, so the first is the oldest
        kept = oldest[part]
        gone, kept = ids[kept != ids], kept[kept != ids]
        self._alias[gone] = kept
        self.merges.append(np.unique(gone // BLOCK))
        placed = np.isfinite(self._positions[gone, 0])
        gives, takes = gone[placed][::-1], kept[placed][::-1]  # of several, the oldest gives its position
        lacking = np.isnan(self._positions[takes, 0])
        self._positions[takes[lacking]] = self._positions[gives[lacking]]
        self._positions[gone] = np.nan
        return gone


@dataclass(eq=False)
class SparseView:
    """One keyframe: its pose, which focal it uses, and what it sees (offsets from the image's middle)."""

    camera: int
    w_T_c: Array | None
    seen: Tracks
    pruned: Tracks = field(default_factory=no_tracks)  # observations that did not fit; a better focal may fit them
    first_id: int = 0  # landmarks made before this view have smaller ids


@dataclass(eq=False)
class Intrinsics:
    """The ``focal`` of a camera, pixels of the tracked images, its prior and standard deviation (relative); its lens.

    ``std`` is what the scatter of the observations leaves open, ``lens_std`` what a distortion that nobody models does.
    ``lens`` is what the camera does beside scaling, plain as long as nothing is known of it.
    ``prior_std`` is how sure the prior is (of the log focal), infinite for one that is a mere guess; ``measured``
    is what the images alone say of a focal that was given (value, relative std), None as long as they say nothing.
    """

    focal: float
    prior: float
    std: float = float("inf")
    fixed: bool = False
    lens_std: float = 0.0
    lens: Lens = field(default_factory=lambda: Lens(320.0))
    prior_std: float = float("inf")
    measured: tuple[float, float] | None = None

    @property
    def given(self) -> bool:
        """Whether somebody measured it: it is held, or it has a prior that counts."""
        return self.fixed or math.isfinite(self.prior_std)

    @property
    def total_std(self) -> float:
        """Relative standard deviation from all known causes."""
        return math.hypot(self.std, self.lens_std)
