"""What images see of landmarks, measured again in them: exact to a few hundredths of a pixel.

Features are found in each image alone, a tenth to half a pixel from each other's places. Here the patch around one
observation of a landmark, the reference, is found in all other images that see the landmark (keypoint adjustment:
Dusmanu et al., "Multi-view optimization of local feature geometry", ECCV 2020; Lindenberger et al., "Pixel-perfect
structure-from-motion", ICCV 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from dust3r_ros.errors import GeometryError
from dust3r_ros.features.patches import HALF, find_patches, softened
from dust3r_ros.geometry.pinhole import project, rays
from dust3r_ros.geometry.processes import THREADS, each
from dust3r_ros.geometry.reprojection import minimise
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.mapping.camera_stream import KeyframeRecord
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.mapping.submap import LocatedFrame
from dust3r_ros.sparse.bundle_problem import grouped
from dust3r_ros.sparse.landmarks import SparseView, different, projections
from dust3r_ros.sparse.refinement import problem_of, scatter_of
from dust3r_ros.sparse.sparse_map import SparseMap, Spread
from dust3r_ros.tracking import Tracks, join
from dust3r_ros.types import Array, Array32

_ALIKE = 0.9  # least correlation of two patches of one place
_MOST_PX = 1.5  # that features are off
_MOST_STD_PX = 0.5  # more says no more than the feature
_LEAST_STD_PX = 0.03  # of any patch: surfaces are curved, images sampled
# What is not found is rarely as exact as what is: it is at the edge of something, or moves. It counts as so many times
# the scatter of all features.
_ROUGH = 4.0
_IMAGES = 64  # kept at a time
_BESIDE = 2  # keyframes of which a frame sees most
_FRAMES = _IMAGES // 2  # posed at a time: their images are kept, and some with references
_AT_ONCE = 200  # patches, of one thread


class KeypointAdjustment:
    """Measures what the keyframes of a map see, in their tracked images; keyframes without one are left as they are.

    The same patches then tell the poses of other frames.
    """

    def __init__(self, state: Reconstruction) -> None:
        self._state, self._sparse = state, state.sparse
        self._references: _Observations | None = None
        self._rough = 0.0

    @contextmanager
    def measured(self, sparse: SparseMap) -> Iterator[None]:
        """Move observations to where they are measured; adjustments inside weigh each by its standard deviation.

        The views of ``sparse`` are the keyframes.
        """
        self._sparse = sparse
        self._rough = _ROUGH * scatter_of(sparse, problem_of(sparse))
        seen = _Observations.of(sparse, [v for v in sparse.posed() if self._state.records[v].gray is not None])
        pixels, std = self._found(seen, self._state.records, sparse.views)
        self._references = seen.references(std == 0.0)
        known = np.flatnonzero(np.isfinite(std))
        for index, mine in grouped(seen.view[known], known):
            view = sparse.views[index]
            view.seen = view.seen.moved(seen.ids[mine], pixels[mine])
        sparse.spread = Spread(seen.view[known], seen.ids[known], np.hypot(std[known], _LEAST_STD_PX), self._rough)
        try:
            yield
        finally:
            sparse.spread = None

    def poses(self, frames: Sequence[LocatedFrame]) -> list[Array | None]:
        """``w_T_c`` (4, 4) of frames, from near ones; None for those without an image, or that see too little.

        By landmarks as they were adjusted to keyframes that were measured; nothing may have changed since.
        """
        found: list[Array | None] = [None] * len(frames)
        chosen = [k for k, frame in enumerate(frames) if frame.gray is not None] if self._references is not None else []
        for begin in range(0, len(chosen), _FRAMES):
            some = chosen[begin : begin + _FRAMES]
            for k, w_T_c in zip(some, self._poses([frames[k] for k in some]), strict=True):
                found[k] = w_T_c
        return found

    def _poses(self, frames: Sequence[LocatedFrame]) -> list[Array | None]:
        sparse, records, references = self._sparse, self._state.records, self._references
        assert references is not None, "keyframes are measured first"
        views = [self._view(frame, references) for frame in frames]
        view = np.repeat(np.arange(len(frames)), [len(one.seen.ids) for one in views])
        ids, offset = np.concatenate([v.seen.ids for v in views]), np.concatenate([v.seen.pixels for v in views])
        expected = projections(views, sparse.intrinsics, view, sparse.points[ids])
        carried = np.concatenate([_carried(sparse, *both) for both in zip(frames, views, strict=True)])
        std = np.where(np.linalg.norm(offset - expected, axis=1) < _MOST_PX, self._rough, np.nan)
        half_size = np.array([frame.stream.half_size for frame in frames])[view] - HALF
        inside = np.all(np.abs(expected + carried) < half_size, axis=1)
        rows = np.flatnonzero(np.isin(ids, references.ids) & inside)
        seen = references.and_others(len(records) + view[rows], ids[rows], (expected + carried)[rows])
        pixels, exact = self._found(seen, [*records, *frames], [*sparse.views, *views])
        good = np.flatnonzero(np.isfinite(exact) & (seen.view >= len(records)))
        at = rows[good - len(references.view)]
        offset[at], std[at] = pixels[good] - carried[at], np.hypot(exact[good], _LEAST_STD_PX)
        parts = (ids, offset, std)
        return [self._pose(one, frames[k].zooms, *(part[view == k] for part in parts)) for k, one in enumerate(views)]

    def _view(self, frame: LocatedFrame, references: _Observations) -> SparseView:
        """What a frame sees, and what else those keyframes see from which most of it comes, at NaN."""
        sparse = self._sparse
        seen = sparse.known(sparse.resolved(frame.tracks)).unique()
        count = np.bincount(references.view[np.isin(references.ids, seen.ids)])
        beside = [sparse.known_in(index).ids for index in np.argsort(-count)[:_BESIDE].tolist()]
        more = np.setdiff1d(different(beside), seen.ids)
        return SparseView(frame.stream.index, frame.w_T_c, join(seen, Tracks(more, np.full((len(more), 2), np.nan))))

    def _pose(self, view: SparseView, zooms: bool, ids: np.ndarray, offset: Array, std: Array) -> Array | None:
        """``w_T_c`` (4, 4) by landmarks ``ids`` (K,) at offsets (K, 2) of deviations (K,): NaN if unseen.

        ``zooms``: the focal is about that of the map, but not quite.
        """
        good = np.isfinite(std)
        if np.count_nonzero(good) < self._state.config.track_min_inliers:
            return None
        sparse, start = self._sparse, invert(view.pose)
        intrinsics = sparse.intrinsics[view.camera]
        points, pixels = sparse.points[ids[good]], intrinsics.lens.ideal(offset[good])
        try:
            c_T_w, _ = minimise(points, pixels, start, intrinsics.focal, (0.0, 0.0), zooms, std[good])
        except GeometryError:
            return None
        return invert(c_T_w)

    def _found(
        self,
        seen: _Observations,
        images: Sequence[KeyframeRecord | LocatedFrame],
        views: Sequence[SparseView],
    ) -> tuple[Array, Array]:
        """(M, 2) measured offsets and their deviations (M,), pixels; NaN for what is not found near enough.

        A reference is exact where its patch is found at all. ``seen`` is in ``images`` from ``views``.
        """
        pixels, std = seen.offset.copy(), np.full(len(seen.view), np.nan)
        image_of, rows = lru_cache(_IMAGES)(lambda view: _softened(images[view])), seen.to_find()
        centers = np.array([image.stream.pixels(np.zeros(2)) for image in images])[seen.view]
        for first, of_first in grouped(seen.view[seen.reference[rows]], rows):
            reference = image_of(first)
            among_views, which = np.unique(seen.view[of_first], return_inverse=True)
            for begin in range(0, len(among_views), _IMAGES):
                others = [image_of(view) for view in among_views[begin : begin + _IMAGES].tolist()]
                among = np.flatnonzero((which >= begin) & (which < begin + _IMAGES))
                parts = np.array_split(among, min(THREADS, 1 + len(among) // _AT_ONCE))
                find = partial(self._found_in, seen, views, centers, reference, others)
                found = each(lambda part: find(of_first[part], which[part] - begin), parts)  # noqa: B023
                for part, (at, deviation) in zip(parts, found, strict=True):
                    pixels[of_first[part]], std[of_first[part]] = at, deviation
        std[seen.reference[np.isfinite(std)]] = 0.0
        return pixels, std

    def _found_in(
        self,
        seen: _Observations,
        views: Sequence[SparseView],
        centers: Array,
        reference: Array32,
        others: Sequence[Array32],
        rows: np.ndarray,
        which: np.ndarray,
    ) -> tuple[Array, Array]:
        """Offsets (K, 2) and deviations (K,) of observations whose references are in one view; ``which`` (K,) of the
        ``others`` each is in. ``centers`` (M, 2): pixels from which offsets are measured.
        """
        of_reference, center = seen.reference[rows], centers[rows]
        shape = _shape(self._sparse, views, seen, rows)
        start = np.concatenate([shape, (seen.offset[rows] + center)[:, :, None]], axis=2)
        found = find_patches(reference, seen.offset[of_reference] + centers[of_reference], others, which, start)
        offsets, size = found.pixels - center, np.array([image.shape[::-1] for image in others])[which]
        inside = np.all((found.pixels >= HALF) & (found.pixels < size - HALF), axis=1)
        near = np.linalg.norm(offsets - seen.offset[rows], axis=1) < _MOST_PX
        good = inside & near & (found.similarity > _ALIKE) & (found.std < _MOST_STD_PX)
        return np.where(good[:, None], offsets, np.nan), np.where(good, found.std, np.nan)


@dataclass(frozen=True, eq=False)
class _Observations:
    """Of landmarks with a position: ``view`` (M,), landmark ``ids`` (M,), ``offset`` (M, 2).

    ``reference`` (M,): the row of the one whose patch is searched for.
    """

    view: np.ndarray
    ids: np.ndarray
    offset: Array
    reference: np.ndarray

    @classmethod
    def of(cls, sparse: SparseMap, views: list[int]) -> _Observations:
        """All by ``views`` of landmarks that two or more of them see.

        The reference is the one of median scale, pixels per unit of the map, so that the others' patches are stretched
        least.
        """
        ids = np.flatnonzero(sparse.positioned)
        view, point, offset = sparse.observations(views, ids)
        scale = np.empty(len(view))
        for index, mine in grouped(view, np.arange(len(view))):
            focal = sparse.intrinsics[sparse.views[index].camera].focal
            scale[mine] = focal / sparse.depths(index, ids[point[mine]])
        order = np.lexsort((scale, point))
        first = np.flatnonzero(np.diff(point[order], prepend=-1))
        count = np.diff(first, append=len(order))
        reference = np.empty(len(view), np.int64)
        reference[order] = np.repeat(order[first + count // 2], count)
        return cls(view, ids[point], offset, reference)

    def references(self, chosen: np.ndarray) -> _Observations:
        """Those ``chosen`` (M,) of them, which are references, by their landmarks."""
        rows = np.flatnonzero(chosen)
        rows = rows[np.argsort(self.ids[rows])]
        return _Observations(self.view[rows], self.ids[rows], self.offset[rows], np.arange(len(rows)))

    def and_others(self, view: np.ndarray, ids: np.ndarray, offset: Array) -> _Observations:
        """These, which are ``references``, followed by others (K,) of the same landmarks."""
        reference = np.searchsorted(self.ids, ids)
        both = (self.view, view), (self.ids, ids), (self.offset, offset), (self.reference, reference)
        return _Observations(*map(np.concatenate, both))

    def to_find(self) -> np.ndarray:
        """(K,) rows that are no references, by the view of these, then by landmark."""
        rows = np.flatnonzero(self.reference != np.arange(len(self.view)))
        return rows[np.lexsort((self.ids[rows], self.view[self.reference[rows]]))]


def _carried(sparse: SparseMap, frame: LocatedFrame, view: SparseView) -> Array:
    """(K, 2) pixels by which what a frame sees was carried on until its image was read, and moved by a zoom."""
    intrinsics = sparse.intrinsics[view.camera]
    if frame.motion is None:
        return np.zeros((len(view.seen.ids), 2))
    points = transform(invert(view.pose), sparse.points[view.seen.ids])
    offset = np.nan_to_num(project(points, intrinsics.focal, (0.0, 0.0)))
    carried = frame.motion.carried(intrinsics, points, offset, np.array(intrinsics.rolling))
    return np.asarray(carried + np.expm1(frame.motion.zoom) * (offset + carried))


def _softened(image: KeyframeRecord | LocatedFrame) -> Array32:
    assert image.gray is not None, "those without one are left out"
    return softened(image.gray)


def _shape(sparse: SparseMap, views: Sequence[SparseView], seen: _Observations, rows: np.ndarray) -> Array:
    """(K, 2, 2) by how much pixels change with those of the references' view, on surfaces that face it."""
    of_reference = seen.reference[rows]
    index = int(seen.view[of_reference[0]])
    first, depth = sparse.views[index], sparse.depths(index, seen.ids[rows])
    intrinsics, at = sparse.intrinsics[first.camera], []
    for step in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        ideal = intrinsics.lens.ideal(seen.offset[of_reference] + step)
        points = transform(first.pose, depth[:, None] * rays(ideal, intrinsics.focal, (0.0, 0.0)))
        at.append(projections(views, sparse.intrinsics, seen.view[rows], points))
    return np.stack([at[1] - at[0], at[2] - at[0]], axis=2)
