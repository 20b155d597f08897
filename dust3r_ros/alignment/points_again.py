"""Positions of landmarks found from what is seen of them, with poses, focals and lenses as they are."""

from __future__ import annotations

import numpy as np

from dust3r_ros.alignment.reprojection import Huber, fit, settle
from dust3r_ros.alignment.sight_lines import ranks
from dust3r_ros.alignment.sights import Problem, Sights, State
from dust3r_ros.alignment.sparse_map import MAX_ERROR_PX, SparseMap

_LOSS = Huber(1.5)
_STEPS = 6
_CHUNK = 200_000  # landmarks at a time: some hundred megabytes


def find_points(sparse: SparseMap) -> None:
    """Give every landmark that posed views see under enough parallax its position; poses and sights stay.

    Triangulated, then moved to where the robust reprojection error is least: where a bundle
    adjustment leaves it. What is not seen twice within the error limit keeps none.
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
    problem = Problem(
        w_T_c=np.stack([sparse.views[v].w_T_c for v in views]),
        camera=np.array([sparse.views[v].camera for v in views]),
        focals=np.array([focal.value for focal in sparse.focals]),
        points=points[rows],
        view=where,
        point=local,
        offset=offset,
        free=np.zeros(len(views), bool),
        free_focal=np.zeros(len(sparse.focals), bool),
        focal_prior=np.array([focal.prior for focal in sparse.focals]),
        lenses=[focal.lens for focal in sparse.focals],
    )
    sights = Sights(problem)
    state = State.of(problem, sights)
    at = fit(sights, state, _LOSS)
    for _ in range(_STEPS):
        state, at = settle(sights, state, at, _LOSS)
    good = sights.by_point((at.valid & (at.r < MAX_ERROR_PX)).astype(np.float64)) > 1.5
    sparse.points[ids[rows[good]]] = state.points.T[good]
