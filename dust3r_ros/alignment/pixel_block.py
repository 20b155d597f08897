"""All that the pairs say of some images at sampled pixels, as planes on which NumPy works in long rows.

A *sight* is one view of one pair: sight k of image b predicts a point X, in the frame of its pair, for
every pixel of b. Images of one size stand in one block; one with fewer sights than the others of its
block is filled up with sights of weight 0. An image whose planes would leave the cache is cut by rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.types import Array32, PairPrediction

Sight = tuple[int, int]
"""Position in the pairs, view 0 or 1."""
Place = tuple[slice, slice] | tuple[NDArray[np.int64], NDArray[np.int64]]

# Numbers in a plane of a block: fewer cost more in calls, more leave the cache.
PLANE = 100000


def sights_of(pairs: Sequence[PairPrediction], images: int) -> list[list[Sight]]:
    """The sights of each image."""
    found: list[list[Sight]] = [[] for _ in range(images)]
    for edge, pair in enumerate(pairs):
        found[pair.first].append((edge, 0))
        found[pair.second].append((edge, 1))
    return found


def view_of(pairs: Sequence[PairPrediction], sight: Sight) -> tuple[Array32, Array32]:
    """Points (H, W, 3) and confidence (H, W) of a sight."""
    pair = pairs[sight[0]]
    if sight[1] == 0:
        return pair.points_first, pair.confidence_first
    return pair.points_second, pair.confidence_second


class PixelBlock:
    """P pixels of B images in up to K sights each.

    ``images`` (B,); ``edges``, ``views`` (B, K) name the sights, view -1 where there is none; ``pixels``
    (2, P) are offsets from the image's middle; ``rows`` (B, K, 5, P): the points X as [X, 1, |X|^2]; ``weights``
    (B, K, P) = log confidence. ``at``, rows and columns: two slices, whose grid is taken, or two arrays (P,).
    """

    def __init__(
        self,
        pairs: Sequence[PairPrediction],
        images: Sequence[int],
        sights: Sequence[Sequence[Sight]],
        shape: tuple[int, int],
        at: Place,
    ) -> None:
        v, u = np.arange(shape[0])[at[0]], np.arange(shape[1])[at[1]]
        if isinstance(at[0], slice):
            v, u = (grid.ravel() for grid in np.meshgrid(v, u, indexing="ij"))
        count = max(len(sights[image]) for image in images)
        self.images = np.array(images)
        self.edges = np.zeros((len(images), count), dtype=np.int64)
        self.views = np.full((len(images), count), -1)
        self.pixels: Array32 = np.stack([u - (shape[1] - 1) / 2, v - (shape[0] - 1) / 2]).astype(np.float32)
        found = np.ones((len(images), count, 5, len(u)), np.float32)
        weights = np.empty((len(images), count, len(u)), np.float32)
        for b, image in enumerate(images):
            for k, sight in enumerate(sights[image]):
                self.edges[b, k], self.views[b, k] = sight
                X, C = view_of(pairs, sight)
                found[b, k, :3] = X[at].reshape(-1, 3).T
                weights[b, k] = C[at].ravel()
            found[b, len(sights[image]) :, :3], weights[b, len(sights[image]) :] = 0.0, 1.0
        self.rows: Array32 = found
        np.einsum("bkcp,bkcp->bkp", self.rows[:, :, :3], self.rows[:, :, :3], out=self.rows[:, :, 4])
        self.weights: Array32 = np.log(weights)

    @classmethod
    def of_image(cls, image: int, blocks: Sequence[PixelBlock]) -> PixelBlock:
        """All that ``blocks``, of the same sights, hold of one image."""
        places = [(block, int(b)) for block in blocks for b in np.flatnonzero(block.images == image)]
        first, its = places[0]
        there = first.views[its] >= 0  # sights come first, what fills them up last
        whole = cls.__new__(cls)
        whole.images = np.array([image])
        whole.edges, whole.views = first.edges[its, there][None], first.views[its, there][None]
        whole.pixels = np.concatenate([block.pixels for block, _ in places], axis=-1)
        count = int(there.sum())
        whole.rows = np.concatenate([block.rows[b : b + 1, :count] for block, b in places], axis=-1)
        whole.weights = np.concatenate([block.weights[b : b + 1, :count] for block, b in places], axis=-1)
        return whole

    @property
    def points(self) -> Array32:
        """(3, B, K, P) a view of the points."""
        return np.moveaxis(self.rows[:, :, :3], 2, 0)

    def at(self, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(P,) columns and rows of the pixels in an image of the block's ``shape`` (H, W)."""
        u, v = (self.pixels + (np.array(shape)[::-1, None] - 1) / 2).round().astype(np.int64)
        return u, v

    def itself(self) -> PixelBlock:
        """This block, as a ``BlockMaker`` would give it."""
        return self

    def switch(self, on: NDArray[np.bool_]) -> None:
        """Sights of edges that are not ``on`` (E,) weigh nothing from here."""
        self.weights[~on[self.edges]] = 0.0

    def slopes(self, focals: NDArray[np.float64]) -> Array32:
        """(B, 2, P) x / z of the pixels, for focals (N,) of all images."""
        return (self.pixels / focals[self.images, None, None]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class BlockMaker:
    """Makes a block when it is its turn: a pass over all pixels holds one block a thread."""

    pairs: Sequence[PairPrediction]
    images: Sequence[int]
    sights: Sequence[Sequence[Sight]]
    shape: tuple[int, int]
    at: Place

    def __call__(self) -> PixelBlock:
        """The block."""
        return PixelBlock(self.pairs, self.images, self.sights, self.shape, self.at)


def plan_blocks(
    pairs: Sequence[PairPrediction],
    sights: Sequence[Sequence[Sight]],
    shapes: Sequence[tuple[int, int]],
    stride: int,
    plane: int = PLANE,
) -> list[BlockMaker]:
    """Blocks with every ``stride``-th row and column of all images."""
    order = sorted(range(len(shapes)), key=lambda image: (shapes[image], len(sights[image])))
    makers, start = [], 0
    for end in range(1, len(order) + 1):
        height, width = shapes[order[start]]
        rows, columns = np.arange(height)[_sampled(height, stride)], len(range(width)[_sampled(width, stride)])
        alike = end < len(order) and shapes[order[end]] == (height, width)
        if alike and (end + 1 - start) * len(sights[order[end]]) * len(rows) * columns <= plane:
            continue
        some = max(1, plane // ((end - start) * len(sights[order[end - 1]]) * columns))
        for part in np.array_split(rows, -(-len(rows) // some)):
            at = slice(int(part[0]), int(part[-1]) + 1, stride), _sampled(width, stride)
            makers.append(BlockMaker(pairs, order[start:end], sights, (height, width), at))
        start = end
    return makers


def plan_missed(
    pairs: Sequence[PairPrediction],
    sights: Sequence[Sequence[Sight]],
    shapes: Sequence[tuple[int, int]],
    blocks: Sequence[PixelBlock],
    least: int,
) -> list[BlockMaker]:
    """A block of each image that has sights with fewer than ``least`` confident pixels in ``blocks``, though they have
    more: of each of these, as many of its confident pixels, evenly picked, as bring it there.
    """
    seen = np.zeros((len(pairs), 2), dtype=int)
    for block in blocks:
        there = block.views >= 0
        np.add.at(seen, (block.edges[there], block.views[there]), np.count_nonzero(block.weights > 0, axis=2)[there])
    makers = []
    for image, (its, shape) in enumerate(zip(sights, shapes, strict=True)):
        more = [np.zeros(0, np.int64)]
        for sight in its:
            if seen[sight] < least:
                confident = np.flatnonzero(view_of(pairs, sight)[1] > 1)
                more.append(confident[:: max(1, len(confident) // (least - seen[sight]))])
        picked = np.unique(np.concatenate(more))
        if len(picked):
            makers.append(BlockMaker(pairs, [image], sights, shape, (picked // shape[1], picked % shape[1])))
    return makers


def _sampled(size: int, stride: int) -> slice:
    return slice(min(stride // 2, size - 1), None, stride)
