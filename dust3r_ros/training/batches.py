"""Pairs to batches of tensors, by worker processes, in an order that depends only on seed and position.

Every epoch takes equally many pairs of every source (DUSt3R, section 3.2), so that a small set is not drowned by
a large one. A finite source is traversed in a new random order each time before a pair repeats. The index of a pair of
an endless source is its position in the run: neighbours may share costly work, and a source can tell from its indices
which process makes a pair, whatever other sources there are.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from time import monotonic, sleep
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dust3r_ros.errors import InputError, TrainingError
from dust3r_ros.geometry.processes import settle_worker
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.network.heads import Raster
from dust3r_ros.network.inference import normalise
from dust3r_ros.training.losses import PairTruth
from dust3r_ros.training.views import Cropping, PairSource, TrainingView, ViewPair, crop_pair, length

_ORDER, _ROUND, _SAMPLE, _RETRY, _BATCH = range(1, 6)  # purposes of random numbers, so that none are used twice


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
            raise InputError("no source of pairs to train on; give at least one")
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
        """The same order of the same pairs from ``sources`` (at another size)."""
        return replace(self, sources=sources)

    def place(self, position: int) -> Place:
        """The place at ``position``."""
        epoch, within = divmod(position, self.epoch)
        sources, turns = self._order(epoch)
        source = int(sources[within])
        usable = self._usable[source]
        if usable is None:
            return Place(position, source, position)
        count = epoch * self.each + int(turns[within])  # pairs of this source before
        round_, step = divmod(count, len(usable))
        return Place(position, source, int(usable[self._round(source, round_)[step]]))

    def rng(self, position: int, attempt: int = 0) -> np.random.Generator:
        """Random numbers of the pair at ``position``, the same in any process and after any history."""
        return np.random.default_rng([self.seed, _SAMPLE, position, attempt])

    def rng_of_batch(self, position: int) -> np.random.Generator:
        """Random numbers of the batch that begins at ``position``."""
        return np.random.default_rng([self.seed, _BATCH, position])

    def instead(self, place: Place, attempt: int) -> Place:
        """A replacement from the same source for an unusable pair."""
        rng = np.random.default_rng([self.seed, _RETRY, place.position, attempt])
        usable = self._usable[place.source]
        # In an endless source one far away, which no run reaches.
        index = 2**40 + int(rng.integers(2**40)) if usable is None else int(rng.choice(usable))
        return Place(place.position, place.source, index)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """For every place in an epoch: the source, and how many of that source come before it."""
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


_AHEAD = 4  # batches that a worker makes in advance
_MOMENT = 1.0  # seconds within which all processes of a group have got a signal
_Made = TypeVar("_Made")
_ATTEMPTS = 20  # corrupt samples in a row, after which the whole set counts as unusable


@dataclass(frozen=True, eq=False)
class PairBatch:
    """B pairs of one size. ``image_*`` (B, 3, H, W) in [-1, 1]; ``points_*`` (B, H, W, 3), each in the frame of its
    *own* camera, ``valid_*`` (B, H, W); ``K_*`` (B, 3, 3); ``first_T_second`` (B, 4, 4). All float32 and bool, on one
    device.

    ``skipped``: reasons for missing samples.
    """

    image_1: Tensor
    image_2: Tensor
    points_1: Tensor
    points_2: Tensor
    valid_1: Tensor
    valid_2: Tensor
    K_1: Tensor
    K_2: Tensor
    first_T_second: Tensor
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.image_1.shape[0]

    @property
    def truth(self) -> PairTruth:
        """The true output for (first, second)."""
        there = _moved(self.first_T_second, self.points_2)
        return PairTruth(self.points_1, self.valid_1, there, self.valid_2)

    @property
    def truth_swapped(self) -> PairTruth:
        """The true output for (second, first)."""
        there = _moved(self.inverse, self.points_1)
        return PairTruth(self.points_2, self.valid_2, there, self.valid_1)

    @property
    def inverse(self) -> Tensor:
        """(B, 4, 4) second_T_first, the inverse of ``first_T_second``."""
        R_t, t = self.first_T_second[:, :3, :3].transpose(1, 2), self.first_T_second[:, :3, 3]
        back = self.first_T_second.clone()
        back[:, :3, :3] = R_t
        back[:, :3, 3] = -(R_t * t[:, None, :]).sum(dim=-1)
        return back

    def thinned(self, raster: Raster) -> PairBatch:
        """With points at fewer pixels; images and cameras are unchanged."""
        return replace(
            self,
            points_1=raster.of(self.points_1.movedim(-1, 1)).movedim(1, -1),
            points_2=raster.of(self.points_2.movedim(-1, 1)).movedim(1, -1),
            valid_1=raster.of(self.valid_1),
            valid_2=raster.of(self.valid_2),
        )

    def to(self, device: torch.device) -> PairBatch:
        """The batch on another device; the copy may be asynchronous."""
        tensors = {name: value.to(device, non_blocking=True) for name, value in self._tensors().items()}
        return PairBatch(**tensors, skipped=self.skipped)

    def pin_memory(self) -> PairBatch:
        """The batch in memory that a GPU reads directly; the loader asks for it."""
        return PairBatch(**{name: value.pin_memory() for name, value in self._tensors().items()}, skipped=self.skipped)

    def _tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "skipped"}


def collate(pairs: Sequence[ViewPair], skipped: Sequence[str] = ()) -> PairBatch:
    """A batch of pairs whose images all have one size.

    Each pair's points are given in units of its own mean distance, which keeps far worlds within float32.
    """
    first, second = [pair.first for pair in pairs], [pair.second for pair in pairs]
    units = np.array([_unit(pair) for pair in pairs])
    poses = np.stack([invert(pair.first.w_T_c) @ pair.second.w_T_c for pair in pairs])
    poses[:, :3, 3] /= units[:, None]
    return PairBatch(
        normalise(np.stack([view.image for view in first])),
        normalise(np.stack([view.image for view in second])),
        _points(first, units),
        _points(second, units),
        torch.from_numpy(np.stack([view.depth > 0 for view in first])),
        torch.from_numpy(np.stack([view.depth > 0 for view in second])),
        torch.from_numpy(np.stack([view.K for view in first]).astype(np.float32)),
        torch.from_numpy(np.stack([view.K for view in second]).astype(np.float32)),
        torch.from_numpy(poses.astype(np.float32)),
        tuple(skipped),
    )


class PairBatches(Dataset["PairBatch | InputError | TrainingError"]):
    """The batches of a stage by number, made when asked for: ``pairs`` pairs of this process each.

    ``start`` is the position of the stage's first pair. Each batch has ``pairs`` x ``world`` pairs, of which process
    ``rank`` makes its own; ``sizes`` are those to draw (H, W) from, the same for all processes.
    """

    def __init__(
        self,
        sampling: Sampling,
        start: int,
        pairs: int,
        sizes: Sequence[tuple[int, int]],
        cropping: Cropping,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.sampling, self.start, self.pairs, self.sizes, self.cropping = sampling, start, pairs, sizes, cropping
        self.rank, self.world = rank, world

    def __getitem__(self, number: int) -> PairBatch | InputError | TrainingError:
        """The batch, or the error instead of it: raised in a worker, an error would lose its message."""
        first = self.start + number * self.pairs * self.world
        size = self.sizes[int(self.sampling.rng_of_batch(first).integers(len(self.sizes)))]
        skipped: list[str] = []
        try:
            own = range(first + self.rank * self.pairs, first + (self.rank + 1) * self.pairs)
            return collate([self.pair(position, size, skipped) for position in own], skipped)
        except (InputError, TrainingError) as error:
            return error

    def pair(self, position: int, size: tuple[int, int], skipped: list[str]) -> ViewPair:
        """The pair at ``position``, cropped; reasons for unusable samples are added to ``skipped``.

        Raises ``InputError`` after many unusable samples in a row.
        """
        place = self.sampling.place(position)
        source = self.sampling.sources[place.source]
        for attempt in range(_ATTEMPTS):
            rng = self.sampling.rng(position, attempt)
            try:
                return crop_pair(source.pair(place.index, rng), size, rng, self.cropping)
            except InputError as error:
                skipped.append(str(error))
                place = self.sampling.instead(place, attempt)
        raise InputError(
            f"training set '{source.name}': {_ATTEMPTS} samples in a row cannot be used; the last: {skipped[-1]}"
        )


def load(
    batches: PairBatches, first: int, workers: int, pin: bool = False, stop: Callable[[], bool] = bool
) -> Generator[PairBatch, None, None]:
    """Batches from number ``first`` on, in order and without end, made by ``workers`` processes (0: by this one).

    The batches are the same for any number of workers. Raises ``InputError`` as ``PairBatches`` and for a
    worker that the system ended, ``TrainingError`` when a source can make no pairs on this machine. Workers that end
    when ``stop()`` is true are no error: this process makes the batches from then on.
    """
    number = first
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, 2**40),
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        worker_init_fn=_alone if workers else None,
        pin_memory=pin,
        generator=torch.Generator(),  # else torch's random numbers would depend on when loading began
    )
    try:
        for batch in _ended_in_waiting(loader):
            yield _good(batch)
            number += 1
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not _from_a_worker(error, workers):
            raise
        if not _soon(stop):
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(
                f"a process that makes batches was ended from outside ({reason}); "
                "if memory is short, use fewer workers (--workers)"
            ) from None
    # SIGTERM was sent to the whole group. The step is still made, since other training processes take part in it.
    while True:
        yield _good(batches[number])
        number += 1


def _from_a_worker(error: Exception, workers: int) -> bool:
    """Whether a loader failed since one of its processes has ended, or its thread because of that."""
    if isinstance(error, (ConnectionError, EOFError)):
        return workers > 0  # it is just ending: its batch is lost, and torch still believes it alive
    return any(name in str(error) for name in ("DataLoader worker (pid", "Pin memory thread"))


def _good(batch: PairBatch | InputError | TrainingError) -> PairBatch:
    """The batch; raises the error instead of it."""
    if isinstance(batch, (InputError, TrainingError)):
        raise batch
    return batch


def _soon(stop: Callable[[], bool]) -> bool:
    """Whether ``stop()`` is true now or in a moment: the processes of a group get a signal one after another."""
    end = monotonic() + _MOMENT
    while not stop() and monotonic() < end:
        sleep(0.01)
    return stop()


def _ended_in_waiting(loader: DataLoader[_Made]) -> Iterator[_Made]:
    """Iterate; a worker's end is noticed only when waiting for its batch.

    torch would also raise it from a signal handler, anywhere in this process.
    """
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
    return batches


def _alone(worker: int) -> None:
    """Setup of a worker: one torch thread; SIGTERM, by which torch ends its workers, ends it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    settle_worker(None if parent is None else parent.pid)


def _unit(pair: ViewPair) -> float:
    depths = np.concatenate([view.depth[view.depth > 0] for view in (pair.first, pair.second)])
    return float(depths.mean(dtype=np.float64)) if len(depths) else 1.0


def _points(views: Sequence[TrainingView], units: np.ndarray) -> Tensor:
    points = np.stack([view.points_c() / unit for view, unit in zip(views, units, strict=True)])
    return torch.from_numpy(points.astype(np.float32))


def _moved(a_T_b: Tensor, points: Tensor) -> Tensor:
    # Called within the forward pass: the truth must not be rounded to the network's precision.
    with torch.autocast(points.device.type, enabled=False):
        return torch.einsum("bij,bhwj->bhwi", a_T_b[:, :3, :3], points) + a_T_b[:, None, None, :3, 3]
