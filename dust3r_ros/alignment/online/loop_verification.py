"""Which loop edges to accept: judged by their own residual, by the current map, and by each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.moments import inverse, scale_of
from dust3r_ros.alignment.objective import EdgeReport
from dust3r_ros.alignment.online.edge_store import sample_pair
from dust3r_ros.alignment.online.growing_map import MAX_RESIDUAL, GrowingMap
from dust3r_ros.alignment.online.keyframe_start import proposals
from dust3r_ros.types import Array, PairPrediction


@dataclass(frozen=True)
class Tolerance:
    """How far apart two similarities may be: radians, canonical units (median depth 1), log scale."""

    rotation: float
    translation: float
    log_scale: float

    def holds(self, difference: Array) -> NDArray[np.bool_]:
        """(...,) whether similarities (..., 4, 4) are this close to the identity; NaN is not."""
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = scale_of(difference)
            cosine = (np.trace(difference[..., :3, :3], axis1=-2, axis2=-1) / scale - 1.0) / 2.0
            shift = np.linalg.norm(difference[..., :3, 3], axis=-1)
            near: NDArray[np.bool_] = (cosine >= np.cos(self.rotation)) & (shift <= self.translation)
            return near & (np.abs(np.log(scale)) <= self.log_scale)


# A loop edge this close to the map needs no witness. Two that need one must agree this well.
AS_MAPPED = Tolerance(np.radians(3.0), 0.08, 0.08)
WITNESSED = Tolerance(np.radians(4.0), 0.12, 0.1)
_MEMORY = 12  # how many keyframes a loop edge waits for a witness


@dataclass(frozen=True, eq=False)
class LoopClaim:
    """The claim of loop edge ``edge`` that keyframe ``young`` lies at ``old_S_young`` (4, 4) from the older ``old``."""

    edge: int
    young: int
    old: int
    old_S_young: Array


class LoopGate:
    """Accepts loop edges that agree with the map or with an edge of another young keyframe; others wait, then expire.

    One keyframe is easily matched to the wrong place; two keyframes are rarely wrong by the same
    similarity. An edge accepted on a false witness still faces the robust kernel.
    """

    def __init__(self) -> None:
        self._waiting: list[LoopClaim] = []

    def claim(self, claim: LoopClaim) -> None:
        """Add a loop edge to be judged."""
        self._waiting.append(claim)

    def judge(self, w_S: Array) -> tuple[list[int], list[int]]:
        """(edges that agree with the current map ``w_S`` (K, 4, 4), edges that agree with each other)."""
        if not self._waiting:
            return [], []
        young = np.array([claim.young for claim in self._waiting])
        claimed = w_S[[claim.old for claim in self._waiting]] @ np.stack([c.old_S_young for c in self._waiting])
        mapped = w_S[young]
        agreed = AS_MAPPED.holds(inverse(mapped) @ claimed)
        # Apply the correction d of another young keyframe to this one: does it land where this claim puts it?
        corrections = claimed @ inverse(mapped)
        alike = WITNESSED.holds(inverse(claimed)[:, None] @ corrections[None, :] @ mapped[:, None])
        alike &= (young[:, None] != young) & ~agreed[:, None] & ~agreed
        witnessed = alike.any(axis=1) | alike.any(axis=0)
        edges = np.array([claim.edge for claim in self._waiting])
        keep = ~(agreed | witnessed)
        self._waiting = [claim for claim, kept in zip(self._waiting, keep, strict=True) if kept]
        return edges[agreed].tolist(), edges[witnessed].tolist()

    def expire(self, newest: float) -> list[int]:
        """Forget and return the edges that waited too long for a witness."""
        late = [c.edge for c in self._waiting if c.young <= newest - _MEMORY]
        self._waiting = [c for c in self._waiting if c.young > newest - _MEMORY]
        return late


_LOOP_PAUSE = 20  # the first loop after this many keyframes without one triggers a solution of the whole graph
_GROWTH = 1.2  # further loops trigger one only when the graph has grown by this factor since
_MAX_STRAIN = 0.1  # largest mean residual, in median depths, of an edge kept when the whole graph is solved


class Closing(NamedTuple):
    """The outcome for waiting loop edges: the ``ends`` of accepted ones, and whether the graph was ``solved`` for them.

    ``switched_off``: edges left with a large residual by the solution.
    """

    ends: tuple[tuple[int, int], ...]
    solved: bool
    switched_off: list[EdgeReport]


class LoopVerification:
    """Loop pairs of a growing map: claimed on arrival, then accepted or dropped."""

    def __init__(self, growing: GrowingMap) -> None:
        self._map, self._gate = growing, LoopGate()
        self._claimed: dict[int, float] = {}  # residuals of loop edges not accepted yet
        self._solved_at, self._looped_at = 1, 0

    def facts(self) -> dict[str, Any]:
        """What ``restore`` needs, as JSON values."""
        return {"solved_at": self._solved_at, "looped_at": self._looped_at}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Restore the state of an earlier session; no loop is waiting."""
        self._solved_at, self._looped_at = facts["solved_at"], facts["looped_at"]

    def claim(self, loops: Sequence[PairPrediction]) -> list[EdgeReport]:
        """Hand loop pairs to the gate as edges that do not count yet; returns the rejected ones.

        Their pixels are weighted once, for the similarity that fits each pair best on its own.
        """
        if not loops:
            return []
        new, points = len(self._map) - 1, self._map.points([sample_pair(pair) for pair in loops])
        first, second = (np.array([getattr(pair, end) for pair in loops]) for end in ("first", "second"))
        fitted, residual, M = points.fitted()
        placed = proposals(new, first, second, fitted, self._map.similarities)
        wrong = []
        for at, pair in enumerate(loops):
            if not residual[at] <= MAX_RESIDUAL:
                wrong.append(EdgeReport(pair.first, pair.second, float(residual[at]), True))
                continue
            number = self._map.edges.append(pair.first, pair.second, True)
            self._map.edges.put_moments(np.array([number]), M[at : at + 1])
            old = min(pair.first, pair.second)
            self._gate.claim(LoopClaim(number, new, old, inverse(self._map.similarities[old]) @ placed[at]))
            self._claimed[number] = float(residual[at])
        return wrong

    def close(self) -> Closing:
        """Accept what the map or a witness now confirms; solve the whole graph if that is worthwhile."""
        agreed, witnessed = self._gate.judge(self._map.similarities)
        solve = self._believe([*agreed, *witnessed]) or bool(witnessed)
        wrong = self.solve(witnessed) if solve else []
        edges = self._map.edges
        ends = tuple((int(edges.first[n]), int(edges.second[n])) for n in [*agreed, *witnessed])
        return Closing(ends, solve, wrong)

    def expire(self, newest: float) -> list[EdgeReport]:
        """Loop edges that waited too long for a witness."""
        return [self._switched_off(number, self._claimed.pop(number)) for number in self._gate.expire(newest)]

    def solve(self, witnessed: Sequence[int] = ()) -> list[EdgeReport]:
        """Solve the whole graph from moments. Loop edges that keep a large residual are switched off and reported.

        If most of the ``witnessed`` ones do, they were wrong together, and the map is rolled back.
        """
        before = self._map.similarities.copy()
        doubtful, residuals = self._map.solve_all()
        bad = self._map.edges.loop[doubtful] & (residuals > _MAX_STRAIN)
        off = dict(zip(doubtful[bad].tolist(), residuals[bad].tolist(), strict=True))
        if len(witnessed) and np.isin(witnessed, list(off)).mean() > 0.5:
            off = {number: math.inf for number in witnessed} | off
            self._map.restore(before)
        self._map.edges.switch(np.array(list(off), dtype=np.int64), False)
        self._solved_at = len(self._map)
        return [self._switched_off(number, residual) for number, residual in off.items()]

    def _believe(self, numbers: Sequence[int]) -> bool:
        """Let loop edges count; returns whether the whole graph should be solved for them."""
        if not numbers:
            return False
        for number in numbers:
            del self._claimed[number]
        self._map.edges.switch(np.array(numbers), True)
        since, self._looped_at = len(self._map) - self._looped_at, len(self._map)
        return since > _LOOP_PAUSE or len(self._map) >= _GROWTH * self._solved_at

    def _switched_off(self, number: int, residual: float) -> EdgeReport:
        return EdgeReport(int(self._map.edges.first[number]), int(self._map.edges.second[number]), residual, True)
