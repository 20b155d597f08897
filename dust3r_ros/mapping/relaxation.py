"""Relaxation of a map whose ends do not meet: a pose graph spreads the gap of a loop over the keyframes between them.

Adjusting landmarks alone closes no wide gap in a large map: observations across it are off by thousands of pixels,
count as wrong, and what is left of them pulls at one end; and it takes minutes. The graph is that of Strasdat et al.,
"Scale drift-aware large scale monocular SLAM", RSS 2010: similarities, since a map's unit drifts along with its poses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from dust3r_ros.alignment.moments import inverse, moments, scale_of
from dust3r_ros.alignment.similarity_graph import SimilarityGraph
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.geometry.similarity import robust_similarity
from dust3r_ros.sparse.sparse_map import SparseMap
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
