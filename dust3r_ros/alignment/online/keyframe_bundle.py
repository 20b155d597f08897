"""Aligned keyframes refined by reprojection: landmarks from their features, bundle adjustment from where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dust3r_ros.features.features import Features, matched
from dust3r_ros.sparse.refinement import refine
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.sparse.views import Focal
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.types import Array

_MIN_LANDMARKS = 40  # a keyframe that sees fewer stays where its pointmaps have it
_FOCAL_SIGMA = 0.01  # relative, of focals that pointmaps tell, however sure they are of it
_PRUNING_PX = (20.0, 8.0, 4.0)  # poses from pointmaps are off by some pixels


@dataclass(frozen=True, eq=False)
class Posed:
    """A keyframe: index of its camera, ``w_T_c`` (4, 4), features as offsets in the tracked image."""

    camera: int
    w_T_c: Array
    features: Features


@dataclass(frozen=True, eq=False)
class Sight:
    """A refined keyframe: ``w_T_c`` (4, 4), and ``depths`` (N,) z of landmarks it sees at ``offsets`` (N, 2)."""

    w_T_c: Array
    offsets: Array
    depths: Array


def bundle(
    keyframes: Sequence[Posed], edges: Sequence[tuple[int, int]], focals: Sequence[Focal], min_parallax_deg: float
) -> tuple[dict[int, Sight], list[Focal]]:
    """Refined keyframes by index, and focals. Those with too few landmarks are left out; none: nothing was changed.

    ``edges`` (first, second) say which keyframes are searched for common features. The scale of the
    map is free; the first keyframe stays where it is.
    """
    sparse = SparseMap(min_parallax_deg, focal_prior_sigma=_FOCAL_SIGMA)
    sparse.focals = [replace(focal, prior=focal.value) for focal in focals]
    ids = []
    for keyframe in keyframes:
        index = sparse.add(keyframe.camera, no_tracks(), keyframe.w_T_c)
        ids.append(sparse.new_ids(len(keyframe.features.pixels)))
        sparse.observe(index, Tracks(ids[-1], keyframe.features.pixels))
    for first, second in edges:
        pairs = matched(keyframes[first].features, keyframes[second].features)
        sparse.merge(ids[first][pairs[:, 0]], ids[second][pairs[:, 1]])
    before = sparse.misfit()
    for limit in _PRUNING_PX:
        sparse.extend(max_error_px=limit)
        for view in sparse.views:
            if len(sparse.known(view.seen).ids) < _MIN_LANDMARKS:
                view.w_T_c = None
        refine(sparse, free_focal=True, rounds=1, iterations=20, max_error_px=limit)
    if not sparse.misfit() < before:
        return {}, list(focals)
    refined = [replace(focal, prior=given.prior) for focal, given in zip(sparse.focals, focals, strict=True)]
    return {index: _sight(sparse, index) for index in sparse.posed()}, refined


def _sight(sparse: SparseMap, index: int) -> Sight:
    view = sparse.views[index]
    assert view.w_T_c is not None, "only posed keyframes are refined"
    known = sparse.known(view.seen)
    return Sight(view.w_T_c, known.pixels, sparse.depths(index, known.ids))
