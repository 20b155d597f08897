"""All that the pairs say about some images at sampled pixels, as planes that NumPy processes in long rows.

An *observation* is one view of one pair: observation k of image b predicts a point X, in the frame of its pair, for
every pixel of b. Images of one size share a block; an image with fewer observations than the others in its
block is padded with observations of weight 0. An image whose planes would not fit the cache is split by rows.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.batch.ray_median import OVERSTEP, inverse_root, known_share, ray_median
from dust3r_ros.types import Array, Array32, PairPrediction

FIRST_ITERATIONS = 3  # depth for pixels without one
_TINY = np.float32(1e-30)
_PLANES = 10
# A larger matrix product would wake all BLAS threads, once from each of our own threads.
_PRODUCT = 200000


@dataclass(frozen=True, eq=False)
class Seen:
    """``cost`` (B, K): sum of w |r| of each observation; ``total`` (B, P), ``mean`` (B, 3, P): weight and weighted mean
    of the points observed for a pixel, camera frame; ``depth`` (B, P): half a step beyond the best along its ray;
    ``along`` (B, P): weight of known depth along the ray, None without any.
    """

    cost: Array
    total: Array32
    mean: Array32
    depth: Array32
    along: Array32 | None = None


class Workspace:
    """Scratch planes shared by passes, one pass at a time."""

    def __init__(self) -> None:
        self._flat = np.empty(0, np.float32)

    def planes(self, count: int, size: int) -> Array32:
        """(count * size,) uninitialised; valid until the next call."""
        if len(self._flat) < count * size:
            self._flat = np.empty(count * size, np.float32)
        return self._flat[: count * size]

    def weigh(
        self,
        block: PixelBlock,
        c_S_pair: Array,
        slopes: Array32,
        depth: Array32 | None,
        floor: float,
        known: tuple[Array32, Array32] | None = None,
    ) -> Seen:
        """Weights of the unsquared norm, w / sqrt(|r|^2 + ``floor``^2), the means under them and the resulting depth.

        ``c_S_pair`` (B, K, 4, 4) maps the frames of the pairs into those of the cameras. ``depth`` (B, P) along
        ``slopes`` (B, 2, P): the current depth of the pixels; None takes their ``ray_median``. ``known``: depth (B, P)
        and its squared deviation; it counts like an observation of mean weight whose residuals deviate as much.
        """
        seen, square, pull, weighted = self._parts(block)
        G = c_S_pair[:, :, :3].astype(np.float32)
        length = 1 + np.square(slopes).sum(axis=1)
        if depth is None:
            depth = self._middle(block, G, slopes, np.sqrt(length), floor)
            if known is not None:
                depth = np.where(known[0] > 0, known[0], depth)
        np.matmul(G, block.rows[:, :, :4], out=seen)
        away = weighted.ravel()[: seen.size].reshape(seen.shape)
        np.subtract(seen, points_at(slopes, depth)[:, None], out=away)
        np.einsum("bkcp,bkcp->bkp", away, away, out=square)
        square += np.float32(floor * floor)
        inverse_root(square, out=pull)
        pull *= block.weights
        cost = np.einsum("bkp,bkp->bk", square, pull).astype(np.float64)
        np.multiply(block.rows, pull[:, :, None], out=weighted)
        total = pull.sum(axis=1)
        mean = np.stack([np.einsum("bkp,bkp->bp", pull, seen[:, :, axis]) for axis in range(3)], axis=1)
        mean /= np.maximum(total, _TINY)[:, None]
        best = (slopes[:, 0] * mean[:, 0] + slopes[:, 1] * mean[:, 1] + mean[:, 2]) / length
        if known is None:
            return Seen(cost, total, mean, depth + OVERSTEP * (best - depth))
        share = known_share(total, block.weights, known[1], floor)
        best += share * (known[0] - best)
        depth = depth + (OVERSTEP + share * (1 - OVERSTEP)) * (best - depth)
        return Seen(cost, total, mean, depth, share * total)

    def _middle(self, block: PixelBlock, G: Array32, slopes: Array32, root: Array32, floor: float) -> Array32:
        """(B, P) depth at the ``ray_median`` of the observed points, along rays of length ``root`` (B, P)."""
        seen, _, pull, weighted = self._parts(block)
        np.matmul(G, block.rows[:, :, :4], out=seen)
        rays, spare = points_at(slopes, np.float32(1) / root), weighted.ravel()[: 2 * pull.size].reshape(2, *pull.shape)
        return ray_median(seen, rays, block.weights, floor, spare, FIRST_ITERATIONS) / root

    def sums(self, block: PixelBlock, points: Array32) -> Array:
        """Sums over pixels that place an observation's pair on ``points`` (B, 3, P), by the last weights of ``weigh``.

        (B, K, 5, 4): of weight * [X, 1, |X|^2] [point, 1]^T.
        """
        weighted = self._parts(block)[3]
        images, count, _, pixels = weighted.shape
        target = np.ones((images, 4, pixels), np.float32)
        target[:, :3] = points
        found = np.empty((images, 4, count, 5), np.float32)
        some = max(1, _PRODUCT // (20 * pixels))
        for low in range(0, count, some):
            part = weighted[:, low : low + some].reshape(images, -1, pixels)
            found[:, :, low : low + some] = (target @ np.swapaxes(part, 1, 2)).reshape(images, 4, -1, 5)
        return np.moveaxis(found, 1, 3).astype(np.float64)

    def _parts(self, block: PixelBlock) -> tuple[Array32, Array32, Array32, Array32]:
        """(B, K, 3, P) for points, twice (B, K, P), and (B, K, 5, P) for weighted rows."""
        images, count, pixels = block.weights.shape
        size = block.weights.size
        points, square, pull, weighted = np.split(self.planes(_PLANES, size), [3 * size, 4 * size, 5 * size])
        plane = images, count, pixels
        return (
            points.reshape(images, count, 3, pixels),
            square.reshape(plane),
            pull.reshape(plane),
            weighted.reshape(images, count, 5, pixels),
        )


_local = threading.local()


def workspace() -> Workspace:
    """One per thread."""
    if not hasattr(_local, "space"):
        _local.space = Workspace()
    space: Workspace = _local.space
    return space


def points_at(slopes: Array32, depth: Array32) -> Array32:
    """(B, 3, P) points at ``depth`` (B, P) along ``slopes`` (B, 2, P)."""
    points = np.empty((len(depth), 3, depth.shape[1]), np.float32)
    np.multiply(slopes, depth[:, None], out=points[:, :2])
    points[:, 2] = depth
    return points


Observation = tuple[int, int]
"""Position in the pairs, view 0 or 1."""
Place = tuple[slice, slice] | tuple[NDArray[np.int64], NDArray[np.int64]]

# Numbers in a plane of a block: fewer cost more in calls, more do not fit the cache.
PLANE = 100000


def observations_of(pairs: Sequence[PairPrediction], images: int) -> list[list[Observation]]:
    """The observations of each image."""
    found: list[list[Observation]] = [[] for _ in range(images)]
    for edge, pair in enumerate(pairs):
        found[pair.first].append((edge, 0))
        found[pair.second].append((edge, 1))
    return found


def view_of(pairs: Sequence[PairPrediction], observation: Observation) -> tuple[Array32, Array32]:
    """Points (H, W, 3) and confidence (H, W) of an observation."""
    pair = pairs[observation[0]]
    if observation[1] == 0:
        return pair.points_first, pair.confidence_first
    return pair.points_second, pair.confidence_second


class PixelBlock:
    """P pixels of B images in up to K observations each.

    ``images`` (B,); ``edges``, ``views`` (B, K) name the observations, view -1 for padding; ``pixels``
    (2, P) are offsets from the image centre; ``rows`` (B, K, 5, P): the points X as [X, 1, |X|^2]; ``weights``
    (B, K, P) = log confidence. ``at``: rows and columns, as two slices that span a grid or two arrays (P,).
    """

    def __init__(
        self,
        pairs: Sequence[PairPrediction],
        images: Sequence[int],
        observations: Sequence[Sequence[Observation]],
        shape: tuple[int, int],
        at: Place,
    ) -> None:
        v, u = np.arange(shape[0])[at[0]], np.arange(shape[1])[at[1]]
        if isinstance(at[0], slice):
            v, u = (grid.ravel() for grid in np.meshgrid(v, u, indexing="ij"))
        count = max(len(observations[image]) for image in images)
        self.images = np.array(images)
        self.edges = np.zeros((len(images), count), dtype=np.int64)
        self.views = np.full((len(images), count), -1)
        self.pixels: Array32 = np.stack([u - (shape[1] - 1) / 2, v - (shape[0] - 1) / 2]).astype(np.float32)
        found = np.ones((len(images), count, 5, len(u)), np.float32)
        weights = np.empty((len(images), count, len(u)), np.float32)
        for b, image in enumerate(images):
            for k, observation in enumerate(observations[image]):
                self.edges[b, k], self.views[b, k] = observation
                X, C = view_of(pairs, observation)
                found[b, k, :3] = X[at].reshape(-1, 3).T
                weights[b, k] = C[at].ravel()
            found[b, len(observations[image]) :, :3], weights[b, len(observations[image]) :] = 0.0, 1.0
        self.rows: Array32 = found
        np.einsum("bkcp,bkcp->bkp", self.rows[:, :, :3], self.rows[:, :, :3], out=self.rows[:, :, 4])
        self.weights: Array32 = np.log(weights)

    @classmethod
    def of_image(cls, image: int, blocks: Sequence[PixelBlock]) -> PixelBlock:
        """The part of ``blocks``, of the same observations, that belongs to one image."""
        places = [(block, int(b)) for block in blocks for b in np.flatnonzero(block.images == image)]
        first, its = places[0]
        there = first.views[its] >= 0  # real observations first, padding last
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
        """(3, B, K, P) view of the points."""
        return np.moveaxis(self.rows[:, :, :3], 2, 0)

    def at(self, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(P,) columns and rows of the pixels in an image of the block's ``shape`` (H, W)."""
        u, v = (self.pixels + (np.array(shape)[::-1, None] - 1) / 2).round().astype(np.int64)
        return u, v

    def itself(self) -> PixelBlock:
        """Return this block, as a ``BlockMaker`` would."""
        return self

    def switch(self, on: NDArray[np.bool_]) -> None:
        """Give observations of edges that are not ``on`` (E,) no weight from here on."""
        self.weights[~on[self.edges]] = 0.0

    def slopes(self, focals: NDArray[np.float64]) -> Array32:
        """(B, 2, P) x / z and y / z of the pixels, for focals (N,) of all images."""
        return (self.pixels / focals[self.images, None, None]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class BlockMaker:
    """Makes a block when its turn comes, so that a pass over all pixels holds only one block per thread."""

    pairs: Sequence[PairPrediction]
    images: Sequence[int]
    observations: Sequence[Sequence[Observation]]
    shape: tuple[int, int]
    at: Place

    def __call__(self) -> PixelBlock:
        """The block."""
        return PixelBlock(self.pairs, self.images, self.observations, self.shape, self.at)


def plan_blocks(
    pairs: Sequence[PairPrediction],
    observations: Sequence[Sequence[Observation]],
    shapes: Sequence[tuple[int, int]],
    stride: int,
    plane: int = PLANE,
) -> list[BlockMaker]:
    """Blocks with every ``stride``-th row and column of all images."""
    order = sorted(range(len(shapes)), key=lambda image: (shapes[image], len(observations[image])))
    makers, start = [], 0
    for end in range(1, len(order) + 1):
        height, width = shapes[order[start]]
        rows, columns = np.arange(height)[_sampled(height, stride)], len(range(width)[_sampled(width, stride)])
        alike = end < len(order) and shapes[order[end]] == (height, width)
        if alike and (end + 1 - start) * len(observations[order[end]]) * len(rows) * columns <= plane:
            continue
        some = max(1, plane // ((end - start) * len(observations[order[end - 1]]) * columns))
        for part in np.array_split(rows, -(-len(rows) // some)):
            at = slice(int(part[0]), int(part[-1]) + 1, stride), _sampled(width, stride)
            makers.append(BlockMaker(pairs, order[start:end], observations, (height, width), at))
        start = end
    return makers


def plan_missed(
    pairs: Sequence[PairPrediction],
    observations: Sequence[Sequence[Observation]],
    shapes: Sequence[tuple[int, int]],
    blocks: Sequence[PixelBlock],
    least: int,
) -> list[BlockMaker]:
    """A block for each image with observations that have fewer than ``least`` confident pixels in ``blocks`` but more
    in all: evenly picked confident pixels, enough to bring each such observation to ``least``.
    """
    seen = np.zeros((len(pairs), 2), dtype=int)
    for block in blocks:
        there = block.views >= 0
        np.add.at(seen, (block.edges[there], block.views[there]), np.count_nonzero(block.weights > 0, axis=2)[there])
    makers = []
    for image, (its, shape) in enumerate(zip(observations, shapes, strict=True)):
        more = [np.zeros(0, np.int64)]
        for observation in its:
            if seen[observation] < least:
                confident = np.flatnonzero(view_of(pairs, observation)[1] > 1)
                more.append(confident[:: max(1, len(confident) // (least - seen[observation]))])
        picked = np.unique(np.concatenate(more))
        if len(picked):
            makers.append(BlockMaker(pairs, [image], observations, shape, (picked // shape[1], picked % shape[1])))
    return makers


def _sampled(size: int, stride: int) -> slice:
    return slice(min(stride // 2, size - 1), None, stride)
