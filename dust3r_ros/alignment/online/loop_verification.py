"""Which loop edges to believe: by their own residual, the map as it stands, and each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.moments import inverse, scale_of
from dust3r_ros.types import Array


@dataclass(frozen=True)
class Tolerance:
    """How far two similarities may be apart: radians, canonical units (median depth 1), log scale."""

    rotation: float
    translation: float
    log_scale: float

    def holds(self, difference: Array) -> NDArray[np.bool_]:
        """(...,) whether similarities (..., 4, 4) are this near to the identity; NaN is not."""
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = scale_of(difference)
            cosine = (np.trace(difference[..., :3, :3], axis1=-2, axis2=-1) / scale - 1.0) / 2.0
            shift = np.linalg.norm(difference[..., :3, 3], axis=-1)
            near: NDArray[np.bool_] = (cosine >= np.cos(self.rotation)) & (shift <= self.translation)
            return near & (np.abs(np.log(scale)) <= self.log_scale)


# A loop edge this near to the map needs no witness. Two that need one must agree this well.
AS_MAPPED = Tolerance(np.radians(3.0), 0.08, 0.08)
WITNESSED = Tolerance(np.radians(4.0), 0.12, 0.1)
_MEMORY = 12  # keyframes a loop edge waits for a witness


@dataclass(frozen=True, eq=False)
class LoopClaim:
    """A loop edge ``edge`` says that the keyframe ``young`` stands at ``old_S_young`` (4, 4) from the older ``old``."""

    edge: int
    young: int
    old: int
    old_S_young: Array


class LoopGate:
    """Accepts loop edges that agree with the map, or with one of another young keyframe; others wait, then go.

    One wrong place is easily mistaken for another; two keyframes that are wrong by the same
    similarity are not. What is accepted on a false witness still meets the robust kernel.
    """

    def __init__(self) -> None:
        self._waiting: list[LoopClaim] = []

    def claim(self, claim: LoopClaim) -> None:
        """A loop edge to be judged."""
        self._waiting.append(claim)

    def judge(self, w_S: Array) -> tuple[list[int], list[int]]:
        """(edges that agree with the map ``w_S`` (K, 4, 4) as it stands, edges that agree with each other)."""
        if not self._waiting:
            return [], []
        young = np.array([claim.young for claim in self._waiting])
        claimed = w_S[[claim.old for claim in self._waiting]] @ np.stack([c.old_S_young for c in self._waiting])
        mapped = w_S[young]
        agreed = AS_MAPPED.holds(inverse(mapped) @ claimed)
        # Correction d, of another young keyframe, applied to this one: is it where this claim has it?
        corrections = claimed @ inverse(mapped)
        alike = WITNESSED.holds(inverse(claimed)[:, None] @ corrections[None, :] @ mapped[:, None])
        alike &= (young[:, None] != young) & ~agreed[:, None] & ~agreed
        witnessed = alike.any(axis=1) | alike.any(axis=0)
        edges = np.array([claim.edge for claim in self._waiting])
        keep = ~(agreed | witnessed)
        self._waiting = [claim for claim, kept in zip(self._waiting, keep, strict=True) if kept]
        return edges[agreed].tolist(), edges[witnessed].tolist()

    def expire(self, newest: float) -> list[int]:
        """Edges that waited too long for a witness; they are forgotten."""
        late = [c.edge for c in self._waiting if c.young <= newest - _MEMORY]
        self._waiting = [c for c in self._waiting if c.young > newest - _MEMORY]
        return late
