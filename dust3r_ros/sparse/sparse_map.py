"""Landmarks, the views that see them, and their refinement by reprojection."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from dust3r_ros.geometry.pose import PnpResult, pose_and_focal, solve_pnp
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, invert, transform
from dust3r_ros.sparse.bundle_problem import grouped
from dust3r_ros.sparse.landmarks import (
    Intrinsics,
    Landmarks,
    SparseView,
    different,
    observations_of,
    reprojection_errors,
    triangulate,
    viewing_rays,
    widest_angle,
)
from dust3r_ros.tracking import Tracks, join, no_tracks
from dust3r_ros.tracking.exchange import Renumbering
from dust3r_ros.types import Array

MAX_ERROR_PX = 4.0
_FAR = 1e4
_SEEN_BY_NEXT = 10  # views


class Spread:
    """How uncertain observations are: standard deviations of some, and of all others, relative to the median of some.

    ``view`` (M,), landmark ``ids`` (M,) and ``std`` (M,) of those that are known, pixels; ``other``: of the rest.
    """

    def __init__(self, view: np.ndarray, ids: np.ndarray, std: Array, other: float) -> None:
        keys, unit = _keys(view, ids), float(np.median(std)) if len(std) else other
        order = np.argsort(keys)
        self._known, self._values = np.append(keys[order], -1), np.append(std[order], other) / unit

    def of(self, view: np.ndarray, ids: np.ndarray) -> Array:
        """(K,) of observations by ``view`` (K,) of landmarks ``ids`` (K,)."""
        keys = _keys(view, ids)
        at = np.searchsorted(self._known[:-1], keys)
        return self._values[np.where(self._known[at] == keys, at, -1)]


def _keys(view: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.asarray(view.astype(np.int64) << 40 | ids)


class SparseMap:
    """Landmarks seen in several views, with the poses and focals that explain them.

    Pixels are offsets from the centre of the tracked images, with lens distortion. A landmark has a
    position once two posed views see it under enough parallax. ``focal_prior_sigma``: standard deviation of the log
    focals' priors, one or (F,). ``spread``: how exact observations are; None: all alike.

    Its methods are the operations on that one state; their mathematics is in the modules beside it.
    """

    def __init__(self, min_parallax_deg: float, focal_prior_sigma: float | Array = 0.7) -> None:
        self.views: list[SparseView] = []
        self.intrinsics: list[Intrinsics] = []
        self.landmarks = Landmarks()
        self.min_parallax_deg = min_parallax_deg
        self.focal_prior_sigma = focal_prior_sigma
        self.spread: Spread | None = None
        self.holds = 0  # adjustments do not move a view that sees fewer landmarks with a position

    @property
    def points(self) -> Array:
        """(L, 3) positions of landmarks, NaN where there is none."""
        return self.landmarks.positions

    @points.setter
    def points(self, positions: Array) -> None:
        self.landmarks.positions[:] = positions

    @property
    def positioned(self) -> np.ndarray:
        """(L,) which landmarks have a position."""
        return np.isfinite(self.points[:, 0])

    def resolved(self, tracks: Tracks) -> Tracks:
        """Tracks by the current ids of their landmarks, each once."""
        return Tracks(self.landmarks.resolved(tracks.ids), tracks.pixels).unique()

    def add(self, camera: int, seen: Tracks, w_T_c: Array | None) -> int:
        """Add a view; returns its index. Landmarks that it is the first to see are created after this call."""
        self.views.append(SparseView(camera, w_T_c, seen, first_id=len(self.points)))
        return len(self.views) - 1

    def remove(self, views: Collection[int]) -> np.ndarray:
        """Remove views; later ones move up. Landmarks that fewer than two posed views still see lose their position.

        Returns these (K,), sorted.
        """
        ids = different([self.views[view].seen.ids for view in views])
        self.views = [view for index, view in enumerate(self.views) if index not in views]
        count = np.zeros(len(self.points), np.int64)
        for view in self.posed():
            count[self.views[view].seen.unique().ids] += 1
        lost = ids[(count[ids] < 2) & self.positioned[ids]]
        self.points[lost] = np.nan
        return lost

    def renumber_landmarks(self, new: Renumbering, kept: np.ndarray) -> None:
        """Landmarks get new ids, those of ``kept`` (K,), sorted, from 0 on."""
        for view in self.views:
            view.seen, view.pruned = view.seen.renumbered(new), view.pruned.renumbered(new)
            view.first_id = int(np.searchsorted(kept, view.first_id))
        self.landmarks.keep(kept)

    def around(self, views: Iterable[int], ids: np.ndarray) -> list[int]:
        """The posed views among ``views`` and those likely to see landmarks ``ids``, in order.

        A landmark is seen by the view it was created for and usually by the next few, so the cost of a
        window does not grow with the map.
        """
        first_ids = np.array([view.first_id for view in self.views])
        made = np.bincount(np.searchsorted(first_ids, ids, side="right"), minlength=1)
        makers = np.flatnonzero(made) - 1
        if made[0]:  # before any view
            return self.posed()
        near = set(views).union(*(range(maker, maker + _SEEN_BY_NEXT) for maker in makers.tolist()))
        return sorted(v for v in near if v < len(self.views) and self.views[v].w_T_c is not None)

    def observe(self, view: int, more: Tracks) -> None:
        """Add landmarks that a view sees; those it already sees are unchanged."""
        seen = self.views[view].seen
        self.views[view].seen = join(seen, more.select(~np.isin(more.ids, seen.ids)))

    def known(self, tracks: Tracks) -> Tracks:
        """The ``tracks`` whose landmark has a position."""
        return tracks.select(np.isfinite(self.points[tracks.ids, 0]))

    def known_in(self, view: int) -> Tracks:
        """What a view sees of landmarks with a position."""
        return self.known(self.views[view].seen)

    def seen_too(self, view: int, ids: np.ndarray) -> np.ndarray:
        """Those of landmarks ``ids`` that a view sees."""
        # Ids of a view are close to each other: a table of them takes a tenth of the time of sorting.
        return ids[np.isin(ids, self.views[view].seen.ids, kind="table")]

    def locate(
        self,
        camera: int,
        tracks: Tracks,
        min_inliers: int,
        seed: int = 0,
        near: Array | None = None,
        free_focal: bool = False,
    ) -> PnpResult:
        """Pose of a view of ``camera`` that sees ``tracks``; raises ``GeometryError`` if too few agree.

        ``inliers`` of the result refer to ``known(tracks)``; ``near``: a guess (4, 4). ``free_focal``: that of the
        camera is one, too, and the result's is another.
        """
        known, intrinsics = self.known(tracks), self.intrinsics[camera]
        points, pixels = self.points[known.ids], intrinsics.lens.ideal(known.pixels)
        if free_focal:
            return pose_and_focal(points, pixels, round(intrinsics.prior), seed, MAX_ERROR_PX, guess=intrinsics.focal)
        return solve_pnp(
            points,
            pixels,
            intrinsics.focal,
            (0.0, 0.0),
            threshold_px=MAX_ERROR_PX,
            min_inliers=min_inliers,
            seed=seed,
            near=near,
        )

    def common(self, a: int, b: int, focal: float | None = None) -> tuple[Array, Array]:
        """Pinhole offsets (N, 2), (N, 2) of the landmarks that two views share, including pruned observations.

        ``focal``: as in images of cameras with this one, pixels; None: with their own.
        """
        first, second = (join(self.views[v].seen, self.views[v].pruned).unique() for v in (a, b))
        _, i, j = np.intersect1d(first.ids, second.ids, assume_unique=True, return_indices=True)
        cameras = [self.intrinsics[self.views[v].camera] for v in (a, b)]
        x, y = cameras[0].lens.ideal(first.pixels[i]), cameras[1].lens.ideal(second.pixels[j])
        return (x, y) if focal is None else (x * (focal / cameras[0].focal), y * (focal / cameras[1].focal))

    def disagreement(self, view: int) -> float:
        """Median reprojection error, pixels, of the landmarks with a position that a posed view sees; 0 without any."""
        known = self.known_in(view)
        if len(known.ids) == 0:
            return 0.0
        return float(np.median(self.errors_in(view, known)))

    def misfit(self) -> float:
        """How badly the map explains what posed views see: mean squared error, capped at the outlier limit.

        Landmarks seen at least twice count, including pruned observations, at the cap if they have no
        position; so explaining fewer landmarks does not improve it.
        """
        ids = np.arange(len(self.points))
        view, point, offset = self.observations(self.posed(), ids, pruned=True)
        if len(view) == 0:
            return float("inf")
        errors = self.errors_if_placed(ids, view, point, offset)
        return float(np.mean(np.minimum(errors, MAX_ERROR_PX) ** 2))

    def discard_flat(self) -> int:
        """Remove the position of landmarks whose observations now meet under too little parallax.

        Returns how many landmarks keep theirs.
        """
        ids = np.flatnonzero(self.positioned)
        view, point, offset = self.observations(self.posed(), ids)
        rays = self.points[ids][point] - viewing_rays(self.views, self.intrinsics, view, offset)[1]
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        flat = widest_angle(rays, point, len(ids)) < self.min_parallax_deg
        self.points[ids[flat]] = np.nan
        return int((~flat).sum())

    def start_over(self) -> None:
        """Forget poses, positions, lenses that this map estimated, and pruning; observations stay."""
        for intrinsics in self.intrinsics:
            intrinsics.lens = intrinsics.forgotten().lens
        for view in self.views:
            view.w_T_c = None
        self.unprune()
        self.points[:] = np.nan

    def unprune(self) -> None:
        """Take every pruned observation back."""
        for view in self.views:
            view.seen, view.pruned = join(view.seen, view.pruned).unique(), no_tracks()

    def median_depth(self, view: int) -> float:
        """Median depth of the landmarks a posed view sees; NaN if none has a position."""
        known = self.known_in(view)
        return float(np.median(self.depths(view, known.ids))) if len(known.ids) else float("nan")

    def depths(self, view: int, ids: np.ndarray) -> Array:
        """z of landmarks (K,) in the camera of a posed view."""
        return transform(invert(self.views[view].pose), self.points[ids])[:, 2]

    def move(self, new_T_old: Array, scale: float) -> None:
        """Re-express the whole map: new points are ``new_T_old`` applied to ``scale`` times the old ones."""
        for view in self.views:
            if view.w_T_c is not None:
                scaled = view.w_T_c.copy()
                scaled[:3, 3] *= scale
                view.w_T_c = new_T_old @ scaled
        self.points = transform(new_T_old, scale * self.points)

    def begin_at(self, view: int) -> None:
        """Move the map: a posed view is at the origin and looks along x, and the median depth of its landmarks is 1."""
        scale = 1.0 / self.median_depth(view)
        view_T_w = invert(self.views[view].pose)
        view_T_w[:3, 3] *= scale
        self.move(BODY_T_OPTICAL @ view_T_w, scale)

    def merge(self, a: np.ndarray, b: np.ndarray) -> None:
        """Merge landmarks ``a`` (K,) with ``b`` (K,), pairwise.

        The older of two stays, so only views since the creation of the younger one are touched.
        """
        gone = self.landmarks.merge(a, b)
        if not len(gone):
            return
        for view in reversed(self.views):
            view.seen, view.pruned = self._renamed(view.seen, gone), self._renamed(view.pruned, gone)
            if view.first_id <= gone[0]:
                break

    def _renamed(self, tracks: Tracks, gone: np.ndarray) -> Tracks:
        """Tracks by the current ids of landmarks, if any is gone; of two observations of one the first stays."""
        among = (tracks.ids >= gone[0]) & (tracks.ids <= gone[-1])
        if not among.any():
            return tracks
        ids = self.landmarks.resolved(tracks.ids)
        return tracks if np.array_equal(ids, tracks.ids) else Tracks(ids, tracks.pixels).unique()

    def extend(
        self, views: Iterable[int] | None = None, max_error_px: float = MAX_ERROR_PX, enough: float = 1.0
    ) -> int:
        """Triangulate landmarks without a position that posed views see under enough parallax; returns how many.

        Observations off by more than ``max_error_px`` are ignored. ``enough``: of the least parallax that is usual.
        """
        chosen = self.posed() if views is None else [v for v in views if self.views[v].w_T_c is not None]
        ids = different([self.views[v].seen.ids for v in chosen])
        ids = ids[~np.isfinite(self.points[ids, 0]) & ~self.landmarks.is_barred(ids)]
        sources = self.posed() if views is None else self.around(chosen, ids)
        view, point, offset = self.observations(sources, ids)
        if len(view) == 0:
            return 0
        points, angles = self.triangulated(view, point, offset, len(ids))
        errors = self.errors(view, points[point], offset)
        fits = errors < max_error_px
        good = (angles > enough * self.min_parallax_deg) & (np.bincount(point[fits], minlength=len(ids)) >= 2)
        # With only two observations, both must fit; with more, a wrong match among them is pruned.
        self.points[ids[good]] = points[good]
        self.drop(view, ids[point], good[point] & ~fits)
        return int(good.sum())

    def snapshot(self) -> tuple[object, ...]:
        """The state for ``restore``."""
        return (
            [None if v.w_T_c is None else v.w_T_c.copy() for v in self.views],
            [(v.seen, v.pruned) for v in self.views],
            [(f.focal, f.std, f.lens) for f in self.intrinsics],
            self.points.copy(),
        )

    def restore(self, snapshot: tuple[object, ...]) -> None:
        """Return to a snapshot; views and landmarks created since must not exist."""
        poses, seen, focals, points = snapshot
        for view, w_T_c, (kept, pruned) in zip(self.views, poses, seen, strict=True):  # type: ignore[call-overload]
            view.w_T_c, view.seen, view.pruned = w_T_c, kept, pruned
        for intrinsics, state in zip(self.intrinsics, focals, strict=True):  # type: ignore[call-overload]
            intrinsics.focal, intrinsics.std, intrinsics.lens = state
        self.points = points.copy()  # type: ignore[attr-defined]

    def posed(self) -> list[int]:
        return [index for index, view in enumerate(self.views) if view.w_T_c is not None]

    def observations(
        self, views: Collection[int], ids: np.ndarray, pruned: bool = False
    ) -> tuple[np.ndarray, np.ndarray, Array]:
        """(view, index in sorted ``ids``, offset) of all observations in ``views`` of those ``ids`` seen twice."""
        return observations_of(self.views, views, ids, pruned)

    def triangulated(self, view: np.ndarray, point: np.ndarray, offset: Array, count: int) -> tuple[Array, Array]:
        """Points (count, 3) and parallax (count,), degrees, of observations; a point without parallax lies far out."""
        directions, centers = viewing_rays(self.views, self.intrinsics, view, offset)
        noise = 1.0 / min(intrinsics.focal for intrinsics in self.intrinsics)
        points, angles = triangulate(centers, directions, point, count, noise)
        behind = np.einsum("mi,mi->m", points[point] - centers, directions) <= 0
        spread = float(np.linalg.norm(np.ptp(centers, axis=0))) or 1.0
        far = np.zeros(count, bool)
        far[point[behind]] = True
        far[point[np.isnan(points[point, 0])]] = True
        if far.any():
            mean, of_far = np.zeros((count, 3)), far[point]
            np.add.at(mean, point[of_far], directions[of_far])
            mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
            points[far] = centers.mean(axis=0) + _FAR * spread * mean[far]
        return points, np.where(far, 0.0, angles)

    def drop(self, view: np.ndarray, ids: np.ndarray, bad: np.ndarray) -> None:
        """Prune the observations (view, landmark id) selected by a mask."""
        order = np.argsort(view[bad], kind="stable")
        sorted_view, sorted_ids = view[bad][order], ids[bad][order]
        for index, of_view in grouped(sorted_view, sorted_ids):
            entry = self.views[index]
            drop = np.isin(entry.seen.ids, of_view)
            entry.pruned = join(entry.pruned, entry.seen.select(drop))
            entry.seen = entry.seen.select(~drop)

    def prune(self, view: int, max_error_px: float) -> None:
        """Prune what a posed view sees of landmarks with a position that are farther off."""
        known = self.known_in(view)
        far = ~(self.errors_in(view, known) <= max_error_px)
        self.drop(np.full(len(far), view), known.ids, far)

    def errors_if_placed(self, ids: np.ndarray, view: np.ndarray, point: np.ndarray, offset: Array) -> Array:
        """(M,) errors of ``observations`` of landmarks ``ids``; one without a position is placed where its rays meet.

        Too little parallax for a position is no error.
        """
        points = self.points[ids]
        loose = np.isnan(points[point, 0])
        if loose.any():
            placed = self.triangulated(view[loose], point[loose], offset[loose], len(ids))[0]
            points[point[loose]] = placed[point[loose]]
        return self.errors(view, points[point], offset)

    def errors(self, view: np.ndarray, points: Array, offset: Array) -> Array:
        """(M,) reprojection errors, pixels, of ``points`` (M, 3) observed by ``view`` (M,) at ``offset`` (M, 2)."""
        return reprojection_errors(self.views, self.intrinsics, view, points, offset)

    def errors_in(self, view: int, tracks: Tracks) -> Array:
        """(K,) the same of ``tracks`` (K) as a posed view sees them; NaN for landmarks without a position."""
        return self.errors(np.full(len(tracks.ids), view), self.points[tracks.ids], tracks.pixels)
