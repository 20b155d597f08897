"""Canonical depth of keyframes, from all that their pairs say while they are young, a few pixels afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.alignment.online.edge_store import PIXELS, pixel_sample
from dust3r_ros.errors import GeometryError
from dust3r_ros.types import Array, Array32

_ROUNDS = 3
_PER_SIGMA = np.float32(1.0 / 0.05)  # estimates whose logs differ by more than a few sigmas pull less
_TINY = np.float32(1e-12)
_BLOCK = 49152  # numbers of a kind that are worked on at a time: they stay in the cache


def fuse_depths(depths: Sequence[Array32], confidences: Sequence[Array32]) -> tuple[Array32, Array32]:
    """Robust weighted mean of log depth: (depth (H, W), 0 where nothing is known; confidence (H, W) >= 1).

    ``depths`` (H, W) in one unit, ``confidences`` (H, W) >= 1, weighing by their logarithm;
    iteratively re-weighted (Cauchy), from the most confident. Confidence adds up over estimates
    that agree: 1 + sum of (C - 1) times the robust weight.
    """
    pixels, some = depths[0].size, max(_BLOCK // len(depths), 1024)
    fused, confidence = np.empty((2, *depths[0].shape), dtype=np.float32)
    rows = [(depth.reshape(-1), sure.reshape(-1)) for depth, sure in zip(depths, confidences, strict=True)]
    # The system hands out memory page by page, which costs more than the arithmetic: once for all blocks.
    work = np.empty((5, len(rows), min(some, pixels)), dtype=np.float32)
    for start in range(0, pixels, some):
        part = slice(start, min(start + some, pixels))
        block = work[:, :, : part.stop - start]
        for row, (depth, sure) in enumerate(rows):
            block[0, row], block[1, row] = depth[part], sure[part]
        fused.reshape(-1)[part], confidence.reshape(-1)[part] = _fused(*block)
    return fused, confidence


def _fused(logs: Array32, gain: Array32, weight: Array32, off: Array32, pull: Array32) -> tuple[Array32, Array32]:
    """(P,) and (P,) of depth ``logs`` and confidence ``gain``, (K, P), which like the rest are overwritten."""
    np.fmax(gain, np.float32(1.0), out=gain)
    gain -= np.float32(1.0)
    gain *= np.greater(logs, 0.0, out=off)
    np.log1p(gain, out=weight)
    np.log(np.fmax(logs, _TINY, out=logs), out=logs)
    logs *= _PER_SIGMA
    most = weight.max(axis=0)
    np.equal(weight, most, out=off)
    center = np.einsum("kp,kp->p", off, logs) / off.sum(axis=0)
    for _ in range(_ROUNDS if len(logs) > 1 else 0):
        np.subtract(logs, center, out=off)
        off *= off
        off += np.float32(1.0)
        np.divide(weight, off, out=pull)
        center = np.einsum("kp,kp->p", pull, logs) / np.maximum(pull.sum(axis=0), _TINY)
    if len(logs) > 1:
        gain /= off
    return np.exp(center / _PER_SIGMA) * (most > 0), np.float32(1.0) + gain.sum(axis=0)


def robust_scale(reference: Array | Array32, depth: Array | Array32, weight: Array | Array32) -> float:
    """The factor that takes ``depth`` (N,) to ``reference`` (N,): weighted median of the ratio; NaN for none."""
    keep = (reference > 0) & (depth > 0) & (weight > 0)
    if not keep.any():
        return float("nan")
    logs, weight = np.log(reference[keep] / depth[keep]), weight[keep]
    order = np.argsort(logs, kind="stable")
    cumulative = np.cumsum(weight[order])
    return float(np.exp(logs[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])]))


_MIN_SHARED = 16  # sampled pixels that two depth maps must share before one is scaled to the other


@dataclass(frozen=True, eq=False)
class _Estimate:
    """Depth (H, W) times ``factor`` is canonical; ``sampled`` (2, P): both at the sampled pixels, brought to it."""

    depth: Array32
    confidence: Array32
    factor: float
    sampled: Array32


class CanonicalDepth:
    """One depth map per keyframe in a unit of its own: the median of the first estimate is 1.

    Each estimate is brought to that unit by the robust ratio of depths, so that only its shape is
    fused. The sampled pixels (``pixel_sample``) of all keyframes stay; whole maps go with ``release``.
    """

    def __init__(self) -> None:
        self._estimates: dict[int, list[_Estimate]] = {}
        self._fused: dict[int, tuple[Array32, Array32]] = {}  # whole maps that were asked for
        self._shapes: list[tuple[int, int]] = []
        self._sampled = np.zeros((2, 64, PIXELS), dtype=np.float32)
        self._stale: set[int] = set()

    def __len__(self) -> int:
        return len(self._shapes)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        maps = sum(
            e.depth.nbytes + e.confidence.nbytes + e.sampled.nbytes
            for estimates in self._estimates.values()
            for e in estimates
        )
        fused = sum(depth.nbytes + confidence.nbytes for depth, confidence in self._fused.values())
        return maps + fused + self._sampled.nbytes

    def append(self, height: int, width: int) -> int:
        """A keyframe of which nothing is known yet; returns its index."""
        index = len(self._shapes)
        if index == self._sampled.shape[1]:
            self._sampled = np.concatenate([self._sampled, np.zeros_like(self._sampled)], axis=1)
        self._shapes.append((height, width))
        self._estimates[index] = []
        return index

    def drop_last(self) -> None:
        """Forget the newest keyframe."""
        index = len(self._shapes) - 1
        self.clear(index)
        self._shapes.pop()
        del self._estimates[index]

    def clear(self, index: int) -> None:
        """Forget all that is known of a keyframe's depth."""
        self._fused.pop(index, None)
        self._estimates[index] = []
        self._stale.discard(index)
        self._sampled[:, index] = 0.0

    def known(self, index: int) -> bool:
        """Whether any pixel has depth."""
        self._refresh(index)
        return bool((self._sampled[0, index] > 0).any())

    def open(self, index: int) -> bool:
        """Whether estimates are still taken and the whole map is there."""
        return index in self._estimates

    def put(self, index: int, depth: Array32, confidence: Array32) -> None:
        """One more estimate (H, W) of z in any unit; confidence >= 1. Without effect once released.

        Raises ``GeometryError`` when it has no depth in common with what is known.
        """
        if index not in self._estimates:
            return
        at = pixel_sample(*self._shapes[index]).flat
        depth, confidence = _cleaned(depth, confidence)
        sampled, sure = depth.ravel()[at], confidence.ravel()[at]
        weight = np.log(sure) * (sampled > 0)
        if self._estimates[index]:
            if len(self._estimates[index]) == 1:
                self._refresh(index)
            reference, reference_weight = self._sampled[:, index]
            weight = weight * reference_weight
        else:
            reference = np.ones_like(sampled)
        if np.count_nonzero((weight > 0) & (reference > 0)) < _MIN_SHARED:
            raise GeometryError(
                f"keyframe {index}: of {PIXELS} sampled pixels {np.count_nonzero(weight > 0)} have depth in common "
                f"with what is known; at least {_MIN_SHARED} are needed"
            )
        factor = robust_scale(reference, sampled, weight)
        both: Array32 = np.stack([np.float32(factor) * sampled, sure])
        self._estimates[index].append(_Estimate(depth, confidence, factor, both))
        self._fused.pop(index, None)
        self._stale.add(index)

    def sample(self, index: int) -> Array32:
        """(2, P) depth and log confidence of a keyframe at the sampled pixels."""
        self._refresh(index)
        return self._sampled[:, index].copy()

    def restore(self, height: int, width: int, sample: Array32) -> None:
        """A keyframe of another session, released, of which the ``sample`` (2, P) is left."""
        index = self.append(height, width)
        self._sampled[:, index] = sample
        del self._estimates[index]

    def sampled(self, indices: np.ndarray) -> tuple[Array32, Array32]:
        """(depth, log confidence), each (n, P), at the sampled pixels; 0 where nothing is known."""
        for index in self._stale.intersection(indices.tolist()):
            self._refresh(index)
        return self._sampled[0, indices], self._sampled[1, indices]

    def whole(self, index: int) -> tuple[Array32, Array32] | None:
        """The fused map: depth (H, W), 0 where unknown, and confidence (H, W); None once released or unknown."""
        estimates = self._estimates.get(index)
        if not estimates:
            return None
        if index not in self._fused:
            depths = [np.float32(e.factor) * e.depth for e in estimates]
            self._fused[index] = fuse_depths(depths, [e.confidence for e in estimates])
        return self._fused[index]

    def release(self, index: int) -> tuple[Array32, Array32] | None:
        """``whole`` for the last time."""
        self._refresh(index)
        fused = self.whole(index)
        self._estimates.pop(index, None)
        self._fused.pop(index, None)
        return fused

    def _refresh(self, index: int) -> None:
        if index not in self._stale:
            return
        self._stale.discard(index)
        estimates = self._estimates[index]
        depth, confidence = fuse_depths([e.sampled[0] for e in estimates], [e.sampled[1] for e in estimates])
        self._sampled[0, index], self._sampled[1, index] = depth, np.log(confidence)


def _cleaned(depth: Array32, confidence: Array32) -> tuple[Array32, Array32]:
    """Depth >= 0 and confidence >= 1, both finite; 0 and 1 at least where either says nothing.

    ``fuse_depths`` lets neither count alone.
    """
    depth, confidence = np.fmax(depth, np.float32(0.0)), np.fmax(confidence, np.float32(1.0))  # drops NaN as well
    if not (np.isfinite(depth.max()) and np.isfinite(confidence.max())):
        good = np.isfinite(depth) & np.isfinite(confidence)
        depth, confidence = np.where(good, depth, np.float32(0.0)), np.where(good, confidence, np.float32(1.0))
    return depth, confidence
