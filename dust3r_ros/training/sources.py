"""The sets a run learns from, by the names a user gives: rendered worlds and published sets; what is held out.

Building a world costs as much as rendering some twenty views, so pairs that come after one another share worlds.
Ask for indices in order, or nearly: an index far away builds another world.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.scenes.endless.viewpoints import Album
from dust3r_ros.training.recipe import Recipe
from dust3r_ros.training.views import BatchSource, PairSource, TrainingView, ViewPair, length

SPLITS = ("train", "held_out")
SAME_IMAGE = 0.03  # share of pairs of one image with itself (monocular depth)
_SAMENESS = 0.6  # of pairs, both pictures are taken with one exposure


class RenderedPairs:
    """Pairs of rendered views. No world or material of one split is in the other, whatever the index.

    ``seed`` decides all. ``short_side``: pixels of the smaller side of the images, whose shape changes from world to
    world. ``overlap``: least and most of what the views of a pair share, the smaller share of both; pairs are drawn
    so that every overlap between them comes equally often. ``per_world`` pairs are taken from a world's ``views``.

    Index to world: batches of ``batch`` indices go around ``lanes``, and ``mixed`` worlds take turns within a lane.
    With as many lanes as processes (or a multiple) and batch n made by process n modulo their number, no two
    processes build the same world. A process keeps the worlds of its lanes: 30 to 60 MB each.
    """

    def __init__(
        self,
        split: str = "train",
        seed: int = 0,
        *,
        short_side: int = 240,
        overlap: tuple[float, float] = (0.1, 1.0),
        per_world: int = 64,
        batch: int = 16,
        lanes: int = 8,
        mixed: int = 2,
        views: int = 32,
        photographic: bool = True,
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"unknown split '{split}' of rendered worlds; known are {', '.join(SPLITS)}")
        if min(short_side - 15, per_world, batch, lanes, mixed, views - 1) < 1:
            raise InputError(
                f"rendered pairs of {short_side} pixels, {per_world} from {views} views of a world, in batches of "
                f"{batch} on {lanes} lanes of {mixed} worlds, are none; images need 16 pixels, a world 2 views, the "
                "others 1"
            )
        if not 0 <= overlap[0] < overlap[1] <= 1:
            raise InputError(f"an overlap of {overlap[0]} to {overlap[1]} is no range within 0 to 1")
        self.split, self.seed = split, (seed, SPLITS.index(split))
        self.short_side, self.overlap, self.photographic = short_side, overlap, photographic
        self.batch, self.lanes, self.mixed, self.views = batch, lanes, mixed, views
        self._visits = max(round(per_world * mixed / batch), 1)  # of a lane to a world
        self._albums: dict[int, tuple[int, Album]] = {}  # by place: the world there now

    @property
    def name(self) -> str:
        """Of the set, in messages and metrics."""
        return "rendered worlds" if self.split == "train" else "rendered worlds, held out"

    def __len__(self) -> int | None:
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Without the worlds, which a worker process builds itself."""
        return {**self.__dict__, "_albums": {}}

    def world_of(self, index: int) -> int:
        """Number of the world that pair ``index`` is of."""
        batch, within = divmod(index, self.batch)
        turn, lane = divmod(batch, self.lanes)
        place = lane * self.mixed + within % self.mixed
        # Lanes change their worlds at different times, so that the work is spread.
        shift = place * self._visits // (self.lanes * self.mixed)
        return (turn + shift) // self._visits * self.lanes * self.mixed + place

    def album(self, index: int) -> Album:
        """The views that pair ``index`` is taken from."""
        number = self.world_of(index)
        place = number % (self.lanes * self.mixed)
        known = self._albums.get(place)
        if known is None or known[0] != number:
            self._albums.pop(place, None)
            album = Album(self.seed, number, self.views, self.short_side)
            known = self._albums[place] = number, album
        return known[1]

    def sized(self, short_side: int) -> RenderedPairs:
        """The same worlds with images of another size; nothing that was rendered is shared with this source."""
        other = copy.copy(self)
        other.short_side, other._albums = short_side, {}
        return other

    def held_out(self) -> RenderedPairs:
        """Pairs to evaluate on, of worlds and materials that no training pair shows: few from each."""
        return RenderedPairs(
            "held_out",
            self.seed[0],
            short_side=self.short_side,
            overlap=self.overlap,
            per_world=4,
            batch=1,
            lanes=1,
            mixed=1,
            views=12,
        )

    def pair(self, index: int, rng: np.random.Generator) -> ViewPair:
        """Pair ``index``; the same for the same index and state of ``rng``."""
        if index < 0:
            raise InputError(f"pair {index} of rendered worlds is none; indices begin at 0")
        from dust3r_ros.scenes.endless.photography import draw_exposure, photograph  # a GPU's machine has no OpenCV

        album = self.album(index)
        first, second = choose_pair(album.shared, self.overlap, rng)
        exposure = draw_exposure(rng)
        other = exposure if rng.random() < _SAMENESS else draw_exposure(rng)
        views = []
        for number, taken in ((first, exposure), (second, other)):
            view, (K, w_T_c) = album.view(number), album.camera(number)
            image = photograph(view.image, taken, rng) if self.photographic else view.image.copy()
            views.append(TrainingView(image, view.depth, K, w_T_c))
        return ViewPair(
            views[0], views[1], f"{self.name}: {album.layout} {self.world_of(index)}, views {first} {second}"
        )


def choose_pair(shared: np.ndarray, limits: tuple[float, float], rng: np.random.Generator) -> tuple[int, int]:
    """Two views, the smaller of whose shares ``shared`` (N, N) lies nearest to a number drawn from ``limits``.

    Now and then one view twice.
    """
    count = len(shared)
    if rng.random() < SAME_IMAGE:
        one = int(rng.integers(count))
        return one, one
    both = np.minimum(shared, shared.T)
    first, second = np.triu_indices(count, 1)
    usable = np.flatnonzero((both[first, second] >= limits[0]) & (both[first, second] <= limits[1]))
    if not len(usable):
        one = int(rng.integers(count))
        return one, one
    away = np.abs(both[first[usable], second[usable]] - rng.uniform(*limits))
    # One of the nearest few, so that a rare overlap is not always the same pair.
    nearest = usable[np.argsort(away, kind="stable")[:4]]
    chosen = int(rng.choice(nearest))
    pair = int(first[chosen]), int(second[chosen])
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


WORLDS = "worlds"
_MARGIN = 1.1  # of rendered images over what is cropped from them
_FEWEST_VIEWS, _MOST_VIEWS = 12, 32  # of a world; more pairs than twice as many repeat what they show
_FAR = 2**50  # pairs of an endless source that no run comes to


@dataclass(frozen=True)
class Split:
    """Sources to train on, with the indices that are left out of it, and sources with indices to evaluate on."""

    train: tuple[PairSource, ...]
    excluded: tuple[frozenset[int], ...]
    held_out: tuple[PairSource, ...]
    chosen: tuple[tuple[int, ...], ...]


def open_sources(
    data: Sequence[str], recipe: Recipe, world: int, cache: Path | None = None, device: str = "cpu", rank: int = 0
) -> list[PairSource]:
    """Sources of ``NAME=PATH`` each, or ``worlds`` for rendered ones (the only one where nothing is said).

    ``world``: number of processes that train, each of which should keep to worlds of its own; ``rank`` is this one.
    ``cache``: folder for what is worked out about sets on disk; None: the user's cache folder. ``device``: of this
    process, where the recipe's caster is torch. Raises ``ConfigError`` for a text of another form and ``InputError``
    for a set that is not known, or a path that holds none.
    """
    opened: list[PairSource] = []
    data = list(data or [WORLDS])
    if recipe.caster == "torch" and data != [WORLDS]:
        raise ConfigError(
            f"--data is {' '.join(data)} and the recipe's caster torch, which makes whole batches of rendered worlds "
            "on the device; take caster=numpy for other sets"
        )
    for text in data:
        name, equals, path = text.partition("=")
        if name == WORLDS and not equals:
            opened.append(_worlds(recipe, world, device, rank))
        elif not equals or not path or not name:
            raise ConfigError(f"--data {text!r} is not NAME=PATH, or {WORLDS}")
        else:
            opened.append(_on_disk(name, path, cache))
    return opened


def split(sources: Sequence[PairSource], count: int) -> Split:
    """``count`` pairs altogether are held out, equally many of each source.

    A source that knows itself which of its scenes are for evaluation (``held_out()``, another source) is asked; of
    another finite one evenly spaced pairs, at most a tenth; of an endless one pairs that no run comes to.
    """
    each = [count // len(sources) + (number < count % len(sources)) for number in range(len(sources))]
    excluded, held_out, chosen = [], [], []
    for source, wanted in zip(sources, each, strict=True):
        own: Any = getattr(source, "held_out", None)
        apart: PairSource | None = own() if callable(own) else None
        of = source if apart is None else apart
        indices = _chosen(length(of), wanted, whole=apart is not None)
        held_out.append(of)
        chosen.append(indices)
        excluded.append(frozenset(indices) if apart is None else frozenset())
    return Split(tuple(sources), tuple(excluded), tuple(held_out), tuple(chosen))


def _chosen(total: int | None, wanted: int, *, whole: bool) -> tuple[int, ...]:
    """Indices to evaluate on, of ``total`` pairs (None: endless); ``whole``: the source is for nothing else."""
    if total is None:
        start = 0 if whole else _FAR
        return tuple(range(start, start + wanted))
    most = min(wanted, total if whole else max(total // 10, 1))
    return tuple(sorted({k * total // max(most, 1) for k in range(most)}))


def sized(sources: Sequence[PairSource], sizes: Sequence[tuple[int, int]]) -> list[PairSource]:
    """The same sources for images of ``sizes`` (H, W): one that makes its images makes them no larger than needed."""
    short_side = round(_MARGIN * max(min(size) for size in sizes))
    found: list[PairSource] = []
    for source in sources:
        if isinstance(source, BatchSource):
            source = source.at(sizes[0])
        elif isinstance(source, Sizable):
            source = source.sized(short_side)
        found.append(source)
    return found


@runtime_checkable
class Sizable(Protocol):
    """A source whose images can be had at any size."""

    def sized(self, short_side: int) -> Any:
        """The same pairs with images whose smaller side is ``short_side`` pixels."""


def _worlds(recipe: Recipe, world: int, device: str, rank: int) -> PairSource:
    """Rendered worlds, of which every process (of training, and of making batches) has lanes of its own.

    That holds for as many workers as the recipe says; with others the pairs are the same, but more worlds are built.
    """
    if recipe.caster == "torch":
        from dust3r_ros.training.on_device.source import DeviceWorlds

        return DeviceWorlds(
            seed=recipe.seed, device=device, per_world=recipe.per_world, worlds=recipe.worlds_at_once,
            rank=rank, world=world,
        )  # fmt: skip

    own = [stage.pairs // world for stage in recipe.stages]
    lanes = max(recipe.workers, 1) * world * max(max(own) // min(own), 1)
    return RenderedPairs(
        seed=recipe.seed,
        per_world=recipe.per_world,
        views=min(max(recipe.per_world // 2, _FEWEST_VIEWS), _MOST_VIEWS),
        batch=min(own),
        lanes=lanes,
        mixed=recipe.worlds_at_once,
    )


def _on_disk(name: str, path: str, cache: Path | None) -> PairSource:
    from dust3r_ros.training.datasets import open_set

    return open_set(name, path, cache)
