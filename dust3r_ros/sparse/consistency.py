"""How much of what keyframes see contradicts the map, and rebuilding of a stretch where much does.

A map that is right explains nearly all that its keyframes see. Where it is bent, folded by a false loop, or follows
something large that moves, much of that has been pruned, while the rest still fits to a fraction of a pixel: the
errors of what was kept do not show it.

Poses found one after the other do not recover from a wrong one: where steps are wide and walls flat, two views have a
second, wrong explanation, and all that follows is built on it. Begun elsewhere in the stretch, and joined to the rest
of the map afterwards, the same observations lead out of it. Where a pattern repeats, a single keyframe may be taken for
its neighbour's place; what others see of the map then tells where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from typing import NamedTuple

import numpy as np

from dust3r_ros.errors import GeometryError
from dust3r_ros.sparse.initialization import Options, bootstrap, score
from dust3r_ros.sparse.landmarks import different
from dust3r_ros.sparse.map_merging import fit_maps
from dust3r_ros.sparse.refinement import close_loop, place_landmarks, refine
from dust3r_ros.sparse.sparse_map import MAX_ERROR_PX, SparseMap
from dust3r_ros.tracking import join, no_tracks
from dust3r_ros.types import Array

_FEWEST_SEEN = 20  # observations
_RUN = 5  # keyframes: one that is blurred is no evidence
_END = 2 / 3  # of the share that is doubtful, where a stretch ends
_ALONE, _AGREEING = 0.3, 1 / 3  # share that contradicts, of one keyframe; of it, around it


class Doubt(NamedTuple):
    """Keyframes ``first`` to ``last``, and the largest share of observations that contradict the map, of a few in a
    row.
    """

    first: int
    last: int
    share: float

    def overlaps(self, other: Doubt) -> bool:
        """Whether most of it is in another one."""
        shared = min(self.last, other.last) - max(self.first, other.first) + 1
        return 2 * shared > self.last - self.first + 1


def contradicted(sparse: SparseMap, views: Collection[int] | None = None) -> Array:
    """(V,) by keyframe, the share of its observations that are off by four pixels or more; NaN where there are few.

    ``views``: only these are asked, by default all. Landmarks seen at least twice count, including pruned
    observations; one without a position is placed where its rays meet, so a lack of parallax contradicts nothing.
    """
    chosen = [view for view in (sparse.posed() if views is None else views) if sparse.views[view].w_T_c is not None]
    entries = [sparse.views[view] for view in chosen]
    ids = different([tracks.ids for entry in entries for tracks in (entry.seen, entry.pruned)])
    sources = sparse.posed() if views is None else sparse.around(chosen, ids)
    view, point, offset = sparse.observations(sources, ids, pruned=True)
    off = ~(sparse.errors_if_placed(ids, view, point, offset) < MAX_ERROR_PX)
    seen = np.bincount(view, minlength=len(sparse.views))
    shares = np.bincount(view, weights=off, minlength=len(sparse.views)) / np.maximum(seen, 1)
    asked = np.isin(np.arange(len(sparse.views)), chosen)
    return np.where(asked & (seen >= _FEWEST_SEEN), shares, np.nan)


def in_a_row(shares: Array) -> Array:
    """(V,) the mean of the shares of five keyframes in a row, around each or at an end of the sequence.

    NaN is left out, and stays.
    """
    known, half = np.isfinite(shares), _RUN // 2
    values = np.stack([np.where(known, shares, 0.0), known])
    padded = np.pad(values, ((0, 0), (half, half)))
    sums = np.sum([padded[:, at : at + len(shares)] for at in range(_RUN)], axis=0)
    total, count = sums[:, np.clip(np.arange(len(shares)), half, max(len(shares) - 1 - half, 0))]
    return np.where(known, total / np.maximum(count, 1), np.nan)


def average(shares: Array) -> float:
    """The mean of the known shares, 0 while none is known."""
    known = shares[np.isfinite(shares)]
    return float(known.mean()) if len(known) else 0.0


def consider_contradictions(sparse: SparseMap) -> Array:
    """Set by how much the map is in doubt, which widens the deviations of its focals. Returns ``contradicted``."""
    shares = contradicted(sparse)
    doubt = average(shares)
    for intrinsics in sparse.intrinsics:
        intrinsics.contradicted = doubt
    return shares


def worst(shares: Array) -> float:
    """The largest share of some keyframes in a row, 0 while none is known."""
    return float(np.nanmax(in_a_row(shares), initial=0.0))


def doubts(shares: Array, above: float) -> list[Doubt]:
    """Stretches of keyframes with more than ``above``, as far as it is more than two thirds of that; worst first."""
    mean = np.nan_to_num(in_a_row(shares))
    wide = np.flatnonzero(np.diff(np.concatenate([[False], mean > _END * above, [False]])))
    found = [Doubt(first, end - 1, float(mean[first:end].max())) for first, end in wide.reshape(-1, 2).tolist()]
    return sorted((doubt for doubt in found if doubt.share > above), key=lambda doubt: -doubt.share)


def outliers(shares: Array) -> list[Doubt]:
    """Single keyframes of which much contradicts a map that two before and two after them agree with; worst first."""
    half = _RUN // 2
    padded = np.pad(shares, half, constant_values=np.nan)
    around = np.stack([padded[at : at + len(shares)] for at in range(_RUN) if at != half])
    found = np.flatnonzero((shares > _ALONE) & (np.median(around, axis=0) < _AGREEING * shares)).tolist()
    return sorted((Doubt(k, k, float(shares[k])) for k in found), key=lambda doubt: -doubt.share)


_FEWEST_VIEWS, _MOST_VIEWS = 5, 60
_REST = 3  # keyframes that are not rebuilt
_POSED = 0.7  # of the stretch
_SMALLER = 0.9  # of its misfit, by itself
_LESS = 0.67  # of the share of a single keyframe
_SHARED = 12  # landmarks that tie it to the rest
_FIT_PX = 8.0
_ROUNDS = 3

Starts = Callable[[int], Sequence[Options]]


def rebuild(sparse: SparseMap, camera: int, above: float, starts: Starts) -> bool:
    """Rebuild stretches of which more than ``above`` contradicts the map, where that explains the whole better.

    All views must be of ``camera``. ``starts(count)``: the ways to begin with so many views. Returns whether the map
    changed.
    """
    changed = False
    for _ in range(_ROUNDS):
        doubtful = doubts(contradicted(sparse), above)
        if not any(_rebuilt(sparse, camera, doubt, starts) for doubt in doubtful):
            break
        changed = True
    return changed


def pose_anew(sparse: SparseMap) -> bool:
    """Pose single keyframes anew that contradict the map around them; returns whether the map changed."""
    return any([_posed_anew(sparse, doubt) for doubt in outliers(contradicted(sparse))])


def _posed_anew(sparse: SparseMap, doubt: Doubt) -> bool:
    """Pose a keyframe by a map without it, if it then contradicts that much less and the whole is explained better."""
    view, before, misfit = doubt.first, sparse.snapshot(), sparse.misfit()
    entry = sparse.views[view]
    seen = join(entry.seen, entry.pruned).unique()
    entry.w_T_c, entry.seen, entry.pruned = None, no_tracks(), no_tracks()
    place_landmarks(sparse)
    try:
        entry.w_T_c = sparse.locate(entry.camera, seen, _SHARED).w_T_c
    except GeometryError:
        sparse.restore(before)
        return False
    entry.seen = seen
    place_landmarks(sparse)
    refine(sparse, range(max(view - _REST, 0), min(view + _REST + 1, len(sparse.views))))
    sparse.extend()
    if contradicted(sparse, [view])[view] < _LESS * doubt.share and sparse.misfit() < misfit:
        return True
    sparse.restore(before)
    return False


def _rebuilt(sparse: SparseMap, camera: int, doubt: Doubt, starts: Starts) -> bool:
    """Rebuild one stretch, or a part of it with all before or after it, whichever explains the whole map best."""
    views, options = sparse.posed(), starts(len(sparse.views))[0]
    limit, most = options.better * score(sparse, views, camera, options), worst(contradicted(sparse))
    best = None
    for stretch in _stretches(sparse, doubt):
        trial = _joined(sparse, camera, stretch, starts)
        if trial is None:
            continue
        misfit = score(trial, views, camera, options)
        if misfit < limit and worst(contradicted(trial)) <= most:
            best, limit = trial, misfit
    if best is None:
        return False
    sparse.restore(best.snapshot())
    return True


def _stretches(sparse: SparseMap, doubt: Doubt) -> list[list[int]]:
    """What may be rebuilt by itself: the wrong pose may be anywhere in the doubtful stretch, or just before it."""
    first, end, count = doubt.first, doubt.last + 1, len(sparse.views)
    cuts = [first, (2 * first + end) // 3, (first + end) // 2]
    ranges = [(first, end), *((cut, count) for cut in cuts), (0, end), (0, cuts[2]), (first, cuts[2])]
    posed = set(sparse.posed())
    parts = [[view for view in range(*part) if view in posed] for part in dict.fromkeys(ranges)]
    return [part for part in parts if _FEWEST_VIEWS <= len(part) <= _MOST_VIEWS and len(part) <= len(posed) - _REST]


def _joined(sparse: SparseMap, camera: int, stretch: Sequence[int], starts: Starts) -> SparseMap | None:
    """A copy of the map with a ``stretch`` rebuilt; None if that, or the place of it in the rest, is not found."""
    part = _rebuilt_alone(sparse, camera, stretch, starts(len(stretch)))
    if part is None:
        return None
    whole = deepcopy(sparse)
    for view in stretch:
        whole.views[view].w_T_c = None
    place_landmarks(whole)
    shared = np.flatnonzero(whole.positioned & part.positioned)
    try:
        fit = fit_maps(
            whole, part, np.stack([shared, shared], axis=1), threshold_px=_FIT_PX, min_matches=_SHARED, certain=False
        )
    except GeometryError:
        return None
    whole.unprune()
    for view in stretch:
        w_T_c = part.views[view].w_T_c
        whole.views[view].w_T_c = None if w_T_c is None else fit.target_S_source.pose(w_T_c)
    place_landmarks(whole)
    close_loop(whole)
    for _ in range(2):
        refine(whole, free_focal=True, iterations=30, sharp=True)
        whole.extend()
    return whole


def _rebuilt_alone(
    sparse: SparseMap, camera: int, stretch: Sequence[int], starts: Sequence[Options]
) -> SparseMap | None:
    """A copy in which only a ``stretch`` sees anything, rebuilt from its own first or last views; None if in vain."""
    part, chosen = deepcopy(sparse), set(stretch)
    for index, entry in enumerate(part.views):
        if index not in chosen:
            entry.seen = entry.pruned = no_tracks()
            entry.w_T_c = None
    focal = part.intrinsics[camera].focal
    before = score(part, stretch, camera, starts[0])
    part.start_over()
    for options in starts:
        bootstrap(part, stretch, camera, [focal], options)
    posed = len(part.posed())
    if posed < max(_REST, _POSED * len(stretch)) or score(part, stretch, camera, starts[0]) > _SMALLER * before:
        return None
    return part
