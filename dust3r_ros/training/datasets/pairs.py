"""Pairs of a training set on disk: a frame by its index, its partner by their overlap.

Overlap follows from depth: a point of one view is seen by the other if it projects into its image and is not behind the
surface there. Views are sampled coarsely, some hundred points each, so that all pairs of a scene cost less than reading
its depth. Where a set has a structure-from-motion model, the 3D points registered in both images give it without depth.
"""

from __future__ import annotations

import logging
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from dust3r_ros.errors import InputError, OutputError
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.io.files import make_folder
from dust3r_ros.layouts.reading import Description
from dust3r_ros.training.datasets import layout
from dust3r_ros.training.datasets.layout import SPLITS, FrameRow, Layout, Listing, Part
from dust3r_ros.training.views import TrainingView, ViewPair
from dust3r_ros.types import Array, Array32

_CELLS = 32  # of a view's longer side
_LEAST_CELLS = 0.05  # share of a view's cells that must hold depth
_SLACK = 0.05  # relative depth: tolerates errors of depth and pose, and a surface that recedes within a cell


@dataclass(frozen=True, eq=False)
class Glance:
    """A view sampled coarsely: a point of each cell with depth, (N, 3) in the world, and the range of depths (rows,
    columns) in each cell; ``near`` is infinite in empty cells. ``cell`` (pixels) is a cell's side.
    """

    points: Array
    near: Array32
    far: Array32
    cell: int
    K: Array
    w_T_c: Array
    width: int
    height: int


def glance(depth: Array32, K: Array, w_T_c: Array) -> Glance:
    """Sample a view with ``depth`` (H, W), 0 = none, K (3, 3) in its pixels, ``w_T_c`` (4, 4)."""
    height, width = depth.shape
    cell = max(-(-max(height, width) // _CELLS), 1)
    rows, columns = -(-height // cell), -(-width // cell)
    padded = np.zeros((rows * cell, columns * cell), np.float32)
    padded[:height, :width] = depth
    cells = padded.reshape(rows, cell, columns, cell).transpose(0, 2, 1, 3).reshape(rows, columns, cell * cell)
    known = cells > 0
    near = np.where(known, cells, np.float32(np.inf)).min(axis=2)
    # The point closest to the middle represents the cell.
    inner = np.arange(cell) - (cell - 1) / 2
    off = (inner[:, None] ** 2 + inner[None, :] ** 2).ravel()
    chosen = np.where(known, off.astype(np.float32), np.float32(np.inf)).argmin(axis=2)
    row, column = np.nonzero(known.any(axis=2))
    if len(row) < _LEAST_CELLS * rows * columns:
        row = column = row[:0]
    at = chosen[row, column]
    z = cells[row, column, at].astype(np.float64)
    pixels = np.stack([column * cell + at % cell, row * cell + at // cell, np.ones(len(at))], axis=-1)
    points = transform(w_T_c, (pixels @ np.linalg.inv(K).T) * z[:, None])
    return Glance(points, near, cells.max(axis=2), cell, K, w_T_c, width, height)


def overlaps(glances: Sequence[Glance]) -> Array32:
    """(N, N) overlaps of N views, symmetric, 0 to 1."""
    counts = np.array([len(view.points) for view in glances], np.int64)
    points = np.concatenate([view.points for view in glances]) if len(glances) else np.zeros((0, 3))
    owner = np.repeat(np.arange(len(glances)), counts)
    shared = np.zeros((len(glances), len(glances)))
    for j, view in enumerate(glances):
        if counts[j]:
            shared[:, j] = np.bincount(owner, _seen(view, points), minlength=len(glances))
    part = shared / np.maximum(counts, 1)[:, None]
    return np.minimum(part, part.T).astype(np.float32)


def _seen(view: Glance, points: Array) -> NDArray[np.bool_]:
    """(N,) which of the points the view sees."""
    camera = transform(invert(view.w_T_c), points)
    front = camera[:, 2] > 0
    projected = camera @ view.K.T
    uv = projected[:, :2] / np.where(front, projected[:, 2], 1.0)[:, None]
    inside = front & (uv >= -0.5).all(axis=1) & (uv[:, 0] < view.width - 0.5) & (uv[:, 1] < view.height - 0.5)
    column, row = (np.floor((uv[inside] + 0.5) / view.cell).astype(np.int64)).T
    z = camera[inside, 2]
    fits = (z >= (1 - _SLACK) * view.near[row, column]) & (z <= (1 + _SLACK) * view.far[row, column])
    seen = np.zeros(len(points), bool)
    seen[inside] = fits
    return seen


def shared_points(seen: Sequence[NDArray[np.uint64]]) -> Array32:
    """(N, N) overlaps of N images, from the ids of their registered 3D points; 1 on the diagonal."""
    counts = np.array([len(np.unique(points)) for points in seen])
    if not counts.sum():
        return np.zeros((len(seen), len(seen)), np.float32)
    numbers, place = np.unique(np.concatenate([np.unique(points) for points in seen]), return_inverse=True)
    image = np.repeat(np.arange(len(seen)), counts)
    incidence = csr_matrix((np.ones(len(place), np.float32), (image, place)), shape=(len(seen), len(numbers)))
    both = (incidence @ incidence.T).toarray()
    return np.asarray(both / np.maximum(np.maximum(counts[:, None], counts[None, :]), 1), np.float32)


@dataclass(frozen=True)
class TrainingSet(Description):
    """A published training set; ``reader`` reads its files."""

    reader: Layout

    def open(
        self, path: str | Path, cache: str | Path, *, split: str = "train", overlap: tuple[float, float] | None = None,
        most_frames: int | None = None,
    ) -> PairFolder:  # fmt: skip
        """The pairs of a split below ``path``; listings and overlaps are stored below ``cache``.

        ``overlap``: least and most that two views share; ``most_frames`` are used of a recording; None: the reader's
        defaults. Raises ``InputError`` for a folder without data of the set, or an invalid range.
        """
        root = Path(path)
        if split not in SPLITS:
            raise InputError(f"split '{split}' of {self.name} is not known; {' and '.join(SPLITS)} are")
        low, high = self.reader.overlap if overlap is None else overlap
        if not 0 <= low < high <= 1:
            raise InputError(f"overlap of {self.name} is {low} to {high}; it must rise, between 0 and 1")
        most = self.reader.most_frames if most_frames is None else most_frames
        if not 2 <= most <= 65535:
            raise InputError(f"{most} frames of a recording of {self.name}; it must be 2 to 65535")
        if not root.is_dir():
            raise InputError(f"'{root}' is not a folder; it must hold {self.name} ('dust3r-train where {self.name}')")
        return PairFolder(self.name, self.reader, root, split, Path(cache), (low, high), most)


_log = logging.getLogger(__name__)
_PAIR = np.dtype([("first", "<u2"), ("second", "<u2"), ("overlap", "<f2")])
_LEAST_KEPT = 0.02  # pairs that share less are not stored
_REMEMBERED = 256  # groups


class PairFolder:
    """A pair source: every listed frame is the first view of one pair; its partner is drawn each time.

    Only names are read before the first pair. Then each part is listed once, and a group's overlaps are measured when
    its first pair is asked for; both are stored in the folder ``cache``, which may serve several sets, processes and
    machines. ``overlap``: least and most that two frames of a pair share.
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
                f"'dust3r-train where {name}' prints the expected directory layout"
            )
        self._overlap, self._most = overlap, most_frames
        self._listings: list[Listing] = []
        self._ends = np.zeros(0, np.int64)
        self._pairs: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._refused: dict[tuple[int, int], InputError] = {}
        self._unwritten = False

    def __getstate__(self) -> dict[str, Any]:
        """State without mapped or cached data, so that a worker process gets names only."""
        return {**self.__dict__, "_listings": [], "_pairs": OrderedDict()}

    def __len__(self) -> int:
        self._list()
        return int(self._ends[-1]) if len(self._ends) else 0

    def groups(self) -> np.ndarray:
        """(S + 1,) int64 where the frames of each scene begin, and where those of the last end."""
        self._list()
        starts, before = [], None
        for end, found in zip(self._ends, self._listings, strict=True):
            for start in found.starts[:-1]:
                scene = self._layout.scene(bytes(found.rows[start]["group"]).decode())
                if scene != before:
                    starts.append(end - len(found.rows) + start)
                before = scene
        return np.array([*starts, self._ends[-1]], np.int64)

    def digest(self) -> str:
        """Eight hexadecimal digits that depend on the frames and their order."""
        self._list()
        crc = 0
        for found in self._listings:
            crc = zlib.crc32(found.rows.tobytes(), crc)
        return f"{crc:08x}"

    def pair(self, index: int, rng: np.random.Generator) -> ViewPair:
        """Frame ``index`` of the set and a partner with an overlap drawn uniformly from the range.

        A frame without a partner is replaced by one of its group that has one. Raises ``InputError`` naming an
        unreadable file, or a group without overlapping frames; ``IndexError`` beyond the end.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {self.name} does not exist; it has {len(self)}")
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
        return self._pair(*(layout.frame_of(found.rows[start + place]) for place in (first, second)))

    def held_out(self) -> PairFolder | None:
        """The set's official validation pairs; None if it has none, or they are not on disk."""
        if self._split == "val" or not self._layout.parts(self._root, "val"):
            return None
        return PairFolder(self.name, self._layout, self._root, "val", self._cache, self._overlap, self._most)

    def prepare(self, progress: Callable[[int, int], Any] | None = None) -> int:
        """List everything and measure all overlaps now; ``progress`` gets (groups done, groups). Returns the number of
        pairs.

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
            found.append(layout.listed(path, make, self._most))
        self._listings = found
        self._ends = np.cumsum([len(one.rows) for one in found])
        if not len(self._ends) or not self._ends[-1]:
            raise InputError(f"'{self._root}' holds no frame of {self.name} with image, pose and depth")

    def _pairs_of(self, at: int, group: int) -> np.ndarray:
        """The pairs of a group within the range of overlaps."""
        if (at, group) in self._pairs:
            self._pairs.move_to_end((at, group))
            return self._pairs[at, group]
        path = self._listings[at].path.with_suffix("") / f"{group}.npy"
        pairs = layout.load(path)
        if pairs is None or pairs.dtype != _PAIR:
            pairs, whole = self._measured(at, group)
            if whole:
                self._keep(path, pairs)
        low, high = self._overlap
        kept = np.array(pairs[(pairs["overlap"] >= low) & (pairs["overlap"] <= high)])
        self._pairs[at, group] = kept
        if len(self._pairs) > _REMEMBERED:
            self._pairs.popitem(last=False)
        return kept

    def _measured(self, at: int, group: int) -> tuple[np.ndarray, bool]:
        """All pairs of a group, and whether every frame could be read; for an unreadable group the stored error is
        raised again.
        """
        if (at, group) in self._refused:
            raise self._refused[at, group]
        try:
            shared, whole = self._shared(self._parts[at], self._listings[at].group(group))
            return _packed(shared), whole
        except InputError as error:
            self._refused[at, group] = error
            raise

    def _keep(self, path: Path, pairs: np.ndarray) -> None:
        """Store the pairs of a group; if that fails, training continues and the next run measures again."""
        try:
            make_folder(path.parent)
            layout.save(path, pairs)
        except OutputError as error:
            if not self._unwritten:
                _log.warning("%s: %s; the next run measures overlaps again", self.name, error)
            self._unwritten = True

    def _shared(self, part: Part, frames: list[FrameRow]) -> tuple[Array32, bool]:
        """(N, N) overlaps of the frames, and whether every frame could be read."""
        known = self._layout.shared(self._root, part, frames)
        if known is not None:
            return known, True
        glances, failed = [], []
        for frame in frames:
            try:
                depth = self._layout.depth(self._root, frame)
            except InputError as error:
                failed.append(error)
                depth = np.zeros((1, 1), np.float32)
            glances.append(glance(depth, frame.K, frame.w_T_c))
        # One broken file loses its pairs; if most are broken, the tree is.
        if len(failed) * 2 > len(frames):
            raise failed[0]
        for failure in failed:
            _log.warning("%s leaves a frame out: %s", self.name, failure)
        return overlaps(glances), not failed

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
            raise InputError(f"image '{self._root / frame.image}' is {width}x{height}; its camera is {size}")
        if not depth.any():
            raise InputError(f"{self.name} image '{self._root / frame.image}' has no depth at any pixel")
        return TrainingView(image, depth, frame.K, frame.w_T_c)


def _packed(shared: Array32) -> np.ndarray:
    first, second = np.nonzero(np.triu(shared, 1) >= _LEAST_KEPT)
    pairs = np.empty(len(first), _PAIR)
    pairs["first"], pairs["second"], pairs["overlap"] = first, second, shared[first, second]
    return pairs


def _drawn(pairs: np.ndarray, place: int, overlap: tuple[float, float], rng: np.random.Generator) -> tuple[int, int]:
    """A pair with the frame at ``place``, or else with one that has a partner."""
    target = rng.uniform(*overlap)
    if not ((pairs["first"] == place) | (pairs["second"] == place)).any():
        place = int(rng.choice(np.unique([pairs["first"], pairs["second"]])))
    mine = pairs[(pairs["first"] == place) | (pairs["second"] == place)]
    best = mine[np.abs(mine["overlap"].astype(np.float64) - target).argmin()]
    return place, int(best["first"] if best["second"] == place else best["second"])
