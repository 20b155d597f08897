"""What a placed keyframe's pairs and features then refine: depth, focals, poses of its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from dust3r_ros.alignment.moments import inverse, scale_of
from dust3r_ros.alignment.objective import EdgeReport
from dust3r_ros.alignment.online.keyframe_start import rigid
from dust3r_ros.alignment.online.loop_verification import Tolerance
from dust3r_ros.features.features import Features, matched
from dust3r_ros.sparse.consistency import consider_contradictions
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.sparse.lens_refinement import consider_lenses, refine_lenses
from dust3r_ros.sparse.refinement import place_landmarks, refine
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
# Landmarks of a keyframe that determine its pose better than any pointmap, the share of keyframes that must see so
# many, and the deviation of a focal, relative, that says little: networks are off by that.
_PLENTY, _MOST, _VAGUE = 250, 0.9, 0.1
_SHARED, _BESIDE = 20, 8  # keyframes with so many landmarks in common may have more; with so many others, at most


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
    """Refined ``keyframes`` by index, ``intrinsics`` with lenses, and ``positions`` (N, 3) of corners by id, or NaN.

    ``certain``: there are so many landmarks that pointmaps that contradict them are wrong. ``contradicted`` (K,): the
    share of what each keyframe sees that contradicts the map.
    """

    keyframes: Mapping[int, RefinedKeyframe]
    intrinsics: Sequence[Intrinsics]
    positions: Array
    certain: bool
    contradicted: Array


def bundle(
    keyframes: Sequence[Posed],
    edges: Sequence[tuple[int, int]],
    intrinsics: Sequence[Intrinsics],
    min_parallax_deg: float,
    measured: Callable[[SparseMap], AbstractContextManager[object]] = nullcontext,
) -> RefinedMap | None:
    """The refined map; keyframes with too few landmarks are left out. None if nothing became better.

    ``edges`` (first, second) say which keyframes are searched for common features. The scale of the
    map is free; the first keyframe stays where it is. Focals have those of ``intrinsics`` as priors, with their
    deviations. Lenses are free, because what looks like distortion would bend focals and poses. The last adjustment is
    of what is ``measured`` in the images, view by view that of ``keyframes``.
    """
    sparse = _observed(keyframes, intrinsics, min_parallax_deg)
    _link(sparse, keyframes, edges)
    before = sparse.misfit()
    for limit in _PRUNING_PX:
        sparse.extend(max_error_px=limit)
        for index, view in enumerate(sparse.views):
            if len(sparse.known_in(index).ids) < _MIN_LANDMARKS:
                view.w_T_c = None
        refine(sparse, free_focal=True, rounds=1, iterations=20, max_error_px=limit)
    refine_lenses(sparse, rounds=_LENS_ROUNDS, fewest_views=1)
    if not sparse.misfit() < before:
        return None
    _link(sparse, keyframes, _covisible(sparse, edges))
    sparse.unprune()  # poses were too far off to tell what is wrong
    place_landmarks(sparse)
    with measured(sparse):
        refine_lenses(sparse, fewest_views=1)
        consider_lenses(sparse)
    contradicted = consider_contradictions(sparse)
    positions = sparse.points[sparse.landmarks.resolved(np.arange(len(sparse.points)))]
    refined = {index: _refined_keyframe(sparse, index) for index in sparse.posed()}
    found = [replace(own, prior=given.prior) for own, given in zip(sparse.intrinsics, intrinsics, strict=True)]
    return RefinedMap(refined, found, positions, _is_certain(sparse), contradicted)


def _observed(keyframes: Sequence[Posed], intrinsics: Sequence[Intrinsics], min_parallax_deg: float) -> SparseMap:
    sparse = SparseMap(min_parallax_deg, focal_prior_sigma=np.array([given.std for given in intrinsics]))
    sparse.intrinsics = [replace(given, prior=given.focal) for given in intrinsics]
    for keyframe in keyframes:
        index = sparse.add(keyframe.camera, no_tracks(), keyframe.w_T_c)
        sparse.landmarks.new(len(keyframe.corners.ids))
        sparse.observe(index, keyframe.corners)
        sparse.observe(index, keyframe.followed)
    return sparse


def _link(sparse: SparseMap, keyframes: Sequence[Posed], pairs: Iterable[tuple[int, int]]) -> None:
    """Merge landmarks of features that match in pairs of keyframes."""
    for first, second in pairs:
        rows = matched(keyframes[first].features, keyframes[second].features)
        sparse.merge(keyframes[first].corners.ids[rows[:, 0]], keyframes[second].corners.ids[rows[:, 1]])


def _covisible(sparse: SparseMap, known: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of keyframes that share landmarks, other than the ``known`` ones."""
    posed, ids = sparse.posed(), np.flatnonzero(sparse.positioned)
    view, point, _ = sparse.observations(posed, ids)
    shows = coo_array((np.ones(len(view)), (view, point)), shape=(len(sparse.views), len(ids))).tocsr()
    shared = (shows @ shows.T).toarray()
    np.fill_diagonal(shared, 0)
    for first, second in known:
        shared[first, second] = shared[second, first] = 0
    beside = {view: np.argsort(-shared[view], kind="stable")[:_BESIDE].tolist() for view in posed}
    return sorted({(min(v, o), max(v, o)) for v in posed for o in beside[v] if shared[v, o] >= _SHARED})


def _is_certain(sparse: SparseMap) -> bool:
    """Whether landmarks alone determine a map: most keyframes see plenty, and these determine the focals."""
    posed = sparse.posed()
    plenty = sum(len(sparse.known_in(view).ids) >= _PLENTY for view in posed)
    std = max(sparse.intrinsics[sparse.views[view].camera].std for view in posed)
    return plenty >= _MOST * len(sparse.views) and std < _VAGUE


def _refined_keyframe(sparse: SparseMap, index: int) -> RefinedKeyframe:
    known = sparse.known_in(index)
    return RefinedKeyframe(sparse.views[index].pose, known.pixels, sparse.depths(index, known.ids))
