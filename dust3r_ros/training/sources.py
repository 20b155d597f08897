"""The training data of a run, by the names a user gives: rendered worlds and published sets; the held-out part.

Building a world costs as much as rendering some twenty views, so consecutive pairs share worlds. Ask for indices
roughly in order: a distant index builds another world.
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
from dust3r_ros.training.views import HELD_OUT_SEED, BatchSource, PairSource, TrainingView, ViewPair, length

SPLITS = ("train", "held_out")
SAME_IMAGE = 0.03  # share of pairs of one image with itself (monocular depth)
_SAMENESS = 0.6  # share of pairs with one exposure for both pictures


class RenderedPairs:
    """Pairs of rendered views. The splits share no world or material.

    ``seed`` decides everything. ``short_side``: pixels of the images' shorter side; their shape varies between worlds.
    ``overlap``: least and most overlap of a pair, the smaller share of its two views; pairs are drawn so that all
    overlaps in between are equally frequent. ``per_world`` pairs are taken from a world's ``views``.

    An index is a position in the run. Index to world: batches of ``batch`` indices go around ``lanes``, and ``mixed``
    worlds take turns within a lane. With as many lanes as processes (or a multiple) and batch n made by process n
    modulo their number, no two processes build the same world, even if other sources take some of the indices. A
    process keeps the worlds of its lanes: 30 to 60 MB each.
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
                f"{batch} on {lanes} lanes of {mixed} worlds, are impossible; images need 16 pixels, a world 2 views, "
                "the others 1"
            )
        if not 0 <= overlap[0] < overlap[1] <= 1:
            raise InputError(f"an overlap of {overlap[0]} to {overlap[1]} is not a range within 0 to 1")
        self.split, self.seed = split, (seed, SPLITS.index(split))
        self.short_side, self.overlap, self.photographic = short_side, overlap, photographic
        self.batch, self.lanes, self.mixed, self.views = batch, lanes, mixed, views
        self._visits = max(round(per_world * mixed / batch), 1)  # of a lane to a world
        self._albums: dict[int, tuple[int, Album]] = {}  # by place: the world there now

    @property
    def name(self) -> str:
        """Name of the set in messages and metrics."""
        return "rendered worlds" if self.split == "train" else "rendered worlds, held out"

    def __len__(self) -> int | None:
        return None

    def __getstate__(self) -> dict[str, Any]:
        """State without the worlds, which a worker process builds itself."""
        return {**self.__dict__, "_albums": {}}

    def world_of(self, index: int) -> int:
        """Number of the world of pair ``index``."""
        batch, within = divmod(index, self.batch)
        turn, lane = divmod(batch, self.lanes)
        place = lane * self.mixed + within % self.mixed
        # Lanes change their worlds at different times, to spread the work.
        shift = place * self._visits // (self.lanes * self.mixed)
        return (turn + shift) // self._visits * self.lanes * self.mixed + place

    def album(self, index: int) -> Album:
        """The views from which pair ``index`` is taken."""
        number = self.world_of(index)
        place = number % (self.lanes * self.mixed)
        known = self._albums.get(place)
        if known is None or known[0] != number:
            self._albums.pop(place, None)
            album = Album(self.seed, number, self.views, self.short_side)
            known = self._albums[place] = number, album
        return known[1]

    def sized(self, short_side: int) -> RenderedPairs:
        """The same worlds with images of another size; no renderings are shared with this source."""
        other = copy.copy(self)
        other.short_side, other._albums = short_side, {}
        return other

    def held_out(self) -> RenderedPairs:
        """Pairs for evaluation, the same for every seed, of worlds and materials in no training pair; few from each."""
        return RenderedPairs(
            "held_out",
            HELD_OUT_SEED,
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
            raise InputError(f"pair {index} of rendered worlds does not exist; indices begin at 0")
        from dust3r_ros.scenes.endless.photography import draw_exposure, photograph  # a GPU machine may lack OpenCV

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
    """Two views whose smaller share in ``shared`` (N, N) is closest to a number drawn from ``limits``.

    Occasionally one view twice.
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
_MARGIN = 1.1  # size of rendered images relative to their crops
_FEWEST_VIEWS, _MOST_VIEWS = 12, 32  # of a world; more than twice as many pairs would repeat content
_FAR = 2**50  # pairs of an endless source that no run reaches


@dataclass(frozen=True)
class Split:
    """Training sources with the indices left out, and sources with indices for evaluation. ``mixed``: names of those
    that are evaluated on the scene they are trained on, their only one.
    """

    train: tuple[PairSource, ...]
    excluded: tuple[frozenset[int], ...]
    held_out: tuple[PairSource, ...]
    chosen: tuple[tuple[int, ...], ...]
    mixed: tuple[str, ...] = ()

    def contents(self) -> list[str]:
        """What each source holds to train with and to evaluate, a line that changes with the data."""
        both = zip(self.train, self.held_out, strict=True)
        return [f"{_content(source)}, evaluated on {_content(apart)}" for source, apart in both]


def _content(source: PairSource) -> str:
    count, digest = length(source), getattr(source, "digest", None)
    if count is None:
        return f"{source.name} (endless)"
    return f"{source.name} ({count} pairs" + (f", {digest()})" if callable(digest) else ")")


def open_sources(
    data: Sequence[str], recipe: Recipe, world: int, cache: Path | None = None, device: str = "cpu", rank: int = 0
) -> list[PairSource]:
    """Sources from ``NAME=PATH`` each, or ``worlds`` for rendered ones (the default).

    ``world``: number of training processes, each with worlds of its own; ``rank``: this one. ``cache``: folder for
    listings and overlaps of sets on disk; None: the user's cache folder. ``device``: this process's, for the torch
    caster. Raises ``ConfigError`` for another form and ``InputError`` for an unknown set or a path without one.
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
            opened.append(_worlds(recipe, world, device, rank, len(data)))
        elif not equals or not path or not name:
            raise ConfigError(f"--data {text!r} is not NAME=PATH, or {WORLDS}")
        else:
            opened.append(_on_disk(name, path, cache))
    return opened


def split(sources: Sequence[PairSource], count: int) -> Split:
    """Hold out ``count`` pairs in total, equally many from each source.

    A source with evaluation scenes of its own (``held_out()``, another source) gives those; one that knows which frames
    belong together (``groups()``, where each scene begins, and the end) gives whole scenes, at most a tenth of them,
    since any frame of a scene may be the partner of another; other finite sources give evenly spaced pairs, at most a
    tenth; endless ones give pairs that no run reaches.
    """
    each = [count // len(sources) + (number < count % len(sources)) for number in range(len(sources))]
    excluded, held_out, chosen, mixed = [], [], [], []
    for source, wanted in zip(sources, each, strict=True):
        own: Any = getattr(source, "held_out", None)
        apart: PairSource | None = own() if callable(own) else None
        of = source if apart is None else apart
        kept = _grouped(source, wanted) if apart is None else ()
        if kept:
            indices = tuple(kept[k] for k in _spread(len(kept), min(wanted, len(kept))))
        else:
            kept = indices = _chosen(length(of), wanted, whole=apart is not None)
            if apart is None and indices and hasattr(source, "groups"):
                mixed.append(source.name)
        held_out.append(of)
        chosen.append(indices)
        excluded.append(frozenset(kept) if apart is None else frozenset())
    return Split(tuple(sources), tuple(excluded), tuple(held_out), tuple(chosen), tuple(mixed))


def _chosen(total: int | None, wanted: int, *, whole: bool) -> tuple[int, ...]:
    """Indices for evaluation among ``total`` pairs (None: endless); ``whole``: the source is only for evaluation."""
    if total is None:
        start = 0 if whole else _FAR
        return tuple(range(start, start + wanted))
    return _spread(total, min(wanted, total if whole else max(total // 10, 1)))


def _spread(total: int, most: int) -> tuple[int, ...]:
    """At most ``most`` of ``total`` indices, evenly spaced."""
    return tuple(sorted({k * total // max(most, 1) for k in range(most)}))


def _grouped(source: PairSource, wanted: int) -> tuple[int, ...]:
    """All frames of evenly spaced scenes: as many as pairs are ``wanted``, at most a tenth, at least one.

    Empty for a source that does not know its scenes, or has one.
    """
    groups: Any = getattr(source, "groups", None)
    starts = groups() if callable(groups) else ()
    count = len(starts) - 1
    if count < 2 or not wanted:
        return ()
    chosen = _spread(count, max(min(wanted, count // 10), 1))
    return tuple(frame for group in chosen for frame in range(int(starts[group]), int(starts[group + 1])))


def sized(sources: Sequence[PairSource], sizes: Sequence[tuple[int, int]]) -> list[PairSource]:
    """The same sources for images of ``sizes`` (H, W): a source that renders its images makes them no larger than
    needed.
    """
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
    """A source that gives images at any size."""

    def sized(self, short_side: int) -> Any:
        """The same pairs with images whose shorter side is ``short_side`` pixels."""


def _worlds(recipe: Recipe, world: int, device: str, rank: int, sources: int) -> PairSource:
    """Rendered worlds, one of ``sources``, with lanes of their own for every process (training and making batches).

    This holds for the recipe's number of workers; with other numbers the pairs are the same, but more worlds are built.
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
        per_world=recipe.per_world * sources,  # of these indices, the other sources take all but the recipe's number
        views=min(max(recipe.per_world // 2, _FEWEST_VIEWS), _MOST_VIEWS),
        batch=min(own),
        lanes=lanes,
        mixed=recipe.worlds_at_once,
    )


def _on_disk(name: str, path: str, cache: Path | None) -> PairSource:
    from dust3r_ros.training.datasets import open_set

    return open_set(name, path, cache)
