"""Which pair comes when: the order of pairs over sources and epochs, known without drawing what went before.

Every epoch takes equally many pairs of every source (DUSt3R, section 3.2), so that a small set is not drowned by
a large one. A finite source is gone through in a new random order each time before a pair comes again; an endless
one from its first pair on, in order, since pairs near to each other may share what is costly to make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.training.views import PairSource, length

_ORDER, _ROUND, _SAMPLE, _RETRY, _BATCH = range(1, 6)  # what random numbers are for, so that none are used twice


@dataclass(frozen=True)
class Place:
    """A pair's place in the run: ``index`` in the source number ``source``; ``position`` counts all pairs from 0."""

    position: int
    source: int
    index: int


@dataclass
class Sampling:
    """The endless sequence of places. ``epoch`` pairs (made a multiple of the number of sources) make an epoch."""

    sources: Sequence[PairSource]
    epoch: int
    seed: int
    held_out: Sequence[frozenset[int]] = ()
    _rounds: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)
    _orders: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("there is nothing to train on; give at least one source of pairs")
        self._usable = [self._indices(number) for number in range(len(self.sources))]
        self.each = max(round(self.epoch / len(self.sources)), 1)  # pairs of a source per epoch
        self.epoch = self.each * len(self.sources)

    def _indices(self, number: int) -> np.ndarray | None:
        """Pairs of a finite source that are not held out."""
        count = length(self.sources[number])
        if count is None:
            return None
        out = self.held_out[number] if self.held_out else frozenset()
        usable = np.setdiff1d(np.arange(count), np.array(sorted(out), np.int64), assume_unique=True)
        if not len(usable):
            raise InputError(f"training set '{self.sources[number].name}' holds no pair to train on")
        return usable

    def of(self, sources: Sequence[PairSource]) -> Sampling:
        """The same order of the same pairs, given by ``sources`` (at another size)."""
        return replace(self, sources=sources)

    def place(self, position: int) -> Place:
        """What is at ``position``."""
        epoch, within = divmod(position, self.epoch)
        sources, turns = self._order(epoch)
        source = int(sources[within])
        count = epoch * self.each + int(turns[within])  # pairs of this source before
        usable = self._usable[source]
        if usable is None:
            return Place(position, source, count)
        round_, step = divmod(count, len(usable))
        return Place(position, source, int(usable[self._round(source, round_)[step]]))

    def rng(self, position: int, attempt: int = 0) -> np.random.Generator:
        """Random numbers of the pair at ``position``, the same whoever makes it and whatever was made before."""
        return np.random.default_rng([self.seed, _SAMPLE, position, attempt])

    def rng_of_batch(self, position: int) -> np.random.Generator:
        """Random numbers of the batch that begins at ``position``."""
        return np.random.default_rng([self.seed, _BATCH, position])

    def instead(self, place: Place, attempt: int) -> Place:
        """Another pair of the same source, for one that cannot be used."""
        rng = np.random.default_rng([self.seed, _RETRY, place.position, attempt])
        usable = self._usable[place.source]
        # Of an endless source one far away, which no run comes to.
        index = 2**40 + int(rng.integers(2**40)) if usable is None else int(rng.choice(usable))
        return Place(place.position, place.source, index)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Of every place in an epoch: the source, and how many of that source are before it."""
        if epoch not in self._orders:
            if len(self._orders) > 1:
                self._orders.clear()
            rng = np.random.default_rng([self.seed, _ORDER, epoch])
            sources = rng.permutation(self.epoch) // self.each
            turns = np.empty(self.epoch, np.int64)
            turns[np.argsort(sources, kind="stable")] = np.tile(np.arange(self.each), len(self.sources))
            self._orders[epoch] = sources, turns
        return self._orders[epoch]

    def _round(self, source: int, round_: int) -> np.ndarray:
        if (source, round_) not in self._rounds:
            if len(self._rounds) > 4 * len(self.sources):
                self._rounds.clear()
            usable = self._usable[source]
            assert usable is not None
            rng = np.random.default_rng([self.seed, _ROUND, source, round_])
            self._rounds[source, round_] = rng.permutation(len(usable))
        return self._rounds[source, round_]
