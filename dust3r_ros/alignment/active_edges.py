"""Edges whose pixels are still at hand: weighed anew as poses and depth get better, then frozen into moments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.alignment.moments import closed_form, moments, scale_of
from dust3r_ros.alignment.pixel_sample import SampledPair
from dust3r_ros.types import Array, Array32

# Residuals below this part of the scene's depth weigh alike: 1 / max(|r|, floor).
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
        """(E, 8, 8) with the weights of the unsquared norm, log C / max(|r|, floor)."""
        return moments(self.a, self.b, self.weight / np.maximum(residuals, FLOOR))

    def mean(self, residuals: Array) -> Array:
        """(E,) confidence-weighted mean of residuals; infinite for an edge without weight."""
        total = self.weight.sum(axis=1)
        value = np.einsum("ep,ep->e", self.weight, residuals)
        return np.divide(value, total, out=np.full(len(total), np.inf), where=total > 0)

    def fitted(self) -> tuple[Array, Array, Array]:
        """The similarities second_S_first (E, 4, 4) that fit each edge best by itself, mean residuals (E,), moments.

        From the closed form with iteratively re-weighted moments (E, 8, 8), the last of which are
        returned; NaN and infinity where an edge determines none.
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
