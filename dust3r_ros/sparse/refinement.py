"""Refinement of a sparse map by reprojection: free views, landmarks by poses alone, pruning, weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dust3r_ros.sparse.bundle_adjustment import Solution, adjust
from dust3r_ros.sparse.bundle_problem import BundleProblem, Huber, Observations, State, fit, ranks, settle
from dust3r_ros.sparse.landmarks import FOCAL_PRIOR, different, reprojection_errors, widest_angle
from dust3r_ros.sparse.sparse_map import MAX_ERROR_PX, SparseMap
from dust3r_ros.tracking import Tracks, join
from dust3r_ros.types import Array

_CELLS = (8, 6)  # of an image


def thin(sparse: SparseMap, views: Sequence[int], count: int) -> None:
    """Keep in ``views`` only the observations of landmarks chosen for one of them: ``count`` for each.

    Landmarks that most of ``views`` see are chosen, from every part of the image in turn; a landmark
    keeps all its observations, including pruned ones. One seen by a single view is never chosen.
    The rest is lost until the map is restored from a snapshot.
    """
    seen = [join(sparse.views[view].seen, sparse.views[view].pruned).unique() for view in views]
    observations = np.bincount(np.concatenate([tracks.ids for tracks in seen]), minlength=len(sparse.points))
    chosen = np.zeros(len(sparse.points), bool)
    for tracks in seen:
        shared = tracks.select(observations[tracks.ids] >= 2)
        chosen[shared.ids[_spread(shared, observations[shared.ids])[:count]]] = True
    for view in (sparse.views[index] for index in views):
        view.seen = view.seen.select(chosen[view.seen.ids])
        view.pruned = view.pruned.select(chosen[view.pruned.ids])


def _spread(tracks: Tracks, observations: np.ndarray) -> np.ndarray:
    """The order of choice: the most seen of every cell of the image, then the second of every cell, ..."""
    if len(tracks.ids) == 0:
        return np.zeros(0, int)
    low, size = tracks.pixels.min(axis=0), np.maximum(np.ptp(tracks.pixels, axis=0), 1e-9)
    at = np.minimum((tracks.pixels - low) / size * _CELLS, np.array(_CELLS) - 1).astype(int)
    cell = at[:, 0] * _CELLS[1] + at[:, 1]
    order = np.lexsort((-observations, cell))
    rank = np.arange(len(order)) - np.searchsorted(cell[order], cell[order])
    return order[np.argsort(rank, kind="stable")]


_LOSS = Huber(1.5)
_POINT_STEPS = 6
_CHUNK = 200_000  # landmarks at a time: a few hundred megabytes


def find_points(sparse: SparseMap) -> None:
    """Position every landmark that posed views see under enough parallax; poses and observations stay.

    It is triangulated, then moved to the least robust reprojection error, as by a bundle
    adjustment. A landmark not seen twice within the error limit gets no position.
    """
    for begin in range(0, len(sparse.points), _CHUNK):
        ids = np.arange(begin, min(begin + _CHUNK, len(sparse.points)))
        _find(sparse, ids[~sparse.landmarks.is_barred(ids)])


def place_landmarks(sparse: SparseMap) -> None:
    """``find_points``, by the poses alone: no landmark keeps the position it had."""
    sparse.points[:] = np.nan
    find_points(sparse)


def _find(sparse: SparseMap, ids: np.ndarray) -> None:
    view, point, offset = sparse.observations(sparse.posed(), ids)
    if not len(view):
        return
    points, angles = sparse.triangulated(view, point, offset, len(ids))
    used = angles > sparse.min_parallax_deg
    keep = used[point]
    view, offset, (rows, local) = view[keep], offset[keep], ranks(point[keep], len(ids))
    if not len(view):
        return
    views, where = ranks(view, len(sparse.views))
    problem = BundleProblem(
        **_views_and_focals(sparse, views),
        points=points[rows],
        view=where,
        point=local,
        offset=offset,
        free=np.zeros(len(views), bool),
        free_focal=np.zeros(len(sparse.intrinsics), bool),
    )
    observations = Observations(problem)
    state = State.of(problem, observations)
    at = fit(observations, state, _LOSS)
    for _ in range(_POINT_STEPS):
        state, at = settle(observations, state, at, _LOSS)
    good = observations.by_point((at.valid & (at.r < MAX_ERROR_PX)).astype(np.float64)) > 1.5
    sparse.points[ids[rows[good]]] = state.points.T[good]


def _views_and_focals(sparse: SparseMap, views: np.ndarray) -> dict[str, Any]:
    """The fields of a ``BundleProblem`` for some views and all current focals."""
    return {
        "w_T_c": np.stack([sparse.views[v].w_T_c for v in views]),
        "camera": np.array([sparse.views[v].camera for v in views]),
        "focals": np.array([intrinsics.focal for intrinsics in sparse.intrinsics]),
        "focal_prior": np.array([intrinsics.prior for intrinsics in sparse.intrinsics]),
        "lenses": [intrinsics.lens for intrinsics in sparse.intrinsics],
    }


Built = tuple[BundleProblem, list[int], np.ndarray]  # with the views and the landmarks in it

_HUBER_PX = (0.03, 1.5)  # range in which the loss may turn linear
_EXACT_PX = 0.01
_HUBER = 1.345  # the same in standard deviations (Huber, "Robust Statistics", 1981)
_RAYLEIGH_MEDIAN = 1.1774  # of the length of a 2D error, in standard deviations of its coordinates
_ENOUGH_OBSERVATIONS = 30
_LOOP_PRUNING_PX = (40.0, 12.0, 4.0)
_FEWEST_OBSERVATIONS = 10
_FLAT = 0.5  # of the parallax needed to get a position
_NEAREST = 0.02  # of the median depth of what a view sees
# Errors in one image have causes in common (blur, a shutter that rolls, matches that drift alike): it determines as
# much as so many independent coordinates.
INDEPENDENT = 16.0
EXACT_INDEPENDENT = 8.0  # measured exactly, they have less of their own, but as much in common


def refine(
    sparse: SparseMap,
    free: Collection[int] | None = None,
    *,
    free_focal: bool | np.ndarray = False,
    free_lens: np.ndarray | None = None,
    rounds: int = 2,
    iterations: int = 15,
    max_error_px: float = MAX_ERROR_PX,
    sharp: bool = False,
    scatter: float | None = None,
    tolerance: float = 1e-4,
) -> Solution | None:
    """Bundle adjustment of the ``free`` views (by default all but the first posed one) and the landmarks they see.

    After each round, observations off by more than ``max_error_px`` are dropped; landmarks that keep
    fewer than two, or hardly any parallax, lose their position. Returns the last solution, None
    if there was nothing to adjust. ``free_focal``, for all cameras or (F,): which focals move too;
    ``free_lens`` (F, 5): which radial terms and centers (x, y), never those of a lens that is known;
    ``tolerance``: as of ``adjust``. The loss turns linear at 1.5 pixels; with ``sharp``, for a map that is
    nearly right, where errors stand out from the others, since good images are measured to a tenth of a
    pixel and matches that are wrong by one would bend the map. ``scatter`` (pixels) of the errors, where it is known;
    else it is taken from the map as it is before each round.
    """
    solution = None
    for _ in range(rounds):
        built = problem_of(sparse, free, free_focal, free_lens)
        if built is None:
            return solution
        problem, views, ids = built
        huber_px = _HUBER_PX[1]
        if sharp or scatter is not None:
            problem, huber_px = weighed(problem, scatter_of(sparse, built) if scatter is None else scatter)
        solution = adjust(problem, huber_px=huber_px, iterations=iterations, tolerance=tolerance)
        _accept(sparse, solution, problem, views, ids)
        _prune(sparse, solution, max_error_px, problem, views, ids)
    return solution


def close_loop(sparse: SparseMap, free: Collection[int] | None = None) -> None:
    """Adjust the ``free`` views, by default all, to links that do not fit yet, tightening the outlier limit."""
    for limit in _LOOP_PRUNING_PX:
        refine(sparse, free, free_focal=free is None, rounds=1, max_error_px=limit)


def scatter_of(sparse: SparseMap, built: Built | None) -> float:
    """Pixels, from the median error of landmarks seen more than twice.

    A landmark absorbs some of the error of its n observations: 2 n - 3 of 2 n coordinates are left.
    """
    most = _HUBER_PX[1] / _HUBER
    if built is None:
        return most
    problem, views, _ = built
    count = np.bincount(problem.point)[problem.point]
    many = count > 2
    if many.sum() < _ENOUGH_OBSERVATIONS:
        return most
    points, seen_by = problem.points[problem.point[many]], np.asarray(views)[problem.view[many]]
    errors = reprojection_errors(sparse.views, sparse.intrinsics, seen_by, points, problem.offset[many])
    errors /= 1.0 if problem.spread is None else problem.spread[many]
    return min(most, float(np.median(errors / np.sqrt(1.0 - 1.5 / count[many]))) / _RAYLEIGH_MEDIAN)


def weighed(problem: BundleProblem, scatter: float) -> tuple[BundleProblem, float]:
    """The problem with observations weighed by their scatter, and the pixels at which an error stands out."""
    independent = INDEPENDENT if problem.spread is None else EXACT_INDEPENDENT
    each = max(1.0, 2.0 * len(problem.view) / len(problem.w_T_c) / independent)
    huber_px = max(_HUBER * scatter, _HUBER_PX[0])
    prior = np.broadcast_to(problem.focal_prior_sigma, len(problem.focals))
    alike = prior >= FOCAL_PRIOR
    count = np.count_nonzero(alike[np.unique(problem.camera)])  # they have one prior: where one is zoomed, all are
    prior = np.where(alike, FOCAL_PRIOR * np.sqrt(count) if count > 1 else FOCAL_PRIOR, prior)
    sigma = max(scatter, _EXACT_PX) * float(np.sqrt(each))
    return replace(problem, sigma=sigma, focal_prior_sigma=prior), huber_px


def problem_of(
    sparse: SparseMap,
    free: Collection[int] | None = None,
    free_focal: bool | np.ndarray = False,
    free_lens: np.ndarray | None = None,
) -> Built | None:
    """What ``refine`` with these arguments adjusts, with its views and landmarks; None if that is next to nothing."""
    moving, ids, (view, point, offset) = _observations_of(sparse, free)
    if len(view) < _FEWEST_OBSERVATIONS:
        return None
    used, point = ranks(point, len(ids))
    ids = ids[used]
    views, local = ranks(view, len(sparse.views))
    known = _views_and_focals(sparse, views)
    seen = np.isin(np.arange(len(sparse.intrinsics)), known["camera"])
    focals, lenses = np.array([(not f.fixed, not f.lens_known) for f in sparse.intrinsics]).T & seen
    problem = BundleProblem(
        **known,
        spread=None if sparse.spread is None else sparse.spread.of(view, ids[point]),
        points=sparse.points[ids],
        view=local,
        point=point,
        offset=offset,
        free=np.array([v in moving for v in views]) & (np.bincount(local, minlength=len(views)) >= sparse.holds),
        free_focal=focals & free_focal,
        focal_prior_sigma=np.minimum(
            [min(f.prior_std, f.guess_std) for f in sparse.intrinsics], sparse.focal_prior_sigma
        ),
        free_lens=None if free_lens is None else free_lens & lenses[:, None],
        lens_prior_sigma=np.array([f.lens_prior for f in sparse.intrinsics]),
    )
    return problem, list(views), ids


def _observations_of(
    sparse: SparseMap, free: Collection[int] | None
) -> tuple[set[int], np.ndarray, tuple[np.ndarray, np.ndarray, Array]]:
    """The posed views that move, the ids of the landmarks they see, and every observation of those."""
    posed = sparse.posed()
    moving = set(posed[1:] if free is None else free) & set(posed)
    ids = different([sparse.views[v].seen.ids for v in moving])
    ids = ids[np.isfinite(sparse.points[ids, 0])]
    return moving, ids, sparse.observations(posed if free is None else sparse.around(moving, ids), ids)


def _accept(sparse: SparseMap, solution: Solution, problem: BundleProblem, views: list[int], ids: np.ndarray) -> None:
    for local in np.flatnonzero(problem.free):
        sparse.views[views[local]].w_T_c = solution.w_T_c[local]
    for k, std in zip(np.flatnonzero(problem.free_focal), solution.focal_std, strict=True):
        sparse.intrinsics[k].focal = float(solution.focals[k])
        sparse.intrinsics[k].std = float(std)
    if problem.free_lens is not None:
        for k in np.flatnonzero(problem.free_lens.any(axis=1)):
            sparse.intrinsics[k].lens = solution.lenses[k]
    sparse.points[ids] = solution.points


def _prune(
    sparse: SparseMap,
    solution: Solution,
    max_error_px: float,
    problem: BundleProblem,
    views: list[int],
    ids: np.ndarray,
) -> None:
    rays = solution.points[problem.point] - solution.w_T_c[problem.view, :3, 3]
    depths = np.einsum("mi,mi->m", rays, solution.w_T_c[problem.view, :3, 2])
    # A wrong match can put a point beside a camera, where it holds it with a weight beyond all others.
    bad = (solution.residual > max_error_px) | (depths < _NEAREST * _typical(depths, problem.view, len(views)))
    sparse.drop(np.asarray(views)[problem.view], ids[problem.point], bad)
    kept = np.bincount(problem.point[~bad], minlength=len(ids))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    # Nearly parallel rays put a point anywhere, such as far away, where it harms whatever uses it.
    flat = widest_angle(rays, problem.point, len(ids)) < _FLAT * sparse.min_parallax_deg
    sparse.points[ids[(kept < 2) | flat]] = np.nan


def _typical(depths: Array, view: np.ndarray, count: int) -> Array:
    """(M,) of each of the ``depths`` (M,) of what ``count`` views see, the median of its ``view`` (M,)."""
    ordered, seen = depths[np.lexsort((depths, view))], np.bincount(view, minlength=count)
    middle = np.cumsum(seen) - seen + seen // 2
    return np.asarray(ordered[middle[view]])
