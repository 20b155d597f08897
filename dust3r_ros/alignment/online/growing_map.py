"""Keyframes as they arrive: each is placed by its pairs, then the graph of edges is solved, in part or in whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.alignment.moments import DOF, scale_of
from dust3r_ros.alignment.objective import EdgeReport
from dust3r_ros.alignment.online.canonical_depth import CanonicalDepth
from dust3r_ros.alignment.online.edge_store import EdgeStore, Ids, PointPairs, SampledPair, sample_pair, sampled_rays
from dust3r_ros.alignment.online.keyframe_start import (
    FocalPool,
    best_proposal,
    check_pairs,
    depth_by_pnp,
    pair_to_second,
    proposals,
    second_depth,
)
from dust3r_ros.alignment.similarity_graph import GraphSolution, SimilarityGraph
from dust3r_ros.errors import GeometryError
from dust3r_ros.types import Array, Array32, PairPrediction

_WINDOW_STEPS = 2  # of Gauss-Newton; the window is reweighted and solved again with every keyframe
_GRAPH_STEPS = 20
_POLISH_ROUNDS, _POLISHED = 12, 3e-4  # canonical units
MAX_RESIDUAL = 0.15  # mean residual, in median depths, above which a pair is rejected
_FOCAL_STEP = 1e-3  # relative change of a focal above which moments are re-expressed


@dataclass(frozen=True)
class KeyframeShape:
    """A keyframe's camera name and the size of its pointmaps."""

    camera: str
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width


class GrowingMap:
    """Keyframes with ``similarities`` from their canonical frames to the map, and the edges between them.

    The canonical frame of a keyframe is its camera's, in the unit of its ``depth`` (median about 1).
    The methods are the operations on this one state; what decides on them is beside it.
    """

    def __init__(self, start: Array) -> None:
        self._start = start
        self.views: list[KeyframeShape] = []
        self.pools: dict[str, FocalPool] = {}
        self.focals: dict[str, float] = {}  # as used in the rays and moments
        self.depth = CanonicalDepth()
        self.edges = EdgeStore()
        self.active: dict[int, SampledPair] = {}  # edges that are still reweighted, with their pixels
        self._S = np.tile(np.eye(4), (64, 1, 1))

    def __len__(self) -> int:
        return len(self.views)

    @property
    def similarities(self) -> Array:
        """(K, 4, 4) ``w_S`` of all keyframes; read-only."""
        return self._S[: len(self)]

    @property
    def nbytes(self) -> int:
        """Bytes held in arrays."""
        pixels = sum(p.points.nbytes + 3 * p.depth.nbytes for p in self.active.values())
        return self.depth.nbytes + self.edges.nbytes + pixels + self._S.nbytes

    def append(
        self, view: KeyframeShape, pairs: Sequence[PairPrediction], loops: Sequence[PairPrediction] = ()
    ) -> list[EdgeReport]:
        """Place the next keyframe by its ``pairs``; ``loops`` are only checked. Returns the pairs that were left out.

        Raises ``GeometryError``, and adds nothing, for pairs that do not fit or carry too little information.
        """
        new = len(self)
        self._check(view, pairs, loops)
        self._enter(view)
        voted, focal = self._vote(new, pairs), self.focals.get(view.camera)
        self._sync_focal(view, _FOCAL_STEP)
        self.depth.append(view.height, view.width)
        begun = {end for pair in pairs for end in (pair.first, pair.second) if not self.depth.known(end)}
        try:
            self._S[new] = self._start
            return self._place(new, pairs, begun) if new else []
        except GeometryError:
            for index in begun:
                self.depth.clear(index)
            self.depth.drop_last()
            if voted:
                self.pools[view.camera].withdraw()
            self._use_focal(self.views.pop().camera, focal)
            raise

    def _check(self, view: KeyframeShape, pairs: Sequence[PairPrediction], loops: Sequence[PairPrediction]) -> None:
        """Raises ``InputError`` or ``GeometryError`` for pairs that cannot belong to the next keyframe."""
        new = len(self)
        check_pairs(new, [*pairs, *loops], lambda index: (self.views[index] if index < new else view).shape)
        if new and not pairs:
            raise GeometryError(f"keyframe {new} comes without pairs; it needs at least one with an older keyframe")

    def _vote(self, new: int, pairs: Sequence[PairPrediction]) -> bool:
        """Let the newest keyframe's pairs vote on its camera's focal; returns whether they gave a vote."""
        camera = self.views[new].camera
        own = [pair for pair in pairs if pair.first == new]
        voters = own or [pair for pair in pairs if self.views[pair.first].camera == camera]
        return self.pools.setdefault(camera, FocalPool()).vote(voters)

    def _enter(self, view: KeyframeShape) -> None:
        """Add the next keyframe; its similarity is set later."""
        self.views.append(view)
        if len(self) > len(self._S):
            self._S = np.concatenate([self._S, np.tile(np.eye(4), (len(self._S), 1, 1))])

    def points(self, pairs: Sequence[SampledPair]) -> PointPairs:
        """The sampled points of pairs in the current canonical frames."""
        first, second = (np.array([getattr(pair, end) for pair in pairs]) for end in ("first", "second"))
        depth, weight = self.depth.sampled(first)
        target, target_weight = self.depth.sampled(second)
        views = [self.views[index] for index in second]
        rays: Array32 = np.stack([sampled_rays(*view.shape, self.focals[view.camera]) for view in views])
        points: Array32 = target[..., None] * rays
        return PointPairs(pairs, depth, weight, points, target_weight)

    def _connect(
        self, pairs: Sequence[PairPrediction], points: PointPairs, samples: Sequence[SampledPair], begun: set[int]
    ) -> list[EdgeReport]:
        """Let pairs count as edges from now on, and take the depth they give their views (``begun`` have their own).

        Pairs without information or far from all others are left out and returned. Raises
        ``GeometryError`` if none remains.
        """
        S_first, S_second = (self._S[[getattr(pair, end) for pair in pairs]] for end in ("first", "second"))
        residual = points.mean(points.residuals(S_first, S_second))
        if not np.any(residual <= MAX_RESIDUAL):
            raise GeometryError(
                f"none of {len(pairs)} pairs fits: the least mean residual is {np.min(residual):.3g} of the scene's "
                f"depth; it must be at most {MAX_RESIDUAL}"
            )
        refused = []
        for at, (pair, sample) in enumerate(zip(pairs, samples, strict=True)):
            if not residual[at] <= MAX_RESIDUAL:
                refused.append(EdgeReport(pair.first, pair.second, float(residual[at]), True))
                continue
            self.active[self.edges.append(pair.first, pair.second, False)] = sample
            self._absorb(pair, pair_to_second(points, at, S_first[at], S_second[at]), begun)
        numbers = np.arange(len(self.edges) - len(pairs) + len(refused), len(self.edges))
        self.edges.put_moments(numbers, points.moments(points.residuals(S_first, S_second))[residual <= MAX_RESIDUAL])
        self.edges.switch(numbers, True)
        return refused

    def _absorb(self, pair: PairPrediction, second_S_pair: Array, begun: set[int]) -> None:
        estimates = [(pair.second, second_depth(pair, second_S_pair), pair.confidence_second)]
        if pair.first not in begun:
            estimates.append((pair.first, pair.points_first[..., 2], pair.confidence_first))
        for index, depth, confidence in estimates:
            try:
                self.depth.put(index, depth, confidence)
            except GeometryError:  # nothing in common: neither useful nor harmful
                continue

    def refine(self, window: int) -> None:
        """Reweight the active edges and solve the last ``window`` keyframes with older ones fixed."""
        numbers = np.array(sorted(self.active), dtype=np.int64)
        if not len(numbers):
            return
        points = self.points([self.active[number] for number in numbers])
        free = np.arange(max(1, len(self) - window), len(self))
        residuals = points.residuals(self._S[self.edges.first[numbers]], self._S[self.edges.second[numbers]])
        self.edges.put_moments(numbers, points.moments(residuals))
        self._solve(self.edges.touching(free), free, robust=False, iterations=_WINDOW_STEPS)

    def solve_all(self) -> tuple[Ids, Array]:
        """Solve every keyframe but the first from all moments.

        Returns the edges that the robust kernel switched off and their residuals (canonical units).
        """
        for view in {view.camera: view for view in self.views}.values():
            self._sync_focal(view, 0.0)
        numbers = np.flatnonzero(self.edges.on)
        solution = self._solve(numbers, np.arange(1, len(self)), robust=True, iterations=_GRAPH_STEPS)
        return numbers[solution.switched_off], solution.residual[solution.switched_off]

    def misfit(self) -> float:
        """Median residual of the edges that count, canonical units, from their moments."""
        numbers = np.flatnonzero(self.edges.on)
        first, second = self.edges.first[numbers], self.edges.second[numbers]
        held = np.zeros((len(self), DOF), bool)
        graph = SimilarityGraph(first, second, self.edges.moments(numbers), held)
        return float(np.median(graph.residuals(self.similarities))) if len(numbers) else 0.0

    def polish(self) -> None:
        """Solve until nothing moves: long loops still move at almost no change in cost, where ``solve_all`` stops."""
        numbers = np.flatnonzero(self.edges.on)
        for _ in range(_POLISH_ROUNDS):
            before = self.similarities.copy()
            self._solve(numbers, np.arange(1, len(self)), robust=True, iterations=_GRAPH_STEPS)
            shift = np.linalg.norm(self.similarities[:, :3, 3] - before[:, :3, 3], axis=1) / scale_of(before)
            if shift.max() < _POLISHED:
                break

    def freeze(self, before: int) -> None:
        """Edges between keyframes before this one keep only their moments."""
        for number in [n for n, pair in self.active.items() if max(pair.first, pair.second) < before]:
            del self.active[number]

    def resume(self, view: KeyframeShape, w_S: Array, sample: Array32) -> None:
        """Add the next keyframe of an earlier session, with its stored pixels (``CanonicalDepth.sample``) and place."""
        self._enter(view)
        self.depth.restore(view.height, view.width, sample)
        self._S[len(self) - 1] = w_S

    def restore(self, w_S: Array) -> None:
        """Return to earlier similarities (K, 4, 4)."""
        self._S[: len(w_S)] = w_S

    def _solve(self, numbers: Ids, free: Ids, robust: bool, iterations: int) -> GraphSolution:
        first, second = self.edges.first[numbers], self.edges.second[numbers]
        used, ends = np.unique(np.concatenate([first, second]), return_inverse=True)
        first, second = ends.reshape(2, -1)
        moves = np.repeat(np.isin(used, free)[:, None], DOF, axis=1)
        graph = SimilarityGraph(first, second, self.edges.moments(numbers), moves)
        solution = graph.solve(self._S[used], robust=robust, iterations=iterations)
        self._S[used] = solution.S
        return solution

    def _place(self, new: int, pairs: Sequence[PairPrediction], begun: set[int]) -> list[EdgeReport]:
        for index in sorted(begun):
            self._first_depth(index, pairs)
        samples = [sample_pair(pair) for pair in pairs]
        points = self.points(samples)
        first, second = (np.array([getattr(pair, end) for pair in pairs]) for end in ("first", "second"))
        fitted, _, _ = points.fitted()
        placed = proposals(new, first, second, fitted, self._S)
        self._S[new] = best_proposal(new, first, second, points, placed, self._S)
        return self._connect(pairs, points, samples, begun)

    def _first_depth(self, index: int, pairs: Sequence[PairPrediction]) -> None:
        """Initial depth of a keyframe without any, from its pairs: as their first view, or by PnP as their second."""
        for pair in pairs:
            if pair.first == index:
                self.depth.put(index, pair.points_first[..., 2], pair.confidence_first)
        if self.depth.known(index):
            return
        view = self.views[index]
        for pair in pairs:
            if pair.second == index:
                depth = depth_by_pnp(index, pair, self.focals[view.camera])
                self.depth.put(index, depth, pair.confidence_second)

    def _sync_focal(self, view: KeyframeShape, step: float) -> None:
        """Adopt the pooled focal of a camera if it changed by more than ``step`` (relative)."""
        focal, _ = self.pools[view.camera].value(*view.shape)
        if abs(focal / self.focals.get(view.camera, math.inf) - 1.0) > step:
            self._use_focal(view.camera, focal)

    def _use_focal(self, camera: str, focal: float | None) -> None:
        """Use a focal in rays and moments; None forgets the camera's focal."""
        if focal is None:
            del self.focals[camera]
            return
        old = self.focals.get(camera, focal)
        if old != focal:
            self.edges.stretch_rays(np.array([view.camera == camera for view in self.views]), old / focal)
        self.focals[camera] = focal
