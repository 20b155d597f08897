"""A sparse map refined by reprojection: which views move, what is pruned."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from dust3r_ros.alignment.bundle import Solution, adjust
from dust3r_ros.alignment.sight_lines import different, ranks, sight_errors
from dust3r_ros.alignment.sights import Problem
from dust3r_ros.alignment.sparse_map import MAX_ERROR_PX, SparseMap
from dust3r_ros.alignment.sparse_view import Focal
from dust3r_ros.alignment.triangulation import widest_angle

_HUBER_PX = (0.1, 1.5)  # where the loss may turn linear
_HUBER = 1.345  # the same in standard deviations (Huber, "Robust Statistics", 1981)
_RAYLEIGH_MEDIAN = 1.1774  # of the length of a 2D error, in standard deviations of its coordinates
_ENOUGH_SIGHTS = 30
_LOOP_PRUNING_PX = (40.0, 12.0, 4.0)
_FLAT = 0.5  # of the parallax that it takes to get a position
# Standard deviations of what lenses of webcams, phones and depth cameras do: the radial term as in Brown's model, which
# counts in tangents of the angle off the axis (wide lenses bend more), and the center in parts of half the long edge.
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
    """Bundle adjustment of the ``free`` views (all but the first posed one by default) and what they see.

    After each round, observations off by more than ``max_error_px`` are dropped; landmarks that keep
    fewer than two, or hardly any parallax, lose their position. Returns the last solution, None
    when there was nothing to adjust. ``free_focal``, of all cameras or (F,): which focals move too, and
    ``free_lens`` (F, 3): which radial terms and centers (x, y); of a focal that is fixed neither ever does.
    The loss turns linear at 1.5 pixels. ``sharp``, for a map that is nearly right: where errors stand
    out from the others, since good images are measured to a tenth of a pixel and matches that are
    wrong by one would bend the map.
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


def close_loop(sparse: SparseMap) -> None:
    """Adjust everything to links that do not fit yet, with ever fewer outliers."""
    for limit in _LOOP_PRUNING_PX:
        refine(sparse, free_focal=True, rounds=1, max_error_px=limit)


def lens_prior(focal: Focal) -> tuple[float, float, float]:
    """Standard deviations of the lens's radial term at its radius, and of its center (x, y) in radii."""
    return _RADIAL_PRIOR * (focal.lens.radius / focal.value) ** 2, _CENTER_PRIOR, _CENTER_PRIOR


def _standing_out(sparse: SparseMap, problem: Problem, views: list[int]) -> float:
    """Pixels at which an error stands out, from the median error of landmarks that are seen more than twice.

    A landmark takes up some of the error of its n sights: 2 n - 3 of 2 n coordinates are left.
    """
    count = np.bincount(problem.point)[problem.point]
    many = count > 2
    if many.sum() < _ENOUGH_SIGHTS:
        return _HUBER_PX[1]
    points, seen_by = problem.points[problem.point[many]], np.asarray(views)[problem.view[many]]
    errors = sight_errors(sparse.views, sparse.focals, seen_by, points, problem.offset[many])
    sigma = np.median(errors / np.sqrt(1.0 - 1.5 / count[many])) / _RAYLEIGH_MEDIAN
    return float(np.clip(_HUBER * sigma, *_HUBER_PX))


def _problem(
    sparse: SparseMap, free: Collection[int] | None, free_focal: bool | np.ndarray, free_lens: np.ndarray | None
) -> tuple[Problem, list[int], np.ndarray] | None:
    posed = sparse.posed()
    moving = set(posed[1:] if free is None else free) & set(posed)
    if not moving:
        return None
    ids = different([sparse.views[v].seen.ids for v in moving])
    ids = ids[np.isfinite(sparse.points[ids, 0])]
    sources = posed if free is None else sparse.around(moving, ids)
    view, point, offset = sparse.observations(sources, ids)
    if len(view) < 10:
        return None
    used, point = ranks(point, len(ids))
    ids = ids[used]
    views, local = ranks(view, len(sparse.views))
    camera = np.array([sparse.views[v].camera for v in views])
    open_cameras = np.array([not f.fixed and k in camera for k, f in enumerate(sparse.focals)])
    problem = Problem(
        w_T_c=np.stack([sparse.views[v].w_T_c for v in views]),
        camera=camera,
        focals=np.array([f.value for f in sparse.focals]),
        points=sparse.points[ids],
        view=local,
        point=point,
        offset=offset,
        free=np.array([v in moving for v in views]),
        free_focal=open_cameras & free_focal,
        focal_prior=np.array([f.prior for f in sparse.focals]),
        focal_prior_sigma=np.minimum([f.prior_std for f in sparse.focals], sparse.focal_prior_sigma),
        lenses=[f.lens for f in sparse.focals],
        free_lens=None if free_lens is None else free_lens & open_cameras[:, None],
        lens_prior_sigma=np.array([lens_prior(f) for f in sparse.focals]),
    )
    return problem, list(views), ids


def _accept(sparse: SparseMap, solution: Solution, problem: Problem, views: list[int], ids: np.ndarray) -> None:
    for local in np.flatnonzero(problem.free):
        sparse.views[views[local]].w_T_c = solution.w_T_c[local]
    for k, std in zip(np.flatnonzero(problem.free_focal), solution.focal_std, strict=True):
        sparse.focals[k].value = float(solution.focals[k])
        sparse.focals[k].std = float(std)
    if problem.free_lens is not None:
        for k in np.flatnonzero(problem.free_lens.any(axis=1)):
            sparse.focals[k].lens = solution.lenses[k]
    sparse.points[ids] = solution.points


def _prune(
    sparse: SparseMap, solution: Solution, max_error_px: float, problem: Problem, views: list[int], ids: np.ndarray
) -> None:
    bad = solution.residual > max_error_px
    sparse.drop(np.asarray(views)[problem.view], ids[problem.point], bad)
    kept = np.bincount(problem.point[~bad], minlength=len(ids))
    rays = solution.points[problem.point] - solution.w_T_c[problem.view, :3, 3]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    # Rays that turn out parallel put a point anywhere, far away for instance, where it harms what uses it.
    flat = widest_angle(rays, problem.point, len(ids)) < _FLAT * sparse.min_parallax_deg
    sparse.points[ids[(kept < 2) | flat]] = np.nan
