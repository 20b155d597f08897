"""One pass over a block of pixels: everything that a sweep needs from them, in planes that all blocks share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dust3r_ros.alignment.pixel_block import PixelBlock
from dust3r_ros.types import Array, Array32

# Re-weighted least squares majorises the distance; along the ray a step of nearly twice the length
# still descends, and halves the number of sweeps.
OVERSTEP = np.float32(1.5)
_TINY = np.float32(1e-30)
_PLANES = 9


@dataclass(frozen=True, eq=False)
class Seen:
    """``cost`` (B, K): sum of w |r| of every sight; ``total`` (B, P), ``mean`` (3, B, P): weight and weighted mean
    of what the sights say of a pixel, camera frame; ``depth`` (B, P): past the best along the ray for it by
    half a step.
    """

    cost: Array
    total: Array32
    mean: Array32
    depth: Array32


class Workspace:
    """Planes that passes share, one pass at a time."""

    def __init__(self) -> None:
        self._flat = np.empty(0, np.float32)

    def weigh(
        self,
        block: PixelBlock,
        c_S_pair: Array,
        slopes: Array32,
        depth: Array32 | None,
        floor: float,
        iterations: int = 1,
    ) -> Seen:
        """Weights of the unsquared norm, w / max(|r|, ``floor``), means under them and the depth they lead to.

        ``c_S_pair`` (B, K, 4, 4): frames of the pairs into those of the cameras. ``depth`` (B, P) along
        ``slopes`` (2, B, P), with which the iterations start: the confidence-weighted mean where None.
        """
        seen, pull, _ = self._planes(block)
        self._place(block, c_S_pair)
        if depth is None:
            total = np.maximum(np.einsum("bkp->bp", block.weights), _TINY)
            depth = np.einsum("bkp,bkp->bp", seen[2], block.weights) / total
        square = 1 + slopes[0] ** 2 + slopes[1] ** 2
        for iteration in range(iterations):
            self._distances(block, slopes, depth)
            np.maximum(pull, np.float32(floor), out=pull)
            if iteration == iterations - 1:
                cost = np.einsum("bkp,bkp->bk", block.weights, pull).astype(np.float64)
            np.divide(block.weights, pull, out=pull)
            total = np.einsum("bkp->bp", pull)
            mean = np.einsum("bkp,cbkp->cbp", pull, seen)
            mean /= np.maximum(total, _TINY)
            best = (slopes[0] * mean[0] + slopes[1] * mean[1] + mean[2]) / square
            depth = depth + OVERSTEP * (best - depth)
        return Seen(cost, total, mean, depth)

    def sums(self, block: PixelBlock, points: Array32) -> tuple[Array, Array]:
        """Sums over pixels that place a sight's pair on ``points`` (3, B, P), under the weights of the last ``weigh``.

        (B, K, 4, 4): of weight * [X, 1] [point, 1]^T; (B, K): of weight * |X|^2.
        """
        images, count, pixels = block.weights.shape
        _, pull, _ = self._planes(block)
        weighted = self._flat[5 * pull.size : 9 * pull.size].reshape(images, count, 4, pixels)
        target = np.ones((images, 1, pixels, 4), np.float32)
        target[:, 0, :, :3] = np.moveaxis(points, 0, 2)
        for axis in range(3):
            np.multiply(block.points[axis], pull, out=weighted[:, :, axis])
        weighted[:, :, 3] = pull
        squares = np.einsum("bkcp,cbkp->bk", weighted[:, :, :3], block.points)
        # One small product per sight: a single large one would wake all threads of the BLAS library.
        return (weighted @ target).astype(np.float64), squares.astype(np.float64)

    def _planes(self, block: PixelBlock) -> tuple[Array32, Array32, Array32]:
        """Three planes of points, one of weights and one for anything, each (B, K, P)."""
        size = block.weights.size
        if len(self._flat) < _PLANES * size:
            self._flat = np.empty(_PLANES * size, np.float32)
        planes = self._flat[: 5 * size].reshape(5, *block.weights.shape)
        return planes[:3], planes[3], planes[4]

    def _place(self, block: PixelBlock, c_S_pair: Array) -> None:
        seen, _, buffer = self._planes(block)
        G = c_S_pair.astype(np.float32)[..., None]
        for row, target in enumerate(seen):
            np.multiply(block.points[0], G[:, :, row, 0], out=target)
            for column in (1, 2):
                np.multiply(block.points[column], G[:, :, row, column], out=buffer)
                target += buffer
            target += G[:, :, row, 3]

    def _distances(self, block: PixelBlock, slopes: Array32, depth: Array32) -> None:
        """Of what is seen from the points at ``depth``, into the plane of weights."""
        seen, pull, buffer = self._planes(block)
        for axis in range(3):
            target = pull if axis == 0 else buffer
            point = depth if axis == 2 else slopes[axis] * depth
            np.subtract(seen[axis], point[:, None], out=target)
            np.multiply(target, target, out=target)
            if axis:
                pull += buffer
        np.sqrt(pull, out=pull)
