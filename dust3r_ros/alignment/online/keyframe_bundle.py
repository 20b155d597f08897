"""What a placed keyframe's pairs and features then refine: depth, focals, poses of its neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.moments import inverse, scale_of
from dust3r_ros.alignment.objective import EdgeReport
from dust3r_ros.alignment.online.keyframe_start import rigid
from dust3r_ros.alignment.online.loop_verification import Tolerance
from dust3r_ros.features.features import Features, matched
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.lens_refinement import consider_lenses, refine_lenses
from dust3r_ros.sparse.refinement import refine
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.types import Array, Array32

# Smaller motions count as none.
_STILL = Tolerance(rotation=1e-3, translation=1e-3, log_scale=1e-3)


@dataclass(frozen=True, eq=False)
class KeyframeUpdate:
    """The current state of a keyframe; a later ``version`` replaces an earlier one.

    ``scale``: map units per canonical unit; the keyframe's depth in the map is ``scale`` times its
    canonical depth. ``depth`` (H, W) is canonical z, 0 where unknown, with ``confidence`` >= 1: it comes
    once, when the keyframe leaves the window and its depth is final; None otherwise.
    """

    index: int
    version: int
    w_T_c: Array
    scale: float
    focal: float
    depth: Array32 | None = None
    confidence: Array32 | None = None


@dataclass(frozen=True, eq=False)
class AlignmentUpdate:
    """What one keyframe changed.

    ``changed``: keyframes that are new, moved or settled. ``closed``: (first, second) of the accepted loop
    pairs; ``switched_off``: pairs found to be wrong. ``solved``: the whole graph was solved.
    """

    changed: tuple[KeyframeUpdate, ...]
    closed: tuple[tuple[int, int], ...] = ()
    switched_off: tuple[EdgeReport, ...] = ()
    solved: bool = False


class ReportedPoses:
    """The keyframes as last reported, each with its version number."""

    def __init__(self) -> None:
        self._reported = np.zeros((64, 4, 4))
        self._versions = np.zeros(64, dtype=np.int64)
        self._known = 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._reported.nbytes + self._versions.nbytes

    def report(
        self,
        w_S: Array,
        since: int,
        focals: Mapping[int, float],
        depth: Mapping[int, tuple[Array32, Array32]],
    ) -> tuple[KeyframeUpdate, ...]:
        """New versions of keyframes from ``since`` on that moved, are new or have ``depth`` to report.

        ``w_S`` (K, 4, 4) is the map; ``focals`` (pixels) by keyframe.
        """
        while len(w_S) > len(self._reported):
            self._reported = np.concatenate([self._reported, np.zeros_like(self._reported)])
            self._versions = np.concatenate([self._versions, np.zeros_like(self._versions)])
        reported, since = self._reported[since : self._known], min(since, self._known)
        moved = np.concatenate(
            [~_still(reported, w_S[since : self._known]), np.ones(len(w_S) - self._known, dtype=bool)]
        )
        indices = np.union1d(np.flatnonzero(moved) + since, np.array(list(depth), dtype=np.int64))
        self._reported[indices] = w_S[indices]
        self._versions[indices] += 1
        self._known = len(w_S)
        return tuple(
            KeyframeUpdate(
                index, int(self._versions[index]), pose, float(scale), focals[index], *depth.get(index, (None, None))
            )
            for index, pose, scale in zip(indices.tolist(), rigid(w_S[indices]), scale_of(w_S[indices]), strict=True)
        )


def _still(old: Array, new: Array) -> NDArray[np.bool_]:
    """(K,) whether similarities (K, 4, 4) are practically equal."""
    return _STILL.holds(inverse(old) @ new)


_MIN_LANDMARKS = 40  # a keyframe that sees fewer stays where its pointmaps put it
_PRUNING_PX = (20.0, 8.0, 4.0)  # poses from pointmaps are off by some pixels
_LENS_ROUNDS = 2


@dataclass(frozen=True, eq=False)
class Posed:
    """A keyframe: index of its camera, ``w_T_c`` (4, 4), and what its tracked image shows, as offsets.

    ``corners``: its own, of which the first are its ``features``; their ids are numbered through from the first
    keyframe on. ``followed``: corners of earlier keyframes.
    """

    camera: int
    w_T_c: Array
    features: Features
    corners: Tracks
    followed: Tracks


@dataclass(frozen=True, eq=False)
class RefinedKeyframe:
    """A refined keyframe: ``w_T_c`` (4, 4), and ``depths`` (N,) z of landmarks it sees at ``offsets`` (N, 2)."""

    w_T_c: Array
    offsets: Array
    depths: Array


@dataclass(frozen=True, eq=False)
class RefinedMap:
    """Refined ``keyframes`` by index, ``intrinsics`` with lenses, and ``positions`` (N, 3) of corners by id, or NaN."""

    keyframes: Mapping[int, RefinedKeyframe]
    intrinsics: Sequence[Intrinsics]
    positions: Array


def bundle(
    keyframes: Sequence[Posed],
    edges: Sequence[tuple[int, int]],
    intrinsics: Sequence[Intrinsics],
    min_parallax_deg: float,
) -> RefinedMap | None:
    """The refined map; keyframes with too few landmarks are left out. None if nothing became better.

    ``edges`` (first, second) say which keyframes are searched for common features. The scale of the
    map is free; the first keyframe stays where it is. Focals have those of ``intrinsics`` as priors, with their
    deviations. Lenses are free, because what looks like distortion would bend focals and poses.
    """
    sparse = SparseMap(min_parallax_deg, focal_prior_sigma=np.array([given.std for given in intrinsics]))
    sparse.intrinsics = [replace(given, prior=given.focal) for given in intrinsics]
    for keyframe in keyframes:
        index = sparse.add(keyframe.camera, no_tracks(), keyframe.w_T_c)
        sparse.landmarks.new(len(keyframe.corners.ids))
        sparse.observe(index, keyframe.corners)
        sparse.observe(index, keyframe.followed)
    for first, second in edges:
        pairs = matched(keyframes[first].features, keyframes[second].features)
        sparse.merge(keyframes[first].corners.ids[pairs[:, 0]], keyframes[second].corners.ids[pairs[:, 1]])
    before = sparse.misfit()
    for limit in _PRUNING_PX:
        sparse.extend(max_error_px=limit)
        for index, view in enumerate(sparse.views):
            if len(sparse.known_in(index).ids) < _MIN_LANDMARKS:
                view.w_T_c = None
        refine(sparse, free_focal=True, rounds=1, iterations=20, max_error_px=limit)
    refine_lenses(sparse, rounds=_LENS_ROUNDS, fewest_views=1)
    consider_lenses(sparse)
    if not sparse.misfit() < before:
        return None
    positions = sparse.points[sparse.landmarks.resolved(np.arange(len(sparse.points)))]
    refined = {index: _refined_keyframe(sparse, index) for index in sparse.posed()}
    found = [replace(own, prior=given.prior) for own, given in zip(sparse.intrinsics, intrinsics, strict=True)]
    return RefinedMap(refined, found, positions)


def _refined_keyframe(sparse: SparseMap, index: int) -> RefinedKeyframe:
    known = sparse.known_in(index)
    return RefinedKeyframe(sparse.views[index].pose, known.pixels, sparse.depths(index, known.ids))
