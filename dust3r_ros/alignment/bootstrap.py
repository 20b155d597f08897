"""The first poses and the first focal, from the first keyframes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from dust3r_ros.alignment.attach import PlacedView, attach
from dust3r_ros.alignment.refinement import refine
from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.errors import GeometryError
from dust3r_ros.features import epipolar_inliers
from dust3r_ros.geometry.essential import essential_pose
from dust3r_ros.geometry.pinhole import rays
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, invert
from dust3r_ros.geometry.turning import turning_error
from dust3r_ros.types import Array, PairPrediction

# Of the long edge: 90, 67, 53, 40, 28, 18 degrees of view. The vote over fundamental matrices is
# biased; trying each of these to the end and keeping what explains the tracks best is not.
FOCAL_STARTS = (0.5, 0.75, 1.0, 1.4, 2.0, 3.2)
_FIRST_PARALLAX_DEG = 2.0
_CLEARLY_BETTER = 0.97
_TURNING_PX = 1.0
_KEPT_PARALLAX = 0.3  # of the landmarks
_UNUSUAL, _USUAL_SIGMA = 0.05, 0.5
_PAIRS_AMONG = 4  # the pair that a map starts from is one of its first views
_PRUNING_PX = (30.0, 10.0, 4.0)

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
    posed = any(sparse.views[view].w_T_c is not None for view in views)
    limit = _CLEARLY_BETTER * _score(sparse, camera) if posed else float("inf")
    starts, best = [], None
    for focal in focals:
        sparse.restore(before)
        sparse.start_over()
        try:
            _build(sparse, views, camera, focal, options)
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


def _build(sparse: SparseMap, views: Sequence[int], camera: int, focal: float, options: Options) -> None:
    sparse.focals[camera].value = focal
    first, second, second_pose = options.first_pair(sparse, views[:_PAIRS_AMONG], focal)
    sparse.views[first].w_T_c, sparse.views[second].w_T_c = np.eye(4), second_pose
    if sparse.extend() < options.min_inliers:
        raise GeometryError("the first pair gives too few landmarks")
    for view in sorted(set(views) - {first, second}, key=lambda v: min(abs(v - first), abs(v - second))):
        found = sparse.locate(camera, sparse.views[view].seen, options.min_inliers, options.seed)
        sparse.views[view].w_T_c = found.w_T_c
        sparse.extend()
    for limit in _PRUNING_PX:
        refine(sparse, free_focal=True, rounds=1, iterations=20, max_error_px=limit)
        sparse.extend()
    # Turning on the spot is explained by hardly any motion: then next to nothing keeps its parallax.
    before, kept = int(sparse.positioned.sum()), sparse.discard_flat()
    if kept < max(options.min_inliers, _KEPT_PARALLAX * before):
        raise GeometryError(f"only {kept} of {before} landmarks of the first views are seen under parallax")


class PairFromLandmarks:
    """The pair that sees most landmarks under parallax, posed by its essential matrix; the length is free."""

    def __init__(self) -> None:
        self._turning: dict[tuple[int, int], bool] = {}  # the same for every focal that is tried

    def __call__(self, sparse: SparseMap, views: Sequence[int], focal: float) -> tuple[int, int, Array]:
        """(first, second, ``first_T_second``) of ``views``; raises ``GeometryError`` when no pair has parallax."""
        best: tuple[int, int, int, Array] | None = None
        for first, second in combinations(views, 2):
            if self._turns(sparse, first, second):
                continue
            a, b = sparse.common(first, second)
            try:
                # Not refined: the adjustment that follows does it better.
                first_T_second, inliers = essential_pose(
                    a, b, focal, focal, (0.0, 0.0), (0.0, 0.0), refine_matches=0
                )
            except GeometryError:
                continue
            rays_a, rays_b = (rays(offsets[inliers], focal, (0.0, 0.0)) for offsets in (a, b))
            meeting = _angles_deg(rays_a, rays_b @ first_T_second[:3, :3].T)
            count = int((meeting > _FIRST_PARALLAX_DEG).sum())
            if best is None or count > best[0]:
                best = (count, first, second, first_T_second)
        if best is None or best[0] == 0:
            raise GeometryError(f"none of {len(views)} views has enough parallax to another")
        return best[1:]

    def _turns(self, sparse: SparseMap, first: int, second: int) -> bool:
        """Whether turning on the spot explains a pair."""
        if (first, second) not in self._turning:
            a, b = sparse.common(first, second)
            usual = sparse.focals[sparse.views[first].camera].prior
            good = epipolar_inliers(a, b)
            error = turning_error(a[good], b[good], 0.4 * usual, 4.0 * usual)
            self._turning[first, second] = error < _TURNING_PX
        return self._turning[first, second]


def pair_from_pointmaps(predictions: Sequence[PairPrediction], focal: float, seed: int) -> tuple[int, int, Array]:
    """The pair a network is surest of: (first, second, ``first_T_second``); ``focal``: pixels of the pointmaps."""
    strength = [float(np.mean(np.log(p.confidence_first)) + np.mean(np.log(p.confidence_second))) for p in predictions]
    prediction = predictions[int(np.argmax(strength))]
    placed = PlacedView(np.eye(4), prediction.points_first[..., 2], prediction.confidence_first)
    found = attach(prediction.second, [prediction], {prediction.first: placed}, focal, seed)
    return prediction.first, prediction.second, found.w_T_c


def _angles_deg(a: Array, b: Array) -> Array:
    cosine = np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def _normalise(sparse: SparseMap, views: Sequence[int]) -> None:
    origin = sparse.views[views[0]].w_T_c
    scale = 1.0 / sparse.median_depth(views[0])
    start = invert(origin)  # type: ignore[arg-type]
    start[:3, 3] *= scale
    sparse.move(BODY_T_OPTICAL @ start, scale)
