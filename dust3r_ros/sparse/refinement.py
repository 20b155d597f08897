"""Refinement of a sparse map by reprojection: free views, pruning, lens distortion.

A map hardly distinguishes radial distortion from focal length: both stretch the image, and poses and landmarks absorb
most of the difference. So a radial term and an off-centre distortion centre are kept only if the observations support
them; otherwise distortion is considered without being estimated: a parameter of known spread on which the focal
depends (Schmidt, "Application of state-space methods to navigation problems", 1966).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from dust3r_ros.sparse.bundle_adjustment import Solution, adjust
from dust3r_ros.sparse.bundle_problem import BundleProblem, Huber, Observations, State, fit, settle
from dust3r_ros.sparse.landmarks import Intrinsics, different, ranks, reprojection_errors, widest_angle
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


# Standard deviation of the radial distortion of webcams, phones and depth cameras: the relative
# outward shift at half the long edge from the centre.
USUAL_BEND = 0.015
_BEND = 0.01  # tried in both directions; the shift is nearly linear in it
_OBSERVATIONS, _LEAST = 3000, 30  # from all views together; at least from each
_LENS_STEPS = 3


def focal_shift(sparse: SparseMap, camera: int, radius: float) -> float:
    """Change of the log focal of ``camera`` per unit of bend, with poses and landmarks readjusted; 0 if it is fixed.

    A bend b takes an offset r to r (1 + b |r|^2 / ``radius``^2); ``radius`` in pixels, half the long
    edge. The sparse map is unchanged. Computed on a sample of the landmarks.
    """
    views, intrinsics = sparse.posed(), sparse.intrinsics[camera]
    if intrinsics.fixed or len(views) < 2:
        return 0.0
    before = sparse.snapshot()
    thin(sparse, views, max(_LEAST, _OBSERVATIONS // len(views)))
    sample = sparse.snapshot()
    logs = []
    for bend in (-_BEND, _BEND):
        sparse.restore(sample)
        for view in (sparse.views[index] for index in views if sparse.views[index].camera == camera):
            view.seen = Tracks(view.seen.ids, _bent(view.seen.pixels, bend / radius**2))
        refine(sparse, free_focal=True, rounds=1, iterations=_LENS_STEPS, max_error_px=np.inf)
        logs.append(float(np.log(intrinsics.focal)))
    sparse.restore(before)
    return (logs[1] - logs[0]) / (2.0 * _BEND)


def _bent(offsets: Array, bend: float) -> Array:
    return offsets * (1.0 + bend * np.sum(offsets**2, axis=1, keepdims=True))


_ENOUGH_VIEWS = 8
_SIGNIFICANT = 2.0  # standard deviations; a radial term closer to 0 is dropped
_ROUNDING_PX = 1e-3  # smaller errors are not worth a lens
# What may be freed, and by what share it must lower the median error: the radial term, since without it focals are off
# by several percent, and with a needless one, which gains up to 0.25 % by chance, by one or two percent; the center,
# which bends long maps if it is not needed.
_PARTS = ((np.array([True, False, False]), 0.004), (np.array([False, True, True]), 0.01))


@dataclass(frozen=True, eq=False)
class _Trial:
    """The result of freeing more of a lens: what is ``free`` (F, 3), and the map."""

    free: np.ndarray
    snapshot: tuple[object, ...]


def refine_lenses(sparse: SparseMap, *, rounds: int = 3, iterations: int = 30) -> Solution | None:
    """``refine`` the whole map, sharp and with free focals, and those lenses that it determines.

    Lenses of uncalibrated cameras with at least eight posed views are tried: forward selection among their
    radial terms and centers, the best one first. A radial term is kept if it differs from 0 by two standard
    deviations and lowers the median error of the camera's observations by 0.4 %, a center if it lowers that
    by a hundredth (a term that only bends the map leaves most errors unchanged). Terms not kept are reset to
    their previous values; terms found earlier are free again. A focal's ``std`` is for the kept terms being free.
    Returns the last solution, None if there was nothing to adjust.
    """
    views = np.bincount([sparse.views[v].camera for v in sparse.posed()], minlength=len(sparse.intrinsics))
    tried = [k for k, intrinsics in enumerate(sparse.intrinsics) if views[k] >= _ENOUGH_VIEWS and not intrinsics.given]
    free = np.zeros((len(sparse.intrinsics), 3), bool)
    for camera in tried:
        lens = sparse.intrinsics[camera].lens
        free[camera] = lens.radial != 0.0, *(lens.center != (0.0, 0.0),) * 2
    solution = refine(sparse, free_focal=True, free_lens=free, rounds=rounds, iterations=iterations, sharp=True)
    if solution is None:
        return None
    while (best := _best_trial(sparse, free, tried, iterations)) is not None:
        sparse.restore(best.snapshot)
        free = best.free
        # To convergence, or the next trial would gain from the remaining steps
        solution = refine(sparse, free_focal=True, free_lens=free, rounds=1, iterations=iterations, sharp=True)
    return solution


def _best_trial(sparse: SparseMap, free: np.ndarray, tried: list[int], iterations: int) -> _Trial | None:
    """The lens parameter of ``tried`` cameras most worth freeing, if any is; the map is unchanged."""
    before, ids = sparse.snapshot(), np.flatnonzero(sparse.positioned)
    best, most = None, 0.0
    for camera, (part, price) in product(tried, _PARTS):
        wider = free.copy()
        wider[camera] |= part
        if np.array_equal(wider, free):
            continue
        observations = sparse.observations([v for v in sparse.posed() if sparse.views[v].camera == camera], ids)
        error = _median_error(sparse, ids, observations)
        solution = refine(sparse, free_focal=True, free_lens=wider, rounds=1, iterations=iterations, sharp=True)
        assert solution is not None, "the same could be adjusted before"
        estimated = abs(sparse.intrinsics[camera].lens.radial) >= _SIGNIFICANT * solution.radial_std[camera]
        left = (_median_error(sparse, ids, observations) + _ROUNDING_PX) / (error + _ROUNDING_PX)
        gain = 1.0 - left - price
        if estimated and gain > most:
            best, most = _Trial(wider, sparse.snapshot()), gain
        sparse.restore(before)
    return best


def _median_error(sparse: SparseMap, ids: np.ndarray, observations: tuple[np.ndarray, np.ndarray, Array]) -> float:
    """Pixels, over the ``observations`` of landmarks ``ids`` that more than two views see."""
    view, point, offset = observations
    many = np.bincount(point)[point] > 2
    errors = reprojection_errors(
        sparse.views, sparse.intrinsics, view[many], sparse.points[ids[point[many]]], offset[many]
    )
    return float(np.median(errors)) if len(errors) else float("inf")


_HUBER_PX = (0.1, 1.5)  # range in which the loss may turn linear
_HUBER = 1.345  # the same in standard deviations (Huber, "Robust Statistics", 1981)
_RAYLEIGH_MEDIAN = 1.1774  # of the length of a 2D error, in standard deviations of its coordinates
_ENOUGH_OBSERVATIONS = 30
_LOOP_PRUNING_PX = (40.0, 12.0, 4.0)
_FEWEST_OBSERVATIONS = 10
_FLAT = 0.5  # of the parallax needed to get a position
# Standard deviations for lenses of webcams, phones and depth cameras: the radial term as in Brown's model, in tangents
# of the angle off the axis (wide lenses bend more), and the center in units of half the long edge.
_RADIAL_PRIOR, _CENTER_PRIOR = 0.1, 0.025


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
) -> Solution | None:
    """Bundle adjustment of the ``free`` views (by default all but the first posed one) and the landmarks they see.

    After each round, observations off by more than ``max_error_px`` are dropped; landmarks that keep
    fewer than two, or hardly any parallax, lose their position. Returns the last solution, None
    if there was nothing to adjust. ``free_focal``, for all cameras or (F,): which focals move too;
    ``free_lens`` (F, 3): which radial terms and centers (x, y), never with a fixed focal.
    The loss turns linear at 1.5 pixels; with ``sharp``, for a map that is nearly right, where errors
    stand out from the others, since good images are measured to a tenth of a pixel and matches that
    are wrong by one would bend the map.
    """
    solution = None
    for _ in range(rounds):
        built = _problem(sparse, free, free_focal, free_lens)
        if built is None:
            return solution
        problem, views, ids = built
        huber_px = _standing_out(sparse, problem, views) if sharp else _HUBER_PX[1]
        solution = adjust(problem, huber_px=huber_px, iterations=iterations)
        _accept(sparse, solution, problem, views, ids)
        _prune(sparse, solution, max_error_px, problem, views, ids)
    return solution


def close_loop(sparse: SparseMap, free: Collection[int] | None = None) -> None:
    """Adjust the ``free`` views, by default all, to links that do not fit yet, tightening the outlier limit."""
    for limit in _LOOP_PRUNING_PX:
        refine(sparse, free, free_focal=free is None, rounds=1, max_error_px=limit)


def lens_prior(intrinsics: Intrinsics) -> tuple[float, float, float]:
    """Standard deviations of the lens's radial term at its radius, and of its center (x, y) in radii."""
    return _RADIAL_PRIOR * (intrinsics.lens.radius / intrinsics.focal) ** 2, _CENTER_PRIOR, _CENTER_PRIOR


def _standing_out(sparse: SparseMap, problem: BundleProblem, views: list[int]) -> float:
    """Pixels at which an error stands out, from the median error of landmarks seen more than twice.

    A landmark absorbs some of the error of its n observations: 2 n - 3 of 2 n coordinates are left.
    """
    count = np.bincount(problem.point)[problem.point]
    many = count > 2
    if many.sum() < _ENOUGH_OBSERVATIONS:
        return _HUBER_PX[1]
    points, seen_by = problem.points[problem.point[many]], np.asarray(views)[problem.view[many]]
    errors = reprojection_errors(sparse.views, sparse.intrinsics, seen_by, points, problem.offset[many])
    sigma = np.median(errors / np.sqrt(1.0 - 1.5 / count[many])) / _RAYLEIGH_MEDIAN
    return float(np.clip(_HUBER * sigma, *_HUBER_PX))


def _problem(
    sparse: SparseMap, free: Collection[int] | None, free_focal: bool | np.ndarray, free_lens: np.ndarray | None
) -> tuple[BundleProblem, list[int], np.ndarray] | None:
    moving, ids, (view, point, offset) = _observations_of(sparse, free)
    if len(view) < _FEWEST_OBSERVATIONS:
        return None
    used, point = ranks(point, len(ids))
    ids = ids[used]
    views, local = ranks(view, len(sparse.views))
    known = _views_and_focals(sparse, views)
    open_cameras = np.array([not f.fixed and k in known["camera"] for k, f in enumerate(sparse.intrinsics)])
    problem = BundleProblem(
        **known,
        points=sparse.points[ids],
        view=local,
        point=point,
        offset=offset,
        free=np.array([v in moving for v in views]),
        free_focal=open_cameras & free_focal,
        focal_prior_sigma=np.minimum([f.prior_std for f in sparse.intrinsics], sparse.focal_prior_sigma),
        free_lens=None if free_lens is None else free_lens & open_cameras[:, None],
        lens_prior_sigma=np.array([lens_prior(f) for f in sparse.intrinsics]),
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
    bad = solution.residual > max_error_px
    sparse.drop(np.asarray(views)[problem.view], ids[problem.point], bad)
    kept = np.bincount(problem.point[~bad], minlength=len(ids))
    rays = solution.points[problem.point] - solution.w_T_c[problem.view, :3, 3]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    # Nearly parallel rays put a point anywhere, such as far away, where it harms whatever uses it.
    flat = widest_angle(rays, problem.point, len(ids)) < _FLAT * sparse.min_parallax_deg
    sparse.points[ids[(kept < 2) | flat]] = np.nan
