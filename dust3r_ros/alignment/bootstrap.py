"""The first poses and the first focal, from the first keyframes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dust3r_ros.alignment.first_pair import PairFromLandmarks
from dust3r_ros.alignment.landmark_sample import thin
from dust3r_ros.alignment.refinement import refine
from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, invert
from dust3r_ros.types import Array

# Of the long edge: 90, 67, 53, 40, 28, 18 degrees of view. The vote over fundamental matrices is
# biased; trying each of these to the end and keeping what explains the tracks best is not.
FOCAL_STARTS = (0.5, 0.75, 1.0, 1.4, 2.0, 3.2)
_CLEARLY_BETTER = 0.97
_KEPT_PARALLAX = 0.3  # of the landmarks
_UNUSUAL, _USUAL_SIGMA = 0.05, 0.5
_PAIRS_AMONG = 4  # the pair that a map starts from is one of its first views
_PRUNING_PX = (30.0, 10.0, 4.0)
_SAMPLE = 150  # landmarks of each view that a focal is judged by, before any map is built from all
_FIRST_STEPS, _FURTHER_STEPS, _WHOLE_STEPS = 5, 12, 15
_WORTH_MORE, _FINALISTS = 3, 2
_HOPELESS, _LEVEL = 3.0, 1.2  # times the least misfit
_SAME_FOCAL = 1.03

FirstPair = Callable[[SparseMap, Sequence[int], float], tuple[int, int, Array]]


@dataclass(frozen=True)
class Start:
    """Outcome of one focal tried: how badly it explains the tracks, and the focal it ended at."""

    score: float
    focal: float


@dataclass(frozen=True)
class Options:
    """``first_pair(sparse, views, focal)`` says which two views a map starts from, and how they lie."""

    first_pair: FirstPair = field(default_factory=lambda: PairFromLandmarks())
    min_inliers: int = 15
    seed: int = 0


def bootstrap(
    sparse: SparseMap, views: Sequence[int], camera: int, focals: Sequence[float], options: Options
) -> list[Start]:
    """Pose ``views`` of one camera in a new map; tries every focal of ``focals`` (tracked pixels), keeps the best.

    Returns the starts that explain what is seen better than the map as it was, best first. Empty:
    nothing better can be built from these views, and the sparse map is as it was. Afterwards the
    first view stands at the origin and looks along x; the median depth of its landmarks is 1.
    """
    before = sparse.snapshot()
    limit = _limit(sparse, views, camera)
    starts, best = [], None
    for trial in _finalists(sparse, views, camera, focals, options):
        sparse.restore(before)
        trial.place(sparse, views, camera)
        try:
            _settle(sparse, _PRUNING_PX[1:], _WHOLE_STEPS)
            _require_parallax(sparse, options)
        except GeometryError:
            continue
        start = Start(_score(sparse, camera), sparse.focals[camera].value)
        if start.score < limit:
            best, limit = sparse.snapshot(), start.score
            starts.append(start)
    sparse.restore(best or before)
    if best is not None:
        _normalise(sparse, views)
    return sorted(starts, key=lambda start: start.score)


def _score(sparse: SparseMap, camera: int) -> float:
    """The misfit, a little more for focals that cameras rarely have: with few views, several explain them alike."""
    focal = sparse.focals[camera]
    return sparse.misfit() * (1.0 + _UNUSUAL * (np.log(focal.value / focal.prior) / _USUAL_SIGMA) ** 2)


def _limit(sparse: SparseMap, views: Sequence[int], camera: int) -> float:
    """The score that a new map must stay below."""
    posed = any(sparse.views[view].w_T_c is not None for view in views)
    return _CLEARLY_BETTER * _score(sparse, camera) if posed else float("inf")


@dataclass(frozen=True, eq=False)
class _Trial:
    """How a focal came out: ``score``, ``focal`` and poses of the views; ``state``: of the whole sparse map."""

    score: float
    focal: float
    w_T_c: tuple[Array | None, ...]
    state: tuple[object, ...]

    @classmethod
    def of(cls, sparse: SparseMap, views: Sequence[int], camera: int) -> _Trial:
        poses = tuple(sparse.views[view].w_T_c for view in views)
        return cls(_score(sparse, camera), sparse.focals[camera].value, poses, sparse.snapshot())

    def place(self, sparse: SparseMap, views: Sequence[int], camera: int) -> None:
        """Start over from the poses and the focal: whatever nearly fits them becomes a landmark."""
        sparse.start_over()
        sparse.focals[camera].value = self.focal
        for view, w_T_c in zip(views, self.w_T_c, strict=True):
            sparse.views[view].w_T_c = w_T_c
        sparse.extend(max_error_px=_PRUNING_PX[1])


def _finalists(
    sparse: SparseMap, views: Sequence[int], camera: int, focals: Sequence[float], options: Options
) -> list[_Trial]:
    """The focals worth building a map from all landmarks, best first; leaves the sparse map without most of them.

    Successive halving: every focal gets a few steps on a sample of the landmarks, the best get some
    more; those remain that end better than the map as it was, and nearly level with the best.
    """
    thin(sparse, views, _SAMPLE)
    limit, sample = _limit(sparse, views, camera), sparse.snapshot()
    begun = []
    for focal in focals:
        sparse.restore(sample)
        sparse.start_over()
        try:
            _place(sparse, views, camera, focal, options)
            _settle(sparse, _PRUNING_PX, _FIRST_STEPS)
        except GeometryError:
            continue
        begun.append(_Trial.of(sparse, views, camera))
    ended = []
    for trial in _worth_more(begun, limit):
        sparse.restore(trial.state)
        _settle(sparse, _PRUNING_PX[-1:], _FURTHER_STEPS)
        ended.append(_Trial.of(sparse, views, camera))
    level = min(limit, _LEVEL * min((trial.score for trial in ended), default=0.0))
    return sorted((trial for trial in ended if trial.score < level), key=lambda trial: trial.score)[:_FINALISTS]


def _worth_more(begun: list[_Trial], limit: float) -> list[_Trial]:
    """The best few, each focal once, without those too far off to come below ``limit`` or the best."""
    kept: list[_Trial] = []
    for trial in sorted(begun, key=lambda trial: trial.score):
        hopeless = trial.score > _HOPELESS * min(limit, (kept or [trial])[0].score)
        known = any(abs(np.log(trial.focal / other.focal)) < np.log(_SAME_FOCAL) for other in kept)
        if not hopeless and not known and len(kept) < _WORTH_MORE:
            kept.append(trial)
    return kept


def _place(sparse: SparseMap, views: Sequence[int], camera: int, focal: float, options: Options) -> None:
    """Pose the first pair, the other views by what they see of its landmarks."""
    sparse.focals[camera].value = focal
    first, second, second_pose = options.first_pair(sparse, views[:_PAIRS_AMONG], focal)
    sparse.views[first].w_T_c, sparse.views[second].w_T_c = np.eye(4), second_pose
    if sparse.extend() < options.min_inliers:
        raise GeometryError("the first pair gives too few landmarks")
    for view in sorted(set(views) - {first, second}, key=lambda v: min(abs(v - first), abs(v - second))):
        found = sparse.locate(camera, sparse.views[view].seen, options.min_inliers, options.seed)
        sparse.views[view].w_T_c = found.w_T_c
        sparse.extend()


def _settle(sparse: SparseMap, limits: Sequence[float], iterations: int) -> None:
    """Adjust with a free focal and ever fewer outliers."""
    for limit in limits:
        refine(sparse, free_focal=True, rounds=1, iterations=iterations, max_error_px=limit)
        sparse.extend()


def _require_parallax(sparse: SparseMap, options: Options) -> None:
    # Turning on the spot is explained by hardly any motion: then next to nothing keeps its parallax.
    before, kept = int(sparse.positioned.sum()), sparse.discard_flat()
    if kept < max(options.min_inliers, _KEPT_PARALLAX * before):
        raise GeometryError(f"only {kept} of {before} landmarks of the first views are seen under parallax")


def _normalise(sparse: SparseMap, views: Sequence[int]) -> None:
    origin = sparse.views[views[0]].w_T_c
    scale = 1.0 / sparse.median_depth(views[0])
    start = invert(origin)  # type: ignore[arg-type]
    start[:3, 3] *= scale
    sparse.move(BODY_T_OPTICAL @ start, scale)
