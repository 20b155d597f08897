"""Pairs of a training set on disk: a frame by its index, its partner by how much both share."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.errors import InputError, OutputError
from dust3r_ros.io.files import make_folder
from dust3r_ros.training.datasets import listing
from dust3r_ros.training.datasets.layout import Layout
from dust3r_ros.training.datasets.listing import FrameRow, Listing, Part
from dust3r_ros.training.datasets.overlap import glance, overlaps
from dust3r_ros.training.views import TrainingView, ViewPair
from dust3r_ros.types import Array32

_log = logging.getLogger(__name__)
_PAIR = np.dtype([("first", "<u2"), ("second", "<u2"), ("overlap", "<f2")])
_LEAST_KEPT = 0.02  # pairs that share less are not written down
_REMEMBERED = 256  # groups


class PairFolder:
    """A pair source: every listed frame is the first view of one pair; its partner is drawn anew each time.

    Nothing but names is read before the first pair; then what each part holds is listed once, and which frames of a
    group overlap once the first pair of the group is asked for, both kept in the folder ``cache``. That folder may
    serve several sets, processes and machines. ``overlap``: least and most that two frames of a pair share.
    """

    def __init__(
        self, name: str, layout: Layout, root: Path, split: str, cache: Path, overlap: tuple[float, float],
        most_frames: int,
    ) -> None:  # fmt: skip
        self.name = name
        self._layout, self._root, self._split, self._cache = layout, root, split, cache
        self._parts = layout.parts(root, split)
        if not self._parts:
            raise InputError(
                f"'{root}' holds nothing of {name} to {'train' if split == 'train' else 'validate'} with; "
                f"'dust3r-train where {name}' says how it must lie"
            )
        self._overlap, self._most = overlap, most_frames
        self._listings: list[Listing] = []
        self._ends = np.zeros(0, np.int64)
        self._pairs: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._refused: dict[tuple[int, int], InputError] = {}
        self._unwritten = False

    def __getstate__(self) -> dict[str, Any]:
        """Without what is mapped or remembered, so that a worker process gets names only."""
        return {**self.__dict__, "_listings": [], "_pairs": OrderedDict()}

    def __len__(self) -> int:
        self._list()
        return int(self._ends[-1]) if len(self._ends) else 0

    def pair(self, index: int, rng: np.random.Generator) -> ViewPair:
        """Frame ``index`` of the set and one that shares with it what ``rng`` draws, even in the range of overlaps.

        A frame without a partner is replaced by one of its group that has one. Raises ``InputError`` naming the file
        that cannot be read, or the group no two frames of which overlap; ``IndexError`` beyond the end.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {self.name} is asked for; it has {len(self)}")
        at = int(np.searchsorted(self._ends, index, side="right"))
        found = self._listings[at]
        row = index - int(self._ends[at] - len(found.rows))
        group = found.group_of(row)
        pairs = self._pairs_of(at, group)
        if not len(pairs):
            name = bytes(found.rows[row]["group"]).decode()
            low, high = self._overlap
            raise InputError(
                f"no two frames of '{name}' of {self.name} in '{self._root}' share between {low:.0%} and {high:.0%} "
                "of a view; widen the range of overlaps, or leave it out"
            )
        start = int(found.starts[group])
        first, second = _drawn(pairs, row - start, self._overlap, rng)
        return self._pair(*(listing.frame_of(found.rows[start + place]) for place in (first, second)))

    def held_out(self) -> PairFolder | None:
        """The pairs that the set's makers keep to validate with; None where they keep none, or none are there."""
        if self._split == "val" or not self._layout.parts(self._root, "val"):
            return None
        return PairFolder(self.name, self._layout, self._root, "val", self._cache, self._overlap, self._most)

    def prepare(self, progress: Callable[[int, int], Any] | None = None) -> int:
        """List everything and measure all overlaps now; ``progress`` is told (groups done, groups). Number of pairs.

        Raises ``InputError`` for a part that cannot be listed; a group that cannot be read is left for later.
        """
        self._list()
        places = [(at, group) for at, found in enumerate(self._listings) for group in range(found.groups)]
        for done, (at, group) in enumerate(places, start=1):
            try:
                self._pairs_of(at, group)
            except InputError as error:
                _log.warning("%s: %s", self.name, error)
            if progress is not None:
                progress(done, len(places))
        return len(self)

    def _list(self) -> None:
        if self._listings:
            return
        found = []
        _log.info("%s: listing %d parts below '%s'", self.name, len(self._parts), self._root)
        for part in self._parts:
            digest = part.digest(self._root.resolve(), self._most, self._layout.version)
            path = self._cache / self.name / f"{part.name.replace('/', '+')}-{digest}.npy"
            make = partial(self._layout.frames, self._root, part, self._most)
            found.append(listing.listed(path, make, self._most))
        self._listings = found
        self._ends = np.cumsum([len(one.rows) for one in found])
        if not len(self._ends) or not self._ends[-1]:
            raise InputError(f"'{self._root}' holds no frame of {self.name} with image, pose and depth")

    def _pairs_of(self, at: int, group: int) -> np.ndarray:
        """The pairs of a group that share what is asked for."""
        if (at, group) in self._pairs:
            self._pairs.move_to_end((at, group))
            return self._pairs[at, group]
        path = self._listings[at].path.with_suffix("") / f"{group}.npy"
        pairs = listing.load(path)
        if pairs is None or pairs.dtype != _PAIR:
            pairs = self._measured(at, group)
            self._keep(path, pairs)
        low, high = self._overlap
        kept = np.array(pairs[(pairs["overlap"] >= low) & (pairs["overlap"] <= high)])
        self._pairs[at, group] = kept
        if len(self._pairs) > _REMEMBERED:
            self._pairs.popitem(last=False)
        return kept

    def _measured(self, at: int, group: int) -> np.ndarray:
        """All pairs of a group; of one that could not be read the reason is given again, without reading it again."""
        if (at, group) in self._refused:
            raise self._refused[at, group]
        try:
            return _packed(self._shared(self._parts[at], self._listings[at].group(group)))
        except InputError as error:
            self._refused[at, group] = error
            raise

    def _keep(self, path: Path, pairs: np.ndarray) -> None:
        """Write the pairs of a group down; where that fails, training goes on and the next run measures again."""
        try:
            make_folder(path.parent)
            listing.save(path, pairs)
        except OutputError as error:
            if not self._unwritten:
                _log.warning("%s: %s; the next run measures overlaps again", self.name, error)
            self._unwritten = True

    def _shared(self, part: Part, frames: list[FrameRow]) -> Array32:
        known = self._layout.shared(self._root, part, frames)
        if known is not None:
            return known
        glances, failed = [], []
        for frame in frames:
            try:
                depth = self._layout.depth(self._root, frame)
            except InputError as error:
                failed.append(error)
                depth = np.zeros((1, 1), np.float32)
            glances.append(glance(depth, frame.K, frame.w_T_c))
        # One file that is broken costs its pairs; most of them: the tree is.
        if len(failed) * 2 > len(frames):
            raise failed[0]
        for failure in failed:
            _log.warning("%s leaves a frame out: %s", self.name, failure)
        return overlaps(glances)

    def _pair(self, first: FrameRow, second: FrameRow) -> ViewPair:
        source = f"{self.name} '{self._root / first.image}' and '{second.image}'"
        pair = ViewPair(self._view(first), self._view(second), source)
        pair.check()
        return pair

    def _view(self, frame: FrameRow) -> TrainingView:
        image, depth = self._layout.view(self._root, frame)
        height, width = image.shape[:2]
        if frame.size not in ((0, 0), (width, height)):
            size = f"{frame.size[0]}x{frame.size[1]}"
            raise InputError(f"image '{self._root / frame.image}' is {width}x{height}; its camera is of {size}")
        if not depth.any():
            raise InputError(f"{self.name} image '{self._root / frame.image}' has no depth at any pixel")
        return TrainingView(image, depth, frame.K, frame.w_T_c)


def _packed(shared: Array32) -> np.ndarray:
    first, second = np.nonzero(np.triu(shared, 1) >= _LEAST_KEPT)
    pairs = np.empty(len(first), _PAIR)
    pairs["first"], pairs["second"], pairs["overlap"] = first, second, shared[first, second]
    return pairs


def _drawn(pairs: np.ndarray, place: int, overlap: tuple[float, float], rng: np.random.Generator) -> tuple[int, int]:
    """A pair with the frame at ``place``, or with one of those that have a partner."""
    target = rng.uniform(*overlap)
    if not ((pairs["first"] == place) | (pairs["second"] == place)).any():
        place = int(rng.choice(np.unique([pairs["first"], pairs["second"]])))
    mine = pairs[(pairs["first"] == place) | (pairs["second"] == place)]
    best = mine[np.abs(mine["overlap"].astype(np.float64) - target).argmin()]
    return place, int(best["first"] if best["second"] == place else best["second"])
