"""Pairs to train on from rendered worlds: endless, exact, decided by seed and index.

Building a world costs as much as rendering some twenty views, so pairs that come after one another share worlds.
Ask for indices in order, or nearly: an index far away builds another world.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.scenes.endless.album import Album
from dust3r_ros.scenes.endless.photography import draw_exposure, photograph
from dust3r_ros.training.views import TrainingView, ViewPair

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
