"""Sights of a list of landmarks, with what it takes to project other positions into them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.types import Array


@dataclass(frozen=True, eq=False)
class LandmarkSights:
    """Where posed views see landmarks: ``row`` of a list (S,), which view, its pose and focal.

    ``offset`` (S, 2) pixels, where a pinhole would see them.
    """

    row: NDArray[np.int64]
    view: NDArray[np.int64]
    offset: Array
    w_T_c: Array
    focal: Array

    @classmethod
    def of(cls, sparse: SparseMap, ids: NDArray[np.int64]) -> LandmarkSights:
        """Every sight of the landmarks ``ids`` (M,)."""
        parts = []
        for index in sparse.posed():
            view = sparse.views[index]
            seen = view.seen.unique()
            if not len(seen.ids):
                continue
            at = np.minimum(np.searchsorted(seen.ids, ids), len(seen.ids) - 1)
            hit = np.flatnonzero(seen.ids[at] == ids)
            assert view.w_T_c is not None, "only posed views are asked"
            poses = np.broadcast_to(view.w_T_c, (len(hit), 4, 4))
            camera = sparse.focals[view.camera]
            offset, focal = camera.lens.ideal(seen.pixels[at[hit]]), np.full(len(hit), camera.value)
            parts.append((hit, np.full(len(hit), index), offset, poses, focal))
        if not parts:
            return cls(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)), np.zeros((0, 4, 4)), np.zeros(0))
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def select(self, keep: NDArray[np.bool_]) -> LandmarkSights:
        """Only the sights of the landmarks under a mask (M,)."""
        hit = keep[self.row]
        return LandmarkSights(self.row[hit], self.view[hit], self.offset[hit], self.w_T_c[hit], self.focal[hit])

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
