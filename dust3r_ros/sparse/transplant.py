"""Transfer of an adjustment made on a copy of a sparse map to the map itself, which has grown since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.sparse.landmarks import Intrinsics, SparseView, different
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import join
from dust3r_ros.types import Array


@dataclass(frozen=True, eq=False)
class Adjusted:
    """A sparse map after an adjustment: poses (4, 4) of its views, None where unknown, and what each pruned.

    ``points`` (L, 3); ``known`` (L,): which landmarks had a position before.
    """

    poses: list[Array | None]
    pruned: list[np.ndarray]
    points: Array
    known: np.ndarray
    intrinsics: list[Intrinsics]

    @classmethod
    def of(cls, sparse: SparseMap, known: np.ndarray) -> Adjusted:
        """The state of a map after an adjustment."""
        return cls(
            [None if view.w_T_c is None else view.w_T_c.copy() for view in sparse.views],
            [view.pruned.ids for view in sparse.views],
            sparse.points.copy(),
            known,
            [replace(focal) for focal in sparse.intrinsics],
        )


def adjusted_copy(sparse: SparseMap, adjust: Callable[[], object]) -> Adjusted:
    """The result of ``adjust`` on a copy of the map."""
    before, known = sparse.snapshot(), sparse.positioned.copy()
    kept = [replace(focal) for focal in sparse.intrinsics]
    adjust()
    found = Adjusted.of(sparse, known)
    sparse.restore(before)
    for focal, old in zip(sparse.intrinsics, kept, strict=True):
        vars(focal).update(vars(old))
    return found


def transplant(sparse: SparseMap, adjusted: Adjusted) -> tuple[list[int], bool]:
    """Write the adjustment of a copy into the map; returns the posed views added since, and whether the map is bent.

    These, and landmarks positioned since, move along with the newest adjusted view. Where its surroundings were not
    only moved but bent, that puts them in wrong places: then landmarks positioned since that these views see have no
    position, to be found again from better poses.
    """
    count, landmarks = len(adjusted.poses), len(adjusted.points)
    later = [view for view in range(count, len(sparse.views)) if sparse.views[view].w_T_c is not None]
    follows, bent = _motion(sparse, adjusted)
    for camera in {sparse.views[view].camera for view, w_T_c in enumerate(adjusted.poses) if w_T_c is not None}:
        vars(sparse.intrinsics[camera]).update(vars(adjusted.intrinsics[camera]))  # others may be known better by now
    ids = np.arange(landmarks)
    own = sparse.landmarks.resolved(ids) == ids
    placed = sparse.positioned
    since = placed.copy()
    since[:landmarks] &= ~adjusted.known
    since[:landmarks] &= ~np.isfinite(adjusted.points[:, 0])
    points = sparse.points.copy()
    points[:landmarks][own] = adjusted.points[own]
    points[since] = follows.apply(sparse.points[since])
    if bent:
        seen = different([sparse.views[view].seen.ids for view in later])
        points[seen[since[seen]]] = np.nan
    sparse.points = points
    sparse.points[sparse.landmarks.resolved(sparse.landmarks.barred)] = np.nan  # some of them since the copy was made
    for view, w_T_c, pruned in zip(sparse.views, adjusted.poses, adjusted.pruned, strict=False):
        view.w_T_c = w_T_c
        _prune(sparse, view, pruned)
    for index in later:
        sparse.views[index].w_T_c = follows.pose(sparse.views[index].pose)
    return later, bent


def _prune(sparse: SparseMap, view: SparseView, pruned: np.ndarray) -> None:
    """Prune a view's observations as the adjustment did, and of barred landmarks; others added since stay."""
    every = join(view.seen, view.pruned).unique()
    out = np.isin(every.ids, sparse.landmarks.resolved(pruned)) | sparse.landmarks.is_barred(every.ids)
    view.seen, view.pruned = every.select(~out), every.select(out)


_BENT = 0.03  # of the distance


def _motion(sparse: SparseMap, adjusted: Adjusted) -> tuple[Similarity, bool]:
    """The similarity that moves the surroundings of the newest adjusted view as the adjustment did; whether it bent
    them: landmarks are elsewhere than that says.
    """
    posed = [
        index
        for index, w_T_c in enumerate(adjusted.poses)
        if w_T_c is not None and sparse.views[index].w_T_c is not None
    ]
    if not posed:
        return Similarity.identity(), False
    old, new = sparse.views[posed[-1]].w_T_c, adjusted.poses[posed[-1]]
    assert old is not None and new is not None
    ids = sparse.known_in(posed[-1]).ids
    ids = ids[ids < len(adjusted.points)]
    ids = ids[np.isfinite(adjusted.points[ids, 0])]
    before = np.linalg.norm(sparse.points[ids] - old[:3, 3], axis=1)
    after = np.linalg.norm(adjusted.points[ids] - new[:3, 3], axis=1)
    scale = float(np.median(after / np.maximum(before, 1e-12))) if len(ids) else 1.0
    R = new[:3, :3] @ old[:3, :3].T
    follows = Similarity(scale, R, new[:3, 3] - scale * R @ old[:3, 3])
    off = np.linalg.norm(follows.apply(sparse.points[ids]) - adjusted.points[ids], axis=1)
    return follows, bool(len(ids)) and bool(np.median(off / np.maximum(after, 1e-12)) > _BENT)
