"""Map initialisation: the first two views, poses and focal from the first keyframes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from dust3r_ros.errors import GeometryError
from dust3r_ros.features.features import epipolar_inliers
from dust3r_ros.geometry.essential import essential_pose, turning_error
from dust3r_ros.geometry.pinhole import rays
from dust3r_ros.geometry.rigid import angle_deg
from dust3r_ros.sparse.lens_refinement import refine_lenses
from dust3r_ros.sparse.refinement import refine, thin
from dust3r_ros.sparse.sparse_map import MAX_ERROR_PX, SparseMap
from dust3r_ros.types import Array

_FIRST_PARALLAX_DEG, _TURNING_PX = 2.0, 1.0
_TURNING_FOCALS = (0.4, 4.0)  # times the usual focal: with these, a pair may have turned on the spot
_GIVEN_STD = 0.02  # of a given focal, at least
# Far points fit almost any direction of translation to within a pixel, so a near object that moves would decide it;
# to a fraction of a pixel they do not.
_SHARP_PX = 0.3
_PROMISING, _REFINED = 2, 500  # pairs; matches
_SAME_TURN_DEG, _SAME_DIRECTION_DEG = 0.5, 3.0  # adjustments of two starts that are closer lead to the same map
_MOST = 0.8  # of the share of matches that the best pair explains: with less, the pair may follow a moving object

Pair = tuple[int, int]


class PairFromLandmarks:
    """The pair that sees most landmarks under parallax, posed by its essential matrix; the baseline length is free.

    Which pairs rotate in place, and which see most under parallax, hardly depends on the focal: of
    all focals tried on the same views, only the first examines every pair.
    """

    def __init__(
        self,
        sharp: bool = False,
        tries: int = 1000,
        rough: PairFromLandmarks | None = None,
        turning: dict[Pair, bool] | None = None,
    ) -> None:
        """``sharp``: use a threshold of a fraction of a pixel, for good images with moving objects.

        ``tries``: bounds RANSAC's samples. ``rough``: one that is not sharp and was tried before on the same views;
        where this one would only confirm its pose, there is no pair. ``turning``: pairs that are known to turn on the
        spot, or not to; what is found is added.
        """
        self._sharp, self._tries, self._rough = sharp, tries, rough
        self._turning: dict[Pair, bool] = turning if turning is not None else rough._turning if rough else {}
        self._ranking: list[Pair] = []
        self._found: dict[float, tuple[int, int, Array]] = {}

    def __call__(self, sparse: SparseMap, views: Sequence[int], focal: float) -> tuple[int, int, Array]:
        """(first, second, ``first_T_second``) of ``views``; raises ``GeometryError`` if no pair has parallax."""
        known = None if self._rough is None else self._rough._found.get(focal)
        if known is not None and self._confirms(sparse, *known, focal):
            raise GeometryError(f"the pose of views {known[0]} and {known[1]} at focal {focal:.4g} is known")
        everyone = [pair for pair in combinations(views, 2) if not self._turns(sparse, *pair)]
        promising = [pair for pair in self._ranking if pair in everyone][:_PROMISING]
        others = [pair for pair in everyone if pair not in promising]
        found = self._posed(sparse, promising, focal) or self._posed(sparse, others, focal)
        if not found:
            raise GeometryError(f"none of {len(views)} views has enough parallax to another")
        if not promising:
            self._ranking = [pair for _, pair, _ in found]
        _, (first, second), first_T_second = found[0]
        self._found[focal] = first, second, first_T_second
        return self._found[focal]

    def _confirms(self, sparse: SparseMap, first: int, second: int, first_T_second: Array, focal: float) -> bool:
        """Whether this threshold leads to about the same pose of a pair."""
        try:
            again, _ = self._pose(*sparse.common(first, second, focal), focal)
        except GeometryError:
            return False
        aside = _angles_deg(again[None, :3, 3], first_T_second[None, :3, 3])
        return bool(
            angle_deg(again[:3, :3].T @ first_T_second[:3, :3]) < _SAME_TURN_DEG and aside < _SAME_DIRECTION_DEG
        )

    def _posed(self, sparse: SparseMap, pairs: Iterable[Pair], focal: float) -> list[tuple[int, Pair, Array]]:
        """(landmarks under parallax, pair, ``first_T_second``) of ``pairs`` with any, most first."""
        found: list[tuple[int, Pair, Array]] = []
        shares: list[float] = []
        for pair in pairs:
            a, b = sparse.common(*pair, focal)
            try:
                first_T_second, inliers = self._pose(a, b, focal)
            except GeometryError:
                continue
            rays_a, rays_b = (rays(offsets[inliers], focal, (0.0, 0.0)) for offsets in (a, b))
            meeting = _angles_deg(rays_a, rays_b @ first_T_second[:3, :3].T)
            found.append((int((meeting > _FIRST_PARALLAX_DEG).sum()), pair, first_T_second))
            shares.append(float(inliers.mean()))
        if self._sharp:
            most = max(shares, default=0.0)
            found = [entry for entry, share in zip(found, shares, strict=True) if share > _MOST * most]
        return sorted((entry for entry in found if entry[0]), key=lambda entry: -entry[0])

    def _pose(self, a: Array, b: Array, focal: float) -> tuple[Array, np.ndarray]:
        """``a_T_b`` and which matches (N,) of offsets (N, 2) fit; raises ``GeometryError``."""
        # Usually not refined: the adjustment that follows does it better.
        return essential_pose(
            a, b, focal, focal, (0.0, 0.0), (0.0, 0.0),
            threshold_px=_SHARP_PX if self._sharp else 1.0, refine_matches=_REFINED if self._sharp else 0,
            tries=self._tries,
        )  # fmt: skip

    def _turns(self, sparse: SparseMap, first: int, second: int) -> bool:
        """Whether pure rotation explains a pair."""
        if (first, second) not in self._turning:
            intrinsics = sparse.intrinsics[sparse.views[first].camera]
            a, b = sparse.common(first, second, intrinsics.focal)
            low, high = _TURNING_FOCALS
            if intrinsics.given:  # over a plane, a sideways step looks like a turn of a camera with a longer focal
                high = math.exp(2.0 * max(_GIVEN_STD, 0.0 if intrinsics.fixed else intrinsics.prior_std))
                low = 1.0 / high
            good = epipolar_inliers(a, b)
            error = turning_error(a[good], b[good], low * intrinsics.prior, high * intrinsics.prior)
            self._turning[first, second] = error < _TURNING_PX
        return self._turning[first, second]


def _angles_deg(a: Array, b: Array) -> Array:
    cosine = np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


# Of the long edge: 90, 67, 53, 40, 28, 18 degrees of view. A vote over fundamental matrices would be
# biased; trying each of these to the end and keeping the one that explains the tracks best is not.
FOCAL_STARTS = (0.5, 0.75, 1.0, 1.4, 2.0, 3.2)
_KEPT_PARALLAX, _USUAL_SIGMA = 0.3, 0.5  # of the landmarks; of the log focal
_PAIRS_AMONG = 4  # the first pair is among this many first views
_PRUNING_PX = (30.0, 10.0, 4.0)
_SAMPLE = 150  # landmarks of each view used to judge a focal, before any map is built from all
_FIRST_STEPS, _FURTHER_STEPS, _WHOLE_STEPS = 5, 12, 15
_WORTH_MORE, _FINALISTS = 3, 2
_LEAST_POSED, _LEAST_SHARE = 3, 0.5  # of the views must get a pose (of two, both): fewer failures are accidental
_HOPELESS, _LEVEL = 3.0, 1.2  # times the least misfit
_SAME_FOCAL, _OTHER_FOCAL = 1.03, 1.15  # factors: closer, farther

FirstPair = Callable[[SparseMap, Sequence[int], float], tuple[int, int, Array]]


@dataclass(frozen=True)
class Start:
    """Outcome of one tried focal: how badly it explains the tracks, and the focal it ended at."""

    score: float
    focal: float


@dataclass(frozen=True)
class Outcome:
    """``starts`` that explain the observations better than the previous map, best first.

    ``rival``: by what factor the best start at another focal, ``rival_focal``, explains them worse; infinite if there
    is none. ``vain``: tried focals that explain far less than
    the best one, or lead to the same one as a better one; ``promising``: those that do not.
    """

    starts: list[Start]
    rival: float
    rival_focal: float
    vain: frozenset[float] = frozenset()
    promising: frozenset[float] = frozenset()


@dataclass(frozen=True)
class Options:
    """``first_pair(sparse, views, focal)`` selects the first two views of a map, and their relative pose, with focals
    as ``sparse`` has them; ``focal`` is that of the camera with which the map begins.

    ``unusual``: penalty in ``score`` for a focal that cameras rarely have. ``better``: the largest share of the
    old misfit that a new map may have. ``tried_on``: how many views choose between focals, None: all. ``unknown``:
    where views are of several cameras, those of unknown focals, which begin with views as wide as each other's.
    """

    first_pair: FirstPair = field(default_factory=lambda: PairFromLandmarks())
    min_inliers: int = 15
    seed: int = 0
    unusual: float = 0.05
    better: float = 0.97
    tried_on: int | None = None
    unknown: Collection[int] = ()


def bootstrap(
    sparse: SparseMap, views: Sequence[int], camera: int, focals: Sequence[float], options: Options
) -> Outcome:
    """Pose ``views`` of one camera in a new map; tries all ``focals`` (tracked pixels) and keeps the best.

    Without ``starts`` in the outcome nothing better can be built from these views, and the sparse map
    is unchanged. Views that share too little with the others have no pose afterwards. The first view with
    a pose is at the origin and looks along x; the median depth of its landmarks is 1.
    """
    before = sparse.snapshot()
    limit = options.better * _now(sparse, views, camera, options).score
    starts, best, reached = [], None, dict[float, float]()
    few = _few(views, options.tried_on)
    tried = _try_all(sparse, few, camera, focals, options)
    kept = tried.before
    for trial in tried.finalists(options.better):
        sparse.restore(before)
        trial.place(sparse, few)
        try:
            placed = int(sparse.positioned.sum())
            _settle(sparse, _PRUNING_PX[1:], _WHOLE_STEPS)
            _locate_others(sparse, views, options)
            _require_parallax(sparse, placed, options)
        except GeometryError:
            continue
        start = Start(score(sparse, views, camera, options), sparse.intrinsics[camera].focal)
        if not start.score < limit:  # a lens may explain more, as it does in the map before
            refine_lenses(sparse, rounds=1)
            start = Start(score(sparse, views, camera, options), sparse.intrinsics[camera].focal)
        reached[trial.tried] = start.focal
        if start.score < limit:
            best, limit, kept = sparse.snapshot(), start.score, Start(trial.score, start.focal)
            starts.append(start)
    sparse.restore(best or before)
    if best is not None:
        sparse.begin_at(_posed(sparse, views)[0])
    starts.sort(key=lambda start: start.score)
    return Outcome(starts, *tried.rival(kept, reached), tried.vain, tried.promising)


def differ(a: float, b: float) -> bool:
    """Whether two focals are so far apart that a start from one does not converge to the other."""
    return abs(math.log(a / b)) > math.log(_OTHER_FOCAL)


def _few(views: Sequence[int], most: int | None) -> Sequence[int]:
    """At most ``most`` of ``views``: those for the first pair, and others spread evenly."""
    if most is None or len(views) <= most:
        return views
    others = np.linspace(_PAIRS_AMONG, len(views) - 1, most - _PAIRS_AMONG).round().astype(int)
    return [*views[:_PAIRS_AMONG], *(views[at] for at in others)]


def score(sparse: SparseMap, views: Sequence[int], camera: int, options: Options) -> float:
    """The misfit, slightly raised for focals that cameras rarely have: with few views, several fit equally well.

    Landmarks that views without a pose share with others count as unexplained.
    """
    posed, misfit = _posed(sparse, views), sparse.misfit()
    if len(posed) < len(views):
        seen_by = sparse.observations(views, np.arange(len(sparse.points)), pruned=True)[0]
        explained = float(np.isin(seen_by, posed).mean()) if len(seen_by) else 1.0
        misfit = explained * misfit + (1.0 - explained) * MAX_ERROR_PX**2
    found = [(focal, sparse.intrinsics[index]) for index, focal in _focals(sparse, camera, options).items()]
    unusual = [(np.log(focal / known.prior) / min(_USUAL_SIGMA, known.guess_std)) ** 2 for focal, known in found]
    return float(misfit * (1.0 + options.unusual * np.mean(unusual)))


def _focals(sparse: SparseMap, camera: int, options: Options) -> dict[int, float]:
    """The focals of the cameras of which none is known."""
    return {index: sparse.intrinsics[index].focal for index in {camera, *options.unknown}}


def _now(sparse: SparseMap, views: Sequence[int], camera: int, options: Options) -> Start:
    """The current map; without any pose it explains nothing."""
    known = score(sparse, views, camera, options) if _posed(sparse, views) else float("inf")
    return Start(known, sparse.intrinsics[camera].focal)


def _posed(sparse: SparseMap, views: Sequence[int]) -> list[int]:
    return [view for view in views if sparse.views[view].w_T_c is not None]


@dataclass(frozen=True, eq=False)
class _Trial:
    """The outcome of a focal ``tried``: ``score``, ``focal`` and poses of the views; ``state``: of the whole map;
    ``focals`` of all cameras of which none is known."""

    tried: float
    score: float
    focal: float
    w_T_c: tuple[Array | None, ...]
    state: tuple[object, ...]
    focals: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, tried: float, sparse: SparseMap, views: Sequence[int], camera: int, options: Options) -> _Trial:
        poses, focals = tuple(sparse.views[view].w_T_c for view in views), _focals(sparse, camera, options)
        return cls(tried, score(sparse, views, camera, options), focals[camera], poses, sparse.snapshot(), focals)

    def place(self, sparse: SparseMap, views: Sequence[int]) -> None:
        """Start over from the poses and the focals: whatever fits them roughly becomes a landmark."""
        sparse.start_over()
        for index, focal in self.focals.items():
            sparse.intrinsics[index].focal = focal
        for view, w_T_c in zip(views, self.w_T_c, strict=True):
            sparse.views[view].w_T_c = w_T_c
        sparse.extend(max_error_px=_PRUNING_PX[1])


@dataclass(frozen=True, eq=False)
class _Tried:
    """On a sample of the landmarks: the map ``before``, and all trials run to the ``end``, best first.

    ``vain``: as of ``Outcome``.
    """

    before: Start
    ended: list[_Trial]
    vain: frozenset[float]

    @property
    def promising(self) -> frozenset[float]:
        """As of ``Outcome``."""
        return frozenset(trial.tried for trial in self.ended)

    def finalists(self, better: float) -> list[_Trial]:
        """Trials worth a map from all landmarks: better than the map before, and nearly as good as the best."""
        level = min(better * self.before.score, _LEVEL * min((t.score for t in self.ended), default=0.0))
        return [trial for trial in self.ended if trial.score < level][:_FINALISTS]

    def rival(self, kept: Start, reached: Mapping[float, float]) -> tuple[float, float]:
        """Score of the best trial at another focal than that of ``kept``, over the score of ``kept``; that focal.

        ``reached``: the focals at which trials ended with all landmarks, by the focal tried: a sample may mislead.
        """
        ended = [(trial.score, reached.get(trial.tried, trial.focal)) for trial in self.ended]
        others = [(score, focal) for score, focal in ended if differ(focal, kept.focal)]
        score, focal = min(others, default=(float("inf"), float("nan")))
        return score / max(kept.score, 1e-12), focal


def _try_all(sparse: SparseMap, views: Sequence[int], camera: int, focals: Sequence[float], options: Options) -> _Tried:
    """Try the focals on a sample of the landmarks; leaves the sparse map without most of them.

    Successive halving: every focal gets a few steps, the best get some more.
    """
    thin(sparse, views, _SAMPLE)
    now, sample = _now(sparse, views, camera, options), sparse.snapshot()
    begun: list[_Trial] = []
    for among in _beginnings(views):
        for focal in () if begun else focals:
            sparse.restore(sample)
            sparse.start_over()
            try:
                _place(sparse, views, among, camera, focal, options)
                _settle(sparse, _PRUNING_PX, _FIRST_STEPS)
            except GeometryError:
                continue
            begun.append(_Trial.of(focal, sparse, views, camera, options))
    ended = []
    promising, vain = _worth_more(begun, options.better * now.score)
    for trial in promising:
        sparse.restore(trial.state)
        _settle(sparse, _PRUNING_PX[-1:], _FURTHER_STEPS)
        ended.append(_Trial.of(trial.tried, sparse, views, camera, options))
    return _Tried(now, sorted(ended, key=lambda trial: trial.score), vain)


def _worth_more(begun: list[_Trial], limit: float) -> tuple[list[_Trial], frozenset[float]]:
    """The best few, each focal once, without those too far off to get below ``limit`` or the best; the focals of which
    these, and those that led to a focal twice, were tried.
    """
    kept: list[_Trial] = []
    vain: set[float] = set()
    for trial in sorted(begun, key=lambda trial: trial.score):
        hopeless = trial.score > _HOPELESS * min(limit, (kept or [trial])[0].score)
        known = any(abs(np.log(trial.focal / other.focal)) < np.log(_SAME_FOCAL) for other in kept)
        if hopeless or known:
            vain.add(trial.tried)
        elif len(kept) < _WORTH_MORE:
            kept.append(trial)
    return kept, frozenset(vain)


def _beginnings(views: Sequence[int]) -> list[list[Sequence[int]]]:
    """Among which views to look for the first pair: the first few and, where they have no parallax, the last few.

    If no focal leads to anything from there, all are tried again among the last.
    """
    if len(views) <= _PAIRS_AMONG:
        return [[views]]
    return [[views[:_PAIRS_AMONG], views[-_PAIRS_AMONG:]], [views[-_PAIRS_AMONG:]]]


def _place(
    sparse: SparseMap, views: Sequence[int], among: list[Sequence[int]], camera: int, focal: float, options: Options
) -> None:
    """Pose the first pair, then the other views by its landmarks."""
    for index in (camera, *options.unknown):
        sparse.intrinsics[index].focal = focal * (sparse.intrinsics[index].prior / sparse.intrinsics[camera].prior)
    first, second, second_pose = _first_pair(sparse, among, focal, options)
    sparse.views[first].w_T_c, sparse.views[second].w_T_c = np.eye(4), second_pose
    if sparse.extend() < options.min_inliers:
        raise GeometryError("the first pair has too few landmarks under parallax")
    _locate_others(sparse, views, options)
    posed = len(_posed(sparse, views))
    if posed < min(len(views), max(_LEAST_POSED, _LEAST_SHARE * len(views))):
        raise GeometryError(f"only {posed} of {len(views)} views see enough of the first landmarks")


def _first_pair(
    sparse: SparseMap, among: list[Sequence[int]], focal: float, options: Options
) -> tuple[int, int, Array]:
    """From the first of the groups that has one."""
    for views in among[:-1]:
        with suppress(GeometryError):
            return options.first_pair(sparse, views, focal)
    return options.first_pair(sparse, among[-1], focal)


def _locate_others(sparse: SparseMap, views: Sequence[int], options: Options) -> None:
    """Pose views without a pose, in order of the landmarks they see; those that see too few stay without."""
    left, vain = [view for view in views if sparse.views[view].w_T_c is None], list[int]()
    while left:
        observations = [len(sparse.known_in(view).ids) for view in left]
        view = left.pop(int(np.argmax(observations)))
        camera, seen = sparse.views[view].camera, sparse.views[view].seen
        free = camera in options.unknown
        try:
            found = sparse.locate(camera, seen, options.min_inliers, options.seed, free_focal=free)
        except GeometryError:
            vain.append(view)
            continue
        sparse.views[view].w_T_c = found.w_T_c
        if free:
            sparse.intrinsics[camera].focal = found.focal
            _settle(sparse, _PRUNING_PX[1:2], _FIRST_STEPS)  # or the next one's focal makes up for what is wrong
        sparse.extend()
        left, vain = left + vain, []  # there are more landmarks now


def _settle(sparse: SparseMap, limits: Sequence[float], iterations: int) -> None:
    """Adjust with a free focal, tightening the outlier limit."""
    for limit in limits:
        refine(sparse, free_focal=True, rounds=1, iterations=iterations, max_error_px=limit)
        sparse.extend()


def _require_parallax(sparse: SparseMap, placed: int, options: Options) -> None:
    # Rotation in place is explained by almost no motion, and much by a camera far away with a very long focal: then
    # almost none of the landmarks first ``placed`` keeps its parallax.
    kept = sparse.discard_flat()
    if kept < max(options.min_inliers, _KEPT_PARALLAX * placed):
        raise GeometryError(f"only {kept} of {placed} landmarks of the first views are seen under parallax")
