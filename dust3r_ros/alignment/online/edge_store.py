"""Edges of a growing map: reweighted at a few pixels while these are kept, then 28 numbers each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.moments import closed_form, moments, packed, re_expressed, scale_of, unpacked
from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.types import Array, Array32, PairPrediction

PIXELS = 768  # every 8th row and column of a 256 x 192 image

# Steps of the two-dimensional additive recurrence with the lowest discrepancy known: powers of the
# inverse of the plastic number (Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018).
_PLASTIC = 1.32471795724474602596
_STEPS = np.array([1.0 / _PLASTIC, 1.0 / _PLASTIC**2])


@dataclass(frozen=True, eq=False)
class PixelSample:
    """``PIXELS`` pixels spread evenly over an image: ``flat`` (P,) indices, ``offsets`` (P, 2) from its centre."""

    flat: NDArray[np.int64]
    offsets: Array

    def rays(self, focal: float) -> Array32:
        """(P, 3) directions with z = 1; ``focal`` in pixels."""
        return np.column_stack([self.offsets / focal, np.ones(len(self.offsets))]).astype(np.float32)


@lru_cache(maxsize=32)
def pixel_sample(height: int, width: int) -> PixelSample:
    """The sample for images of this size: always the same number of pixels, so that edges stack."""
    at = (0.5 + np.arange(PIXELS)[:, None] * _STEPS) % 1.0
    columns, rows = np.floor(at * [width, height]).astype(np.int64).T
    return PixelSample(rows * width + columns, np.column_stack([columns, rows]) - np.asarray(center_of(height, width)))


@lru_cache(maxsize=32)
def sampled_rays(height: int, width: int, focal: float) -> Array32:
    """``rays`` of the sample for images of this size."""
    return pixel_sample(height, width).rays(focal)


@dataclass(frozen=True, eq=False)
class SampledPair:
    """One prediction at the sampled pixels, in the pair's own unit; weights (P,) are log confidence.

    ``points`` (P, 3): the second view's pixels in the first view's frame; ``depth`` (P,): z of the
    first view's pixels.
    """

    first: int
    second: int
    points: Array32
    weight: Array32
    depth: Array32
    depth_weight: Array32


def sample_pair(prediction: PairPrediction) -> SampledPair:
    """Sample a prediction; points that are not finite or lie behind the first camera get no weight."""
    here = pixel_sample(*prediction.confidence_first.shape).flat
    there = pixel_sample(*prediction.confidence_second.shape).flat
    depth = np.asarray(prediction.points_first, dtype=np.float32).reshape(-1, 3)[here, 2]
    points = np.asarray(prediction.points_second, dtype=np.float32).reshape(-1, 3)[there]
    depth, depth_weight = _weighed(depth, prediction.confidence_first.ravel()[here], np.asarray(depth > 0))
    points, weight = _weighed(points, prediction.confidence_second.ravel()[there], np.isfinite(points).all(axis=-1))
    return SampledPair(prediction.first, prediction.second, points, weight, depth, depth_weight)


def _weighed(values: Array32, confidence: Array32, usable: Any) -> tuple[Array32, Array32]:
    usable = usable & np.isfinite(confidence) & (confidence > 1.0) & np.isfinite(values).reshape(len(values), -1).all(1)
    weight = np.where(usable, np.log(np.where(usable, confidence, 1.0)), 0.0).astype(np.float32)
    return np.where(usable.reshape(-1, *[1] * (values.ndim - 1)), values, np.float32(0.0)), weight


# Residuals below this fraction of the scene's depth get equal weight: 1 / max(|r|, floor).
FLOOR = 0.01
_LOG_SIGMA = 0.05
_IRLS = 3
_FIT_ROUNDS = 3


class PointPairs:
    """The points a, b (E, P, 3) and confidence weights (E, P) of E edges in the canonical frames of their ends.

    ``depth``, ``depth_weight`` (E, P): canonical depth of the first ends; ``target`` (E, P, 3) and
    ``target_weight``: canonical points of the second ends. The pair's unit is the robust ratio of
    the first end's canonical depth to its depth in the pair: ``scale`` (E,), NaN where they share none.
    """

    def __init__(
        self,
        pairs: Sequence[SampledPair],
        depth: Array32,
        depth_weight: Array32,
        target: Array32,
        target_weight: Array32,
    ) -> None:
        self.scale = _scales(pairs, depth, depth_weight)
        scale = np.nan_to_num(self.scale).astype(np.float32)
        self.a: Array32 = scale[:, None, None] * np.stack([pair.points for pair in pairs])
        self.b = target
        self.weight = np.where(target_weight > 0, np.stack([pair.weight for pair in pairs]), 0.0)
        self.weight[~np.isfinite(self.scale)] = 0.0

    def residuals(self, S_first: Array, S_second: Array) -> Array:
        """(E, P) distances |S_first a - S_second b| in the ends' mean canonical unit."""
        unit = np.sqrt(scale_of(S_first) * scale_of(S_second))
        apart = _apply(S_first, self.a) - _apply(S_second, self.b)
        return np.sqrt(np.einsum("epk,epk->ep", apart, apart)) / unit[:, None]

    def moments(self, residuals: Array) -> Array:
        """(E, 8, 8) moments with the weights of the unsquared norm, log C / max(|r|, floor)."""
        return moments(self.a, self.b, self.weight / np.maximum(residuals, FLOOR))

    def mean(self, residuals: Array) -> Array:
        """(E,) confidence-weighted mean of residuals; infinite for an edge without weight."""
        total = self.weight.sum(axis=1)
        value = np.einsum("ep,ep->e", self.weight, residuals)
        return np.divide(value, total, out=np.full(len(total), np.inf), where=total > 0)

    def fitted(self) -> tuple[Array, Array, Array]:
        """The similarities second_S_first (E, 4, 4) that fit each edge best on its own, mean residuals (E,), moments.

        From the closed form with iteratively reweighted moments (E, 8, 8), of which the last are
        returned; NaN and infinity where an edge determines no similarity.
        """
        residuals = np.ones(self.weight.shape)
        for _ in range(_FIT_ROUNDS):
            M = self.moments(residuals)
            found, _ = closed_form(M)
            residuals = self.apart(found)
        return found, np.where(np.isfinite(found[:, 0, 0]), self.mean(residuals), np.inf), M

    def apart(self, second_S_first: Array) -> Array:
        """(E, P) residuals for relative similarities (E, 4, 4); NaN ones count as the identity."""
        identity = np.broadcast_to(np.eye(4), second_S_first.shape)
        known = ~np.isnan(second_S_first[:, 0, 0])
        return self.residuals(np.where(known[:, None, None], second_S_first, identity), identity)


def _apply(S: Array, points: Array32) -> Array32:
    S32 = S.astype(np.float32)
    moved: Array32 = points @ np.swapaxes(S32[:, :3, :3], -1, -2) + S32[:, None, :3, 3]
    return moved


def _scales(pairs: Sequence[SampledPair], depth: Array32, depth_weight: Array32) -> Array:
    """(E,) robust mean of the log ratio of canonical depth to the pairs' depth, from the median (Cauchy)."""
    own = np.stack([pair.depth for pair in pairs])
    weight = np.stack([pair.depth_weight for pair in pairs]) * depth_weight
    shared = (weight > 0) & (own > 0) & (depth > 0)
    weight = np.where(shared, weight, 0.0)
    logs = np.log(np.where(shared, depth, 1.0) / np.where(shared, own, 1.0))
    count = shared.sum(axis=1)
    known = count > 0
    ordered = np.sort(np.where(shared, logs, np.inf), axis=1)
    center = np.where(known, ordered[np.arange(len(own)), np.maximum(count - 1, 0) // 2], 0.0)
    for _ in range(_IRLS):
        robust = weight / (1.0 + ((logs - center[:, None]) / _LOG_SIGMA) ** 2)
        center = np.divide((robust * logs).sum(axis=1), robust.sum(axis=1), out=center, where=known)
    return np.where(known, np.exp(center), np.nan)


Ids = NDArray[np.int64]


class EdgeStore:
    """The pair graph as growing columns: ends, moments, whether an edge closes a loop and whether it counts.

    An edge of keyframes ``first`` and ``second`` holds the moments of points a in the canonical
    frame of ``first`` and b in that of ``second`` (see ``moments``).
    """

    def __init__(self) -> None:
        self._count = 0
        self._ends = np.zeros((64, 2), dtype=np.int64)
        self._numbers = np.zeros((64, 28))
        self._loop = np.zeros(64, dtype=bool)
        self._on = np.zeros(64, dtype=bool)

    def __len__(self) -> int:
        return self._count

    @property
    def first(self) -> Ids:
        """(E,) keyframe in whose frame the points a are."""
        return self._ends[: self._count, 0]

    @property
    def second(self) -> Ids:
        """(E,) keyframe in whose frame the points b are."""
        return self._ends[: self._count, 1]

    @property
    def loop(self) -> NDArray[np.bool_]:
        """(E,) whether the edge closes a loop."""
        return self._loop[: self._count]

    @property
    def on(self) -> NDArray[np.bool_]:
        """(E,) whether the edge counts; an edge starts switched off."""
        return self._on[: self._count]

    @property
    def numbers(self) -> Array:
        """(E, 28) packed moments."""
        return self._numbers[: self._count]

    def restore(self, ends: Ids, numbers: Array, loop: NDArray[np.bool_], on: NDArray[np.bool_]) -> None:
        """Fill an empty store with edges (E, 2) and their moments (E, 28)."""
        for (first, second), closes in zip(ends.tolist(), loop.tolist(), strict=True):
            self.append(first, second, closes)
        self._numbers[: self._count], self._on[: self._count] = numbers, on

    def ends_on(self) -> Ids:
        """(n, 2) first and second of the edges that count."""
        return self._ends[: self._count][self.on]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(column.nbytes for column in (self._ends, self._numbers, self._loop, self._on))

    def append(self, first: int, second: int, loop: bool) -> int:
        """Add an edge, switched off and without moments; returns its number."""
        if self._count == len(self._on):
            for name in ("_ends", "_numbers", "_loop", "_on"):
                column = getattr(self, name)
                setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
        edge = self._count
        self._count += 1
        self._ends[edge], self._loop[edge] = (first, second), loop
        return edge

    def switch(self, edges: Ids, on: bool) -> None:
        """Let edges count or not."""
        self._on[edges] = on

    def moments(self, edges: Ids) -> Array:
        """(n, 8, 8)."""
        return unpacked(self._numbers[edges])

    def put_moments(self, edges: Ids, M: Array) -> None:
        """Replace moments by ``M`` (n, 8, 8)."""
        self._numbers[edges] = packed(M)

    def touching(self, keyframes: Ids) -> Ids:
        """Edges that count and have an end among ``keyframes``."""
        member = np.zeros(max(int(self._ends[: self._count].max(initial=-1)), int(keyframes.max(initial=-1))) + 1, bool)
        member[keyframes] = True
        return np.flatnonzero(self.on & (member[self.first] | member[self.second]))

    def stretch_rays(self, keyframes: NDArray[np.bool_], factor: float) -> None:
        """Re-express moments after x and y of the canonical points of ``keyframes`` (K,) were scaled by ``factor``.

        A new focal does this (factor = old over new): depth stays. The points a come from the
        prediction, not from canonical depth, so only the second end changes.
        """
        edges = np.flatnonzero(keyframes[self.second])
        stretch = np.broadcast_to(np.diag([factor, factor, 1.0, 1.0]), (len(edges), 4, 4))
        unchanged = np.broadcast_to(np.eye(4), stretch.shape)
        self.put_moments(edges, re_expressed(self.moments(edges), unchanged, stretch))
