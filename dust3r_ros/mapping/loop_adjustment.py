"""Adjusts a map to its loops. One that the map contradicts widely is tried on a copy first.

Adjusting landmarks alone closes no wide gap in a large map: observations across it are off by thousands of pixels,
count as wrong, and what is left of them pulls at one end; and it takes minutes. So a pose graph first spreads the gap
over the keyframes between the ends. It is that of Strasdat et al., "Scale drift-aware large scale monocular SLAM", RSS
2010: similarities, since the unit of a map drifts along with its poses.

Two corridors may look the same to the last poster; no match of features tells them apart, but what was seen on the way
from one to the other does: closed, a false loop tears the map somewhere. (As a posterior test of what robust pose
graphs do with switchable loops: Sünderhauf and Protzel, IROS 2012.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from dust3r_ros.alignment.moments import inverse, moments, scale_of
from dust3r_ros.alignment.similarity_graph import SimilarityGraph
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.geometry.similarity import robust_similarity
from dust3r_ros.mapping.reconstruction import REBUILT, Reconstruction
from dust3r_ros.sparse.consistency import contradicted, worst
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.lens_refinement import consider_lenses
from dust3r_ros.sparse.refinement import close_loop
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking.exchange import Renumbering
from dust3r_ros.types import Array

_FEWEST = 12  # points that must agree on a gap
_AGREE = 0.05  # of their distance
# An edge stands for what two keyframes see of each other: corners of the view of one, (x, y, z) in its median depth.
_CORNERS = np.array([(x * z, y * z, z) for z in (0.6, 1.6) for x in (-0.5, 0.5) for y in (-0.4, 0.4)])
_GROUP = 12  # keyframes that move together at first: a few large steps on a small graph, then small ones
_GROUPS = 10  # with fewer, that is not worthwhile
_STEPS, _LAST_STEPS = 40, 5


@dataclass(frozen=True, eq=False)
class LoopGap:
    """Landmarks as two keyframes place them: (P, 3) ``a`` in the frame of ``first``, ``b`` in that of ``second``.

    ``px``: how far apart the map has them, median, in pixels as seen from ``second``.
    """

    first: int
    second: int
    a: Array
    b: Array
    px: float

    @classmethod
    def of(cls, sparse: SparseMap, first: int, second: int, points: Array, others: Array) -> LoopGap | None:
        """From world points (P, 3) as on the side of ``first``, and the ``others`` on that of ``second``.

        None where too few of them agree on one similarity.
        """
        w_T_first, w_T_second = sparse.views[first].w_T_c, sparse.views[second].w_T_c
        if w_T_first is None or w_T_second is None or len(points) < _FEWEST:
            return None
        a, b = transform(invert(w_T_first), points), transform(invert(w_T_second), others)
        try:
            off = np.linalg.norm(robust_similarity(b, a).apply(b) - a, axis=1)
        except GeometryError:
            return None
        good = (off < _AGREE * np.linalg.norm(a, axis=1)) & (b[:, 2] > 0)
        if good.sum() < _FEWEST:
            return None
        focal, seen = sparse.intrinsics[sparse.views[second].camera].focal, transform(invert(w_T_second), points)
        apart = project(seen[good], focal, (0.0, 0.0)) - project(b[good], focal, (0.0, 0.0))
        px = np.nan_to_num(np.linalg.norm(apart, axis=1), nan=np.inf)  # behind the camera
        return cls(first, second, a[good], b[good], float(np.median(px)))

    def scaled(self, factor: float) -> LoopGap:
        """The same in a unit that is smaller by ``factor``."""
        return replace(self, a=factor * self.a, b=factor * self.b)

    def renumbered(self, new: np.ndarray) -> LoopGap | None:
        """The same where keyframe k is ``new[k]`` (N,); None if that is negative for one of the two: it left."""
        first, second = int(new[self.first]), int(new[self.second])
        return replace(self, first=first, second=second) if min(first, second) >= 0 else None


def relax(sparse: SparseMap, edges: Sequence[tuple[int, int]], gaps: Sequence[LoopGap]) -> None:
    """Move keyframes, and landmarks with them, so that ``gaps`` close and neighbours keep their places to each other.

    ``edges``: pairs of keyframes that see the same. Those not connected to the first gap stay. A landmark moves with
    the first keyframe that sees it. Raises ``GeometryError`` if the poses are not determined.
    """
    members, pairs = _connected(sparse, edges, gaps)
    S = np.stack([sparse.views[view].w_T_c for view in members])
    depths = np.array([sparse.median_depth(view) for view in members])
    depths = np.where(depths > 0, depths, np.nanmedian(np.where(depths > 0, depths, np.nan)))
    ends = np.searchsorted(members, [(gap.first, gap.second) for gap in gaps])
    moved = S
    if len(members) >= _GROUP * _GROUPS:
        heads = np.union1d(np.arange(0, len(members), _GROUP), ends)
        group = np.searchsorted(heads, np.arange(len(members)), side="right") - 1
        between = np.unique(np.sort(group[pairs], axis=1), axis=0)
        between = between[between[:, 0] != between[:, 1]]
        coarse = _solve(S[heads], S[heads], depths[heads], between, np.searchsorted(heads, ends), gaps, _STEPS)
        moved = (coarse @ inverse(S[heads]))[group] @ S
    moved = _solve(S, moved, depths, pairs, ends, gaps, _STEPS if moved is S else _LAST_STEPS)
    _move(sparse, members, moved @ inverse(S), moved)


def _connected(
    sparse: SparseMap, edges: Sequence[tuple[int, int]], gaps: Sequence[LoopGap]
) -> tuple[np.ndarray, np.ndarray]:
    """The posed keyframes connected to the first gap, sorted, and the edges between them (E, 2), as places in these."""
    posed = np.array(sparse.posed())
    every = np.array(list(edges), np.int64).reshape(-1, 2)
    every = np.searchsorted(posed, every[np.isin(every, posed).all(axis=1)])
    ends = np.searchsorted(posed, [(gap.first, gap.second) for gap in gaps])
    links = np.concatenate([every, ends])
    graph = csr_array((np.ones(len(links)), tuple(links.T)), shape=(len(posed), len(posed)))
    part = connected_components(graph, directed=False)[1]
    member = part == part[ends[0, 0]]
    places = np.cumsum(member) - 1
    return posed[member], places[every[member[every[:, 0]]]]


def _solve(
    S: Array, start: Array, depths: Array, pairs: np.ndarray, ends: np.ndarray, gaps: Sequence[LoopGap], steps: int
) -> Array:
    """(N, 4, 4) poses in which ``pairs`` have the relative poses of ``S`` (N, 4, 4) and gaps are closed."""
    first, second = pairs.T
    own = _CORNERS * depths[second, None, None]
    S_ij = inverse(S[first]) @ S[second]
    theirs = np.einsum("eij,epj->epi", S_ij[:, :3, :3], own) + S_ij[:, None, :3, 3]
    M = moments(theirs, own, np.broadcast_to(1 / depths[second, None] ** 2, own.shape[:2]))
    of_gaps = [moments(gap.a, gap.b, 1 / gap.b[:, 2] ** 2) for gap in gaps]
    free = np.ones((len(S), 7), bool)
    free[ends[0, 0]] = False
    graph = SimilarityGraph(
        np.concatenate([first, ends[:, 0]]), np.concatenate([second, ends[:, 1]]), np.concatenate([M, of_gaps]), free
    )
    return graph.solve(start, robust=False, iterations=steps).S


def _move(sparse: SparseMap, members: np.ndarray, motion: Array, S: Array) -> None:
    """Bring keyframes ``members`` to ``S`` (N, 4, 4), their landmarks along with ``motion`` (N, 4, 4)."""
    owner = np.full(len(sparse.points), -1)
    for place in range(len(members) - 1, -1, -1):
        owner[sparse.views[members[place]].seen.ids] = place
    moving = np.flatnonzero((owner >= 0) & np.isfinite(sparse.points[:, 0]))
    along = motion[owner[moving]]
    sparse.points[moving] = np.einsum("nij,nj->ni", along[:, :3, :3], sparse.points[moving]) + along[:, :3, 3]
    for view, pose, scale in zip(members, S, scale_of(S), strict=True):
        w_T_c = pose.copy()
        w_T_c[:3, :3] /= scale
        sparse.views[view].w_T_c = w_T_c


_RELAXED = 200  # keyframes; with more, adjusting landmarks alone may fail, and takes seconds
_ADJUSTED = 1000  # with more, all of it is no longer adjusted to a loop
_MEETING = 12  # landmarks that a keyframe shares with the ends of a loop
_ALIKE = 12  # keyframes by which the ends of loops that say the same are apart
_AGAIN = 3  # times as many loops that say the same, and a refused one is tried again
_GAPS = 3  # of loops that say the same
_LOOPS = 30  # newest ones that say the same: a place that only looks alike may be seen for ever
_TORN = 0.25  # by which the share of contradicting observations of one keyframe may rise
_EXPLAINED = 0.5  # of the matches
_BENT = 6.0  # deviations by which a loop may change a focal


@dataclass(frozen=True, eq=False)
class WideLoop:
    """A loop that is not linked yet: its gap, and landmarks ``pairs`` (K, 2), older and newer, that look identical."""

    gap: LoopGap
    pairs: np.ndarray


@dataclass(eq=False)
class _Claim:
    """Loops that say the same, the newest of ``count``; it is tried with ``tried_at`` of them."""

    loops: list[WideLoop]
    count: int = 1
    tried_at: int = 1

    def add(self, loop: WideLoop) -> None:
        """Another loop that says so."""
        self.loops = [*self.loops, loop][-_LOOPS:]
        self.count += 1

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), or leaves if that is negative, with its loops."""
        stay = [replace(loop, gap=gap) for loop in self.loops if (gap := loop.gap.renumbered(new))]
        self.loops, self.count = stay, self.count - len(self.loops) + len(stay)

    def meets(self, loop: WideLoop) -> bool:
        """Whether its newest loop is beside another one, at both ends."""
        mine, other = self.loops[-1].gap, loop.gap
        return max(abs(mine.first - other.first), abs(mine.second - other.second)) <= _ALIKE

    @property
    def pairs(self) -> np.ndarray:
        """(K, 2) landmarks that would be identical."""
        return np.concatenate([loop.pairs for loop in self.loops])


@dataclass(frozen=True, eq=False)
class Trial:
    """A copy of the map in which wide loops are closed: ``pairs`` (K, 2) of landmarks are one; ``accepted`` claims.

    ``sparse`` is None if none was accepted.
    """

    sparse: SparseMap | None
    pairs: np.ndarray
    accepted: list[int] = field(default_factory=list)


class LoopAdjustment:
    """Loops to be closed: those that are linked, by their gaps, and wide ones that are claims until they are tried."""

    def __init__(self, state: Reconstruction) -> None:
        self._state = state
        self.gaps: list[LoopGap] = []
        self._claims: list[_Claim] = []
        self._trying: list[_Claim] = []

    def claim(self, loops: Iterable[WideLoop]) -> bool:
        """Note wide loops; returns whether a trial is due. One that was refused is tried again with more evidence."""
        for loop in loops:
            known = next((claim for claim in self._claims if claim.meets(loop)), None)
            if known is None:
                self._claims.append(_Claim([loop]))
            else:
                known.add(loop)
        return bool(self._due())

    def begin(self) -> None:
        """Note that what is due is being tried."""
        self._trying = self._due()

    def tried(self, accepted: Sequence[int]) -> None:
        """Note the outcome: accepted claims are settled, the others wait for more evidence."""
        done = [self._trying[at] for at in accepted]
        for claim in self._trying:
            claim.tried_at = _AGAIN * claim.count
        self._claims = [claim for claim in self._claims if claim not in done]
        self._trying = []

    def scale(self, factor: float) -> None:
        """The map's unit shrank by ``factor``."""
        self.gaps = [gap.scaled(factor) for gap in self.gaps]
        for claim in self._claims:
            claim.loops = [replace(loop, gap=loop.gap.scaled(factor)) for loop in claim.loops]

    def renumber(self, new: np.ndarray) -> None:
        """Keyframe k becomes ``new[k]`` (N,), or leaves if that is negative, with its loops."""
        self.gaps = [stays for gap in self.gaps if (stays := gap.renumbered(new))]
        for claim in self._claims:
            claim.renumber(new)
        self._claims = [claim for claim in self._claims if claim.loops]

    def landmark_ids(self) -> list[np.ndarray]:
        """The ids by which landmarks are known here."""
        return [loop.pairs.ravel() for claim in self._claims for loop in claim.loops]

    def renumber_landmarks(self, new: Renumbering) -> None:
        """Landmarks get new ids."""
        for claim in self._claims:
            claim.loops = [replace(loop, pairs=new.of(loop.pairs)) for loop in claim.loops]

    def clear(self) -> None:
        """Forget all: the map was built anew, and gaps are of the map before."""
        self.gaps, self._claims, self._trying = [], [], []

    def close(self) -> None:
        """Adjust the map to its linked loops."""
        self._close(self._state.sparse, self.gaps, len(self._state.sparse.posed()) > _RELAXED)
        consider_lenses(self._state.sparse)  # the adjustment left the deviations of focals as if lenses were known

    def trial(self) -> Trial:
        """Try to close the wide loops that are due, one claim after the other; the map is unchanged."""
        sparse, pairs, accepted = self._state.sparse, [np.zeros((0, 2), np.int64)], []
        best: SparseMap | None = None
        for at, claim in enumerate(self._trying):
            closed = self._closed(best or sparse, claim)
            if closed is not None:
                best = closed
                pairs.append(claim.pairs)
                accepted.append(at)
        if best is not None:
            consider_lenses(best)
        return Trial(best, np.concatenate(pairs), accepted)

    def _due(self) -> list[_Claim]:
        return [claim for claim in self._claims if claim.count >= claim.tried_at]

    def _closed(self, sparse: SparseMap, claim: _Claim) -> SparseMap | None:
        """A copy with a claim's loops closed; None if that contradicts what keyframes see."""
        before, gaps = contradicted(sparse), [loop.gap for loop in claim.loops[-_GAPS:]]
        for relaxed in (True,) if len(sparse.posed()) > _RELAXED else (False, True):
            trial = deepcopy(sparse)
            trial.merge(claim.pairs[:, 0], claim.pairs[:, 1])
            self._close(trial, gaps, relaxed)
            false = _tears(before, contradicted(trial)) or _bends(sparse.intrinsics, trial.intrinsics)
            if _explains(trial, claim.loops) and not false:
                return trial
        return None

    def _close(self, sparse: SparseMap, gaps: Sequence[LoopGap], relaxed: bool) -> None:
        """Close loops; ``relaxed``: gaps are spread first, and the largest maps then adjusted only where ends meet."""
        free = None
        if gaps and relaxed:
            try:
                relax(sparse, self._trusted_edges(), gaps)
            except GeometryError:
                pass  # as in a map of several parts; all of it is adjusted then
            else:
                free = _seam(sparse, gaps) if len(sparse.posed()) > _ADJUSTED else None
        close_loop(sparse, free)

    def _trusted_edges(self) -> list[tuple[int, int]]:
        """Pairs of keyframes whose relative pose is right: adjusted together, or one reached from the other.

        Others may be loops, too, that are linked but not closed.
        """
        state, records = self._state, self._state.records
        edges = [(first, second) for first, second, _ in state.graph.edges if second < state.adjusted]
        for view in range(state.adjusted, len(records)):
            before = records[view].before
            for _ in range(state.config.pair_neighbours):
                if before is not None:
                    edges.append((before, view))
                    before = records[before].before
        return edges


def _seam(sparse: SparseMap, gaps: Sequence[LoopGap]) -> list[int]:
    """The keyframes around the ends of loops."""
    ends = {end for gap in gaps for end in (gap.first, gap.second)}
    ids = np.unique(np.concatenate([sparse.views[end].seen.ids for end in ends]))
    return [
        view
        for view in sparse.posed()[1:]
        if np.count_nonzero(np.isin(sparse.views[view].seen.ids, ids)) >= _MEETING or view in ends
    ]


def _explains(sparse: SparseMap, loops: Sequence[WideLoop]) -> bool:
    """Whether most matches of the newest of the loops fit both of its ends."""
    loop = loops[-1]
    ids = sparse.landmarks.resolved(loop.pairs[:, 0])
    fits = np.isfinite(sparse.points[ids, 0])
    for end in (loop.gap.first, loop.gap.second):
        fits &= np.isin(ids, sparse.views[end].seen.ids)
    return bool(fits.mean() > _EXPLAINED)


def _tears(before: Array, after: Array) -> bool:
    """Whether more than before contradicts the map somewhere: the shares (V,) of the keyframes' observations."""
    rise = np.nan_to_num(after) - np.nan_to_num(before)
    return bool(worst(after) > max(worst(before), REBUILT) or rise.max(initial=0.0) > _TORN)


def _bends(before: Sequence[Intrinsics], after: Sequence[Intrinsics]) -> bool:
    """Whether a focal is far from what the map knew of it: another camera may close a false loop."""
    return any(
        abs(np.log(new.focal / old.focal)) > _BENT * old.total_std for old, new in zip(before, after, strict=True)
    )
