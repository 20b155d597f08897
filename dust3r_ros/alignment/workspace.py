"""One pass over a block of pixels: everything that a sweep needs from them, in planes that all blocks share."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from dust3r_ros.alignment.pixel_block import PixelBlock
from dust3r_ros.alignment.ray_middle import OVERSTEP, inverse_root, known_share, ray_middle
from dust3r_ros.types import Array, Array32

FIRST_ITERATIONS = 3  # for the depth of pixels that have none
_TINY = np.float32(1e-30)
_PLANES = 10
# Matrix products larger than this wake all threads of the BLAS library, each thread of ours all of them.
_PRODUCT = 200000


@dataclass(frozen=True, eq=False)
class Seen:
    """``cost`` (B, K): sum of w |r| of every sight; ``total`` (B, P), ``mean`` (B, 3, P): weight and weighted mean
    of what the sights say of a pixel, camera frame; ``depth`` (B, P): past the best along the ray for it by
    half a step; ``along`` (B, P): weight with which depth that is known counts along the ray, None without any.
    """

    cost: Array
    total: Array32
    mean: Array32
    depth: Array32
    along: Array32 | None = None


class Workspace:
    """Planes that passes share, one pass at a time."""

    def __init__(self) -> None:
        self._flat = np.empty(0, np.float32)

    def planes(self, count: int, size: int) -> Array32:
        """(count * size,) with anything in it; the next call takes it back."""
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
        """Weights of the unsquared norm, w / sqrt(|r|^2 + ``floor``^2), means under them and the depth they lead to.

        ``c_S_pair`` (B, K, 4, 4): frames of the pairs into those of the cameras. ``depth`` (B, P) along
        ``slopes`` (B, 2, P), where the pixels are now: at their ``ray_middle`` where None. ``known``: depth (B, P)
        and its squared deviation; it counts like a sight of mean weight whose residuals deviate as much.
        """
        seen, square, pull, weighted = self._parts(block)
        G = c_S_pair[:, :, :3].astype(np.float32)
        length = 1 + np.square(slopes).sum(axis=1)
        if depth is None:
            np.matmul(G, block.rows[:, :, :4], out=seen)
            root = np.sqrt(length)
            rays, spare = points_at(slopes, 1 / root), weighted.ravel()[: 2 * pull.size].reshape(2, *pull.shape)
            depth = ray_middle(seen, rays, block.weights, floor, spare, FIRST_ITERATIONS) / root
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

    def sums(self, block: PixelBlock, points: Array32) -> Array:
        """Sums over pixels that place a sight's pair on ``points`` (B, 3, P), under the weights of the last ``weigh``.

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
