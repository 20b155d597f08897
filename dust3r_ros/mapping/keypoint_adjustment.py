"""What keyframes see of landmarks, measured again in their images: exact to a few hundredths of a pixel.

Features are found in each image alone, a tenth to half a pixel from each other's places. Here the patch around one
observation of a landmark, the reference, is found in all other keyframes that see the landmark (keypoint adjustment:
Dusmanu et al., "Multi-view optimization of local feature geometry", ECCV 2020; Lindenberger et al., "Pixel-perfect
structure-from-motion", ICCV 2021).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from dust3r_ros.alignment.processes import each
from dust3r_ros.features.patches import HALF, find_patches, softened
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.sparse.landmarks import Spread
from dust3r_ros.sparse.refinement import problem_of, scatter_of
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.types import Array, Array32

_ALIKE = 0.9  # least correlation of two patches of one place
_MOST_PX = 1.5  # that features are off
_MOST_STD_PX = 0.5  # more says no more than the feature
_LEAST_STD_PX = 0.03  # of any patch: surfaces are curved, images sampled
# What is not found is rarely as exact as what is: it is at the edge of something, or moves. It counts as so many times
# the scatter of all features.
_ROUGH = 4.0
_IMAGES = 64  # kept at a time


class KeypointAdjustment:
    """Measures what the keyframes of a map see, in their tracked images; keyframes without one are left as they are."""

    def __init__(self, state: Reconstruction) -> None:
        self._state = state

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Move observations to where they are measured; adjustments inside weigh each by its standard deviation."""
        sparse = self._state.sparse
        rough = _ROUGH * scatter_of(sparse, problem_of(sparse))
        seen = _Observations.of(sparse, [v for v in sparse.posed() if self._state.records[v].gray is not None])
        pixels, std = self._found(seen)
        for view in np.unique(seen.view[np.isfinite(std)]).tolist():
            mine = np.flatnonzero(np.isfinite(std) & (seen.view == view))
            sparse.views[view].seen = sparse.views[view].seen.moved(seen.ids[mine], pixels[mine])
        known = np.flatnonzero(np.isfinite(std))
        sparse.spread = Spread(seen.view[known], seen.ids[known], np.hypot(std[known], _LEAST_STD_PX), rough)
        try:
            yield
        finally:
            sparse.spread = None

    def _found(self, seen: _Observations) -> tuple[Array, Array]:
        """(M, 2) measured offsets and their deviations (M,), pixels; NaN for what is not found near enough.

        A reference is exact where its patch is found at all.
        """
        pixels, std = seen.offset.copy(), np.full(len(seen.view), np.nan)
        images = _Images(self._state)
        first, second = seen.view[seen.reference], seen.view
        rows = np.flatnonzero(seen.reference != np.arange(len(second)))
        rows = rows[np.lexsort((second[rows], first[rows]))]
        for of_first in _runs(first, rows):
            reference = images.get(first[of_first[0]])
            pairs = [(images.get(second[pair[0]]), pair) for pair in _runs(second, of_first)]
            found = each(lambda pair: self._found_in(seen, reference, *pair), pairs)  # noqa: B023
            for (_, pair), (at, deviation) in zip(pairs, found, strict=True):
                pixels[pair], std[pair] = at, deviation
        std[seen.reference[np.isfinite(std)]] = 0.0
        return pixels, std

    def _found_in(
        self, seen: _Observations, reference: Array32, image: Array32, rows: np.ndarray
    ) -> tuple[Array, Array]:
        """Offsets (K, 2) and deviations (K,) of observations by one view whose references are in one other."""
        sparse, of_reference = self._state.sparse, seen.reference[rows]
        first, second = (self._state.records[seen.view[row]].stream for row in (of_reference[0], rows[0]))
        start = np.concatenate([_shape(sparse, seen, rows), second.pixels(seen.offset[rows])[:, :, None]], axis=2)
        found = find_patches(reference, first.pixels(seen.offset[of_reference]), image, start)
        offsets = second.centred(found.pixels)
        inside = np.all((found.pixels >= HALF) & (found.pixels < np.array(image.shape[::-1]) - HALF), axis=1)
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
        for index in views:
            mine = view == index
            focal = sparse.intrinsics[sparse.views[index].camera].focal
            scale[mine] = focal / sparse.depths(index, ids[point[mine]])
        order = np.lexsort((scale, point))
        first = np.flatnonzero(np.diff(point[order], prepend=-1))
        count = np.diff(first, append=len(order))
        reference = np.empty(len(view), np.int64)
        reference[order] = np.repeat(order[first + count // 2], count)
        return cls(view, ids[point], offset, reference)


def _runs(values: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """``rows`` cut where their ``values`` change; none if there are none."""
    return np.split(rows, np.flatnonzero(np.diff(values[rows])) + 1) if len(rows) else []


def _shape(sparse: SparseMap, seen: _Observations, rows: np.ndarray) -> Array:
    """(K, 2, 2) by how much one view's pixels change with those of the references' view, on surfaces that face it."""
    of_reference = seen.reference[rows]
    first, second = (sparse.views[seen.view[row]] for row in (of_reference[0], rows[0]))
    own, other = (sparse.intrinsics[view.camera] for view in (first, second))
    depth = sparse.depths(int(seen.view[of_reference[0]]), seen.ids[rows])
    second_T_first = invert(second.pose) @ first.pose
    at = []
    for step in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        slopes = own.lens.ideal(seen.offset[of_reference] + step) / own.focal
        points = depth[:, None] * np.concatenate([slopes, np.ones((len(rows), 1))], axis=1)
        points = transform(second_T_first, points)
        at.append(other.lens.seen(other.focal * points[:, :2] / points[:, 2:]))
    return np.stack([at[1] - at[0], at[2] - at[0]], axis=2)


class _Images:
    """Softened images of keyframes, the latest that were asked for."""

    def __init__(self, state: Reconstruction) -> None:
        self._records = state.records
        self._kept: OrderedDict[int, Array32] = OrderedDict()

    def get(self, view: int) -> Array32:
        """The tracked image (H, W) of a keyframe that has one."""
        gray = self._records[view].gray
        assert gray is not None, "views without an image are left out"
        self._kept[view] = self._kept.pop(view) if view in self._kept else softened(gray)
        while len(self._kept) > _IMAGES:
            self._kept.popitem(last=False)
        return self._kept[view]
