"""Rendered worlds as a source of pairs, made batch by batch on the training device."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

import numpy as np
import torch

from dust3r_ros.errors import InputError
from dust3r_ros.io.frames import read_ahead
from dust3r_ros.training.batches import PairBatch
from dust3r_ros.training.on_device.gallery import TOGETHER, Gallery, Studio, Views, first_world
from dust3r_ros.training.on_device.makers import Makers
from dust3r_ros.training.views import HELD_OUT_SEED, Cropping, TrainingView, ViewPair

SPLITS = ("train", "held_out")
_FEWEST_VIEWS, _MOST_VIEWS = 12, 64  # of a world; each is in about eight pairs
_HELD_OUT = 4  # pairs of each world for evaluation
_SIZE = 11  # purpose of random numbers
_AHEAD = 6  # batches made in advance, which last while worlds are rendered


class DeviceWorlds:
    """Endless worlds, ``worlds`` at a time, ``per_world`` pairs of each; ``seed`` decides everything.

    The splits share no world or material. Each ``rank`` of ``world`` processes has its own worlds.
    """

    def __init__(
        self,
        split: str = "train",
        seed: int = 0,
        *,
        device: str = "cpu",
        per_world: int = 64,
        worlds: int = 16,
        rank: int = 0,
        world: int = 1,
        size: tuple[int, int] = (224, 224),
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"unknown split '{split}' of rendered worlds; known are {', '.join(SPLITS)}")
        self.split, self.seed = split, (seed, SPLITS.index(split))
        self.device, self.per_world, self.worlds, self.rank, self.world = device, per_world, worlds, rank, world
        self.size = size
        self._shown: dict[int, list[ViewPair]] = {}

    @property
    def name(self) -> str:
        """Name of the set in messages and metrics."""
        return "worlds rendered on the device" + (", held out" if self.split == "held_out" else "")

    def __len__(self) -> int | None:
        return None

    def held_out(self) -> DeviceWorlds:
        """Pairs for evaluation, the same for every seed, of worlds and materials that occur in no training pair."""
        return DeviceWorlds("held_out", HELD_OUT_SEED, device=self.device, per_world=_HELD_OUT, worlds=1)

    def at(self, size: tuple[int, int]) -> DeviceWorlds:
        """The same worlds, with single pairs of ``size`` (H, W)."""
        other = copy.copy(self)
        other.size, other._shown = size, {}
        return other

    def batches(
        self, start: int, number: int, pairs: int, sizes: Sequence[tuple[int, int]], cropping: Cropping, workers: int
    ) -> Generator[PairBatch, None, None]:
        """Batches of ``pairs`` pairs from ``number`` on, of a stage that begins after ``start`` pairs of all processes.
        ``workers`` processes draw up worlds meanwhile.

        Close it after use. Raises what ``Gallery.batch`` raises.
        """
        made = self._batches(start, number, pairs, sizes, cropping, workers)
        return made if torch.device(self.device).type == "cpu" else _ahead(made, torch.device(self.device))

    def _batches(
        self, start: int, number: int, pairs: int, sizes: Sequence[tuple[int, int]], cropping: Cropping, workers: int
    ) -> Generator[PairBatch, None, None]:
        turns = _Turns(self.seed, start, len(sizes))
        galleries: dict[int, Gallery] = {}
        begun = start // (self.per_world * self.world)
        try:
            while True:
                which = turns.of(number)
                if which not in galleries:
                    galleries[which] = self._gallery(
                        begun, which, len(sizes), turns.before(number, which), pairs, sizes[which], cropping, workers
                    )
                yield galleries[which].batch()
                number += 1
        finally:
            for gallery in galleries.values():
                gallery.studio.makers.close()

    def _gallery(
        self, begun: int, which: int, of: int, number: int, pairs: int, size: tuple[int, int], cropping: Cropping,
        workers: int,
    ) -> Gallery:  # fmt: skip
        """The gallery of one size: every ``of``-th world of this process."""
        views = Views(
            size, views_of_world(self.per_world), self.per_world, zoom=cropping.zoom, colour=cropping.colour,
        )  # fmt: skip
        worlds, step = max(self.worlds // of, 1), self.world * of
        behind = begun + first_world(number, pairs, self.per_world)
        own = 0 if workers == 0 else max(workers // of, 1)
        device = torch.device(self.device)
        together = TOGETHER[device.type]
        skip = behind % together
        first = (behind - skip) * step + which * self.world + self.rank
        makers = Makers(self.seed, first, step, own, ahead=max(2 * own, 2 * together))
        return Gallery(Studio(makers, device, together, skip), views, worlds, pairs, number)

    def pair(self, index: int, rng: np.random.Generator) -> ViewPair:
        """Pair ``index``, augmented only by camera effects; ``rng`` is not used."""
        if index < 0:
            raise InputError(f"pair {index} of rendered worlds does not exist; indices begin at 0")
        number, within = divmod(index, self.per_world)
        if number not in self._shown:
            self._shown = {number: self._pairs(number)}
        return self._shown[number][within]

    def _pairs(self, number: int) -> list[ViewPair]:
        """All pairs of a world, on the host."""
        with closing(Makers(self.seed, number)) as makers:
            views = Views(self.size, _FEWEST_VIEWS, self.per_world)
            studio = Studio(makers, torch.device(self.device))
            batch = Gallery(studio, views, 1, self.per_world).batch()
        return as_views(batch, f"{self.name}: world {number}")


def views_of_world(pairs: int) -> int:
    """How many views are rendered for so many pairs."""
    return min(max(pairs // 4, _FEWEST_VIEWS), _MOST_VIEWS)


def as_views(batch: PairBatch, source: str) -> list[ViewPair]:
    """The pairs of a batch as views on the host; the first camera of each stands at the origin."""
    images = [
        ((image + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for image in (batch.image_1, batch.image_2)
    ]
    depths = [points[..., 2].cpu().numpy() for points in (batch.points_1, batch.points_2)]
    cameras = [K.double().cpu().numpy() for K in (batch.K_1, batch.K_2)]
    poses = np.tile(np.eye(4), (len(batch), 1, 1)), batch.first_T_second.double().cpu().numpy()
    first, second = (
        [TrainingView(images[side][k], depths[side][k], cameras[side][k], poses[side][k]) for k in range(len(batch))]
        for side in range(2)
    )
    return [ViewPair(one, other, source) for one, other in zip(first, second, strict=True)]


class _Turns:
    """The size of each batch of a stage, drawn at random."""

    def __init__(self, seed: tuple[int, ...], start: int, sizes: int) -> None:
        self._rng = np.random.default_rng([*seed, start, _SIZE])
        self._sizes, self._drawn = sizes, np.zeros(0, np.int64)

    def of(self, number: int) -> int:
        """Index of the size of batch ``number``."""
        while len(self._drawn) <= number:
            self._drawn = np.append(self._drawn, self._rng.integers(self._sizes, size=1024))
        return int(self._drawn[number])

    def before(self, number: int, size: int) -> int:
        """How many batches before ``number`` had this size."""
        self.of(number)
        return int((self._drawn[:number] == size).sum())


def _ahead(made: Generator[PairBatch, None, None], device: torch.device) -> Generator[PairBatch, None, None]:
    """The same batches, made by a thread on a stream of its own while the device trains."""

    def on_stream() -> Iterator[tuple[PairBatch, torch.cuda.Event]]:
        stream = torch.cuda.Stream(device, priority=-1)  # many small operations, for whose results this thread waits
        torch.cuda.set_stream(stream)  # of the thread, which ends with it
        for batch in made:
            done = torch.cuda.Event()
            done.record(stream)
            yield batch, done

    with closing(made), closing(read_ahead(on_stream(), _AHEAD)) as ready:
        for batch, done in ready:
            here = torch.cuda.current_stream(device)
            here.wait_event(done)
            for value in batch._tensors().values():
                value.record_stream(here)  # else its memory might be reused while it is read
            yield batch
