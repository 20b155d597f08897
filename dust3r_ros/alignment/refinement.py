"""A sparse map refined by reprojection: which views move, what is pruned."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from dust3r_ros.alignment.bundle import Problem, Solution, adjust
from dust3r_ros.alignment.sparse_map import MAX_ERROR_PX, SparseMap

_HUBER_PX = 1.5


def refine(
    sparse: SparseMap,
    free: Collection[int] | None = None,
    *,
    free_focal: bool = False,
    rounds: int = 2,
    iterations: int = 15,
    max_error_px: float = MAX_ERROR_PX,
) -> Solution | None:
    """Bundle adjustment of the ``free`` views (all but the first posed one by default) and what they see.

    After each round, observations off by more than ``max_error_px`` are dropped, and landmarks
    that keep fewer than two. Returns the last solution, None when there was nothing to adjust.
    """
    solution = None
    for _ in range(rounds):
        built = _problem(sparse, free, free_focal)
        if built is None:
            return solution
        problem, views, ids = built
        solution = adjust(problem, huber_px=_HUBER_PX, iterations=iterations)
        _accept(sparse, solution, problem, views, ids)
        _prune(sparse, solution.residual > max_error_px, problem, views, ids)
    return solution


def _problem(
    sparse: SparseMap, free: Collection[int] | None, free_focal: bool
) -> tuple[Problem, list[int], np.ndarray] | None:
    posed = sparse.posed()
    moving = set(posed[1:] if free is None else free) & set(posed)
    if not moving:
        return None
    ids = np.unique(np.concatenate([sparse.views[v].seen.ids for v in sorted(moving)]))
    ids = ids[np.isfinite(sparse.points[ids, 0])]
    sources = posed if free is None else sparse.around(moving, ids)
    view, point, offset = sparse.observations(sources, ids)
    if len(view) < 10:
        return None
    used, point = np.unique(point, return_inverse=True)
    ids = ids[used]
    views, local = np.unique(view, return_inverse=True)
    camera = np.array([sparse.views[v].camera for v in views])
    problem = Problem(
        w_T_c=sparse.poses()[views],
        camera=camera,
        focals=np.array([f.value for f in sparse.focals]),
        points=sparse.points[ids],
        view=local,
        point=point,
        offset=offset,
        free=np.array([v in moving for v in views]),
        free_focal=np.array([free_focal and not f.fixed and k in camera for k, f in enumerate(sparse.focals)]),
        focal_prior=np.array([f.prior for f in sparse.focals]),
        focal_prior_sigma=sparse.focal_prior_sigma,
    )
    return problem, list(views), ids


def _accept(sparse: SparseMap, solution: Solution, problem: Problem, views: list[int], ids: np.ndarray) -> None:
    for local in np.flatnonzero(problem.free):
        sparse.views[views[local]].w_T_c = solution.w_T_c[local]
    for k, std in zip(np.flatnonzero(problem.free_focal), solution.focal_std, strict=True):
        sparse.focals[k].value = float(solution.focals[k])
        sparse.focals[k].std = float(std)
    sparse.points[ids] = solution.points


def _prune(sparse: SparseMap, bad: np.ndarray, problem: Problem, views: list[int], ids: np.ndarray) -> None:
    sparse.drop(np.asarray(views)[problem.view], ids[problem.point], bad)
    kept = np.bincount(problem.point[~bad], minlength=len(ids))
    sparse.points[ids[kept < 2]] = np.nan
