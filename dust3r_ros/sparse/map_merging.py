"""Merging one map into another: the similarity between them from shared landmarks, then views and observations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.similarity import Similarity, robust_similarity, weighted_similarity
from dust3r_ros.sparse.landmarks import Intrinsics, SparseView
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array


@dataclass(frozen=True, eq=False)
class LandmarkObservations:
    """Observations of landmarks by posed views: ``row`` of the landmark (S,), the view, its pose and focal.

    ``offset`` (S, 2) pixels, as seen by a pinhole.
    """

    row: NDArray[np.int64]
    view: NDArray[np.int64]
    offset: Array
    w_T_c: Array
    focal: Array

    @classmethod
    def of(cls, sparse: SparseMap, ids: NDArray[np.int64]) -> LandmarkObservations:
        """Every observation of the landmarks ``ids`` (M,)."""
        parts = []
        for index in sparse.posed():
            view = sparse.views[index]
            seen = view.seen.unique()
            if not len(seen.ids):
                continue
            at = np.minimum(np.searchsorted(seen.ids, ids), len(seen.ids) - 1)
            hit = np.flatnonzero(seen.ids[at] == ids)
            poses = np.broadcast_to(view.pose, (len(hit), 4, 4))
            camera = sparse.intrinsics[view.camera]
            offset, focal = camera.lens.ideal(seen.pixels[at[hit]]), np.full(len(hit), camera.focal)
            parts.append((hit, np.full(len(hit), index), offset, poses, focal))
        if not parts:
            return cls(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)), np.zeros((0, 4, 4)), np.zeros(0))
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def select(self, keep: NDArray[np.bool_]) -> LandmarkObservations:
        """Only the observations of the landmarks under a mask (M,)."""
        hit = keep[self.row]
        return LandmarkObservations(self.row[hit], self.view[hit], self.offset[hit], self.w_T_c[hit], self.focal[hit])

    def errors(self, points: Array) -> Array:
        """(S, 2) reprojection errors of points (M, 3), pixels; far off behind the camera, NaN without a point."""
        X = np.einsum("sji,sj->si", self.w_T_c[:, :3, :3], points[self.row] - self.w_T_c[:, :3, 3])
        z = np.maximum(X[:, 2], 1e-3 * np.linalg.norm(X, axis=1) + 1e-12)
        found: Array = self.focal[:, None] * X[:, :2] / z[:, None] - self.offset
        return found

    def depths(self, points: Array) -> Array:
        """(S,) z of the points in the cameras that see them."""
        found: Array = np.einsum("sj,sj->s", self.w_T_c[:, :3, 2], points[self.row] - self.w_T_c[:, :3, 3])
        return found


_DRAWS = 3000
_SIDES_AGREE = 1.5  # factor between the side ratios of a triangle in both maps; depth is less accurate than direction
_CONFIDENCE = 0.9999
_HUBER_PX = 1.5
_ROUNDS = 3
_MIN_VIEWS = 3  # in each map; points placed by only two views may have a wrong depth
_MIN_SHARE = 0.1  # of the matches; among many, a few agree by chance
# Landmarks also share errors, so the fit of the maps is several times worse than these say.
_MAX_SCALE_STD = 0.02  # relative
_MAX_ROTATION_STD_DEG = 0.3


@dataclass(frozen=True, eq=False)
class MapFit:
    """The place of a source map in a target map.

    ``agree`` (M,) bool: the matches that fit, each in every view that sees either landmark.
    ``rms_px``: of their reprojection errors.
    """

    target_S_source: Similarity
    agree: NDArray[np.bool_]
    rms_px: float


def fit_maps(
    target: SparseMap,
    source: SparseMap,
    matches: NDArray[np.int64],
    *,
    threshold_px: float = 6.0,
    min_matches: int = 20,
    seed: int = 0,
    certain: bool = True,
) -> MapFit:
    """The similarity from ``source`` to ``target``, from matches (M, 2) of their landmark ids.

    RANSAC over three landmarks with a position in both maps (Umeyama), scored by reprojection into
    the views of both, polished on the inliers (as in LO-RANSAC, Chum et al., DAGM 2003), and refined
    by reprojection with Huber's loss. A landmark with a position in only one map is judged by the
    other map's views, but does not count. The threshold is wider than for observations within one map:
    each map has its own drift and focal error, which only refinement of the whole removes.

    With ``certain=False`` only the number of landmarks that agree is asked, for a start that is adjusted and judged
    afterwards.

    Raises ``GeometryError`` if fewer than ``min_matches`` landmarks with both positions agree, or
    less than a tenth of them; if fewer than three views of either map see half of ``min_matches``
    of these; and if they leave scale or rotation open: on one line, far away, all close together.
    """
    problem = _Problem(target, source, matches, threshold_px, max(min_matches, 3))
    similarity = problem.refined(problem.ransac(seed))
    for _ in range(_ROUNDS - 1):
        similarity = problem.refined(similarity)
    return problem.judged(similarity, certain)


def _unique_rows(pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Unique rows of (M, 2) as columns (2, U), and the index of each row among them."""
    unique, which = np.unique(pairs, axis=0, return_inverse=True)
    return unique.T, which.ravel()


class _Problem:
    """Matched landmarks ``x`` (source) and ``y`` (target), NaN without position, and their observations."""

    def __init__(
        self, target: SparseMap, source: SparseMap, matches: NDArray[np.int64], threshold_px: float, min_matches: int
    ) -> None:
        matches = np.asarray(matches, dtype=np.int64).reshape(-1, 2)
        named = np.stack([target.landmarks.resolved(matches[:, 0]), source.landmarks.resolved(matches[:, 1])], axis=1)
        # Two landmarks matched in several pairs of keyframes are still one match.
        (target_ids, source_ids), self.pair_of = _unique_rows(named)
        self.y, self.x = target.points[target_ids], source.points[source_ids]
        self.in_target, self.in_source = (
            LandmarkObservations.of(target, target_ids),
            LandmarkObservations.of(source, source_ids),
        )
        self.threshold_px = threshold_px
        self.whole = np.isfinite(self.x[:, 0]) & np.isfinite(self.y[:, 0])
        if self.whole.sum() < min_matches:
            raise GeometryError(
                f"{self.whole.sum()} of {len(self.x)} matches between the maps have a position in both; "
                f"at least {min_matches} must."
            )
        self.min_matches = max(min_matches, int(np.ceil(_MIN_SHARE * self.whole.sum())))

    def agree(self, similarity: Similarity) -> NDArray[np.bool_]:
        """(M,) which matches fit in both maps; a match that can be judged in only one must fit there."""
        squares = np.full(len(self.x), np.nan)
        for observations, points in self._sides(similarity):
            errors = np.sum(observations.errors(points) ** 2, axis=1)
            count = np.bincount(observations.row, minlength=len(squares))
            with np.errstate(invalid="ignore"):
                mean = np.bincount(observations.row, weights=errors, minlength=len(squares)) / count
            squares = np.fmax(squares, mean)  # NaN: no position to project, or no view sees it
        return squares < self.threshold_px**2

    def ransac(self, seed: int) -> Similarity:
        """The similarity that most landmarks with both positions agree with."""
        rng = np.random.default_rng(seed)
        rows = np.flatnonzero(self.whole)
        draws = rows[rng.integers(len(rows), size=(_DRAWS, 3))]  # a repeated landmark makes a line, which is skipped
        ratios = [
            np.log(np.linalg.norm(points[draws] - points[np.roll(draws, 1, axis=1)], axis=2) + 1e-300)
            for points in (self.x, self.y)
        ]
        plausible = np.ptp(ratios[1] - ratios[0], axis=1) < np.log(_SIDES_AGREE)
        best, most, needed = None, 0, np.inf
        for tried, draw in enumerate(draws[plausible]):
            if tried >= needed:
                break
            try:
                trial = weighted_similarity(self.x[draw], self.y[draw])
            except GeometryError:
                continue
            trial, count = self._polished(trial)
            if count > most:
                best, most = trial, count
                share = (count / len(rows)) ** 3
                needed = np.log(1 - _CONFIDENCE) / np.log(max(1 - share, 1e-12)) if share < 1 else 0
        if best is None or most < self.min_matches:
            raise self._too_few(most)
        return best

    def refined(self, similarity: Similarity) -> Similarity:
        """Minimise the reprojection errors of the current inliers."""
        return self._minimised(similarity)[0]

    def judged(self, similarity: Similarity, certain: bool) -> MapFit:
        """The result; if it must be ``certain``, raises ``GeometryError`` where too little supports it."""
        _, jacobian, residuals = self._minimised(similarity, steps=1)
        agree = self.agree(similarity)
        if certain:
            self._check_views(agree & self.whole)
            self._check_spread(int((agree & self.whole).sum()), jacobian, residuals)
        return MapFit(similarity, agree[self.pair_of], float(np.sqrt(2 * np.mean(residuals**2))))

    def _check_spread(self, count: int, jacobian: Array, residuals: Array) -> None:
        """Raises ``GeometryError`` if errors independent between observations leave scale or rotation open."""
        sigma = max(1.0, float(np.sqrt(np.mean(residuals**2))))
        values, vectors = np.linalg.eigh(jacobian.T @ jacobian)
        spread = sigma**2 * (vectors / np.maximum(values, 1e-12)) @ vectors.T
        scale_std = float(np.sqrt(spread[6, 6]))
        rotation_std_deg = float(np.degrees(np.sqrt(np.linalg.eigvalsh(spread[:3, :3])[-1])))
        if scale_std > _MAX_SCALE_STD or rotation_std_deg > _MAX_ROTATION_STD_DEG:
            raise GeometryError(
                f"The {count} matches that agree leave the scale between the maps open by {scale_std:.1%} and the "
                f"rotation by {rotation_std_deg:.1f} deg; at most {_MAX_SCALE_STD:.0%} and "
                f"{_MAX_ROTATION_STD_DEG:g} deg are allowed. They may lie on one line, far away or all close together."
            )

    def _check_views(self, agree: NDArray[np.bool_]) -> None:
        enough = self.min_matches // 2
        for name, observations in (("target", self.in_target), ("source", self.in_source)):
            views = int((np.bincount(observations.select(agree).view) >= enough).sum())
            if views < _MIN_VIEWS:
                raise GeometryError(
                    f"{views} views of the {name} map see {enough} or more of the {agree.sum()} matches that agree; "
                    f"at least {_MIN_VIEWS} must."
                )

    def _sides(
        self, similarity: Similarity
    ) -> tuple[tuple[LandmarkObservations, Array], tuple[LandmarkObservations, Array]]:
        """Observations of each map and the points of the other, transformed into it."""
        return (self.in_target, similarity.apply(self.x)), (self.in_source, similarity.inverse().apply(self.y))

    def _polished(self, similarity: Similarity) -> tuple[Similarity, int]:
        """A trial, refitted to its inliers while their number grows; and that number."""
        agree = self.agree(similarity) & self.whole
        while agree.sum() > 3:
            try:
                trial = robust_similarity(self.x[agree], self.y[agree], iterations=3)
            except GeometryError:
                break
            more = self.agree(trial) & self.whole
            if more.sum() <= agree.sum():
                break
            similarity, agree = trial, more
        return similarity, int(agree.sum())

    def _minimised(self, start: Similarity, steps: int = 20) -> tuple[Similarity, Array, Array]:
        """The best similarity near ``start``, Jacobian (2S, 7) by rotation, shift and log scale, residuals (2S,)."""
        agree = self.agree(start) & self.whole
        if agree.sum() < self.min_matches:
            raise self._too_few(int(agree.sum()))
        sides = self.in_target.select(agree), self.in_source.select(agree)
        middle = start.apply(self.x[agree]).mean(axis=0)
        unit = float(np.median(sides[0].depths(start.apply(self.x))))

        def moved(step: Array) -> Similarity:
            turn = Rotation.from_rotvec(step[:3]).as_matrix()
            scale = float(np.exp(step[6]))
            shift = middle - scale * turn @ middle + unit * step[3:6]
            return Similarity(scale, turn, shift).compose(start)

        def residuals(step: Array) -> Array:
            trial = moved(step)
            points = trial.apply(self.x), trial.inverse().apply(self.y)
            return np.concatenate([s.errors(p).ravel() for s, p in zip(sides, points, strict=True)])

        done = least_squares(residuals, np.zeros(7), loss="huber", f_scale=_HUBER_PX, max_nfev=steps)
        return moved(done.x), done.jac, done.fun

    def _too_few(self, count: int) -> GeometryError:
        return GeometryError(
            f"{count} of {self.whole.sum()} matches between the maps agree with one similarity within "
            f"{self.threshold_px:g} px in the views of both; at least {self.min_matches} must."
        )


__all__ = ["MapFit", "Merged", "fit_maps", "merge_maps"]


@dataclass(frozen=True, eq=False)
class Merged:
    """Numbers of the source's items in the target: view v is ``first_view`` + v, landmark k is ``ids[k]``."""

    first_view: int
    ids: NDArray[np.int64]


def merge_maps(target: SparseMap, source: SparseMap, target_S_source: Similarity, matches: NDArray[np.int64]) -> Merged:
    """Copy all of ``source`` into ``target``, placed by ``target_S_source``; ``source`` is unchanged.

    ``matches`` (K, 2): ids of identical landmarks, target's and source's; only those that
    agree (``MapFit.agree``) belong here. They become one landmark, at target's position if it has
    one. Cameras have the same indices in both; of two focals the more certain one stays. Refine the whole
    afterwards, with free focals.

    Raises ``GeometryError``, and changes nothing, for a camera that the target does not have.
    """
    if len(source.intrinsics) > len(target.intrinsics):
        raise GeometryError(
            f"The source has {len(source.intrinsics)} cameras; each must be one of the target's "
            f"{len(target.intrinsics)}."
        )
    matches = np.asarray(matches, dtype=np.int64).reshape(-1, 2)
    for kept, other in zip(target.intrinsics, source.intrinsics, strict=False):
        _keep_surer(kept, other)
    first_view = len(target.views)
    count = len(source.points)
    fresh = target.landmarks.new(count)
    ids = fresh[source.landmarks.resolved(np.arange(count))]
    target.points[fresh] = target_S_source.apply(source.points)
    for view in source.views:
        first_id = int(fresh[0]) + view.first_id if count else len(target.points)
        w_T_c = None if view.w_T_c is None else target_S_source.pose(view.w_T_c)
        seen, pruned = (Tracks(ids[tracks.ids], tracks.pixels) for tracks in (view.seen, view.pruned))
        target.views.append(SparseView(view.camera, w_T_c, seen, pruned, first_id))
    target.merge(matches[:, 0], ids[matches[:, 1]])
    target.landmarks.bar(ids[source.landmarks.barred])
    return Merged(first_view, target.landmarks.resolved(ids))


def _keep_surer(kept: Intrinsics, other: Intrinsics) -> None:
    """Adopt another estimate of the same focal if it is more certain; a given focal stays.

    The vaguer prior stays: a narrow one may come from images that are in the map now, and would count them twice.
    """
    if kept.fixed:
        return
    surer = other.fixed or other.total_std < kept.total_std
    vaguest = max(other if surer else kept, kept, other, key=lambda one: one.guess_std)
    kept.prior, kept.guess_std = vaguest.prior, vaguest.guess_std
    if any(other.rolling) if surer else not any(kept.rolling):
        kept.rolling, kept.rolling_std = other.rolling, other.rolling_std
    if not surer:
        return
    kept.focal, kept.std, kept.fixed = other.focal, other.std, other.fixed
    kept.lens, kept.rival, kept.contradicted = other.lens, other.rival, other.contradicted
    kept.focal_only, kept.zoom_std = other.focal_only, other.zoom_std
