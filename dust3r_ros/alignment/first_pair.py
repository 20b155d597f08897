"""The two views that a new map starts from, and how they lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.errors import GeometryError
from dust3r_ros.features import epipolar_inliers
from dust3r_ros.geometry.essential import essential_pose
from dust3r_ros.geometry.pinhole import rays
from dust3r_ros.geometry.turning import turning_error
from dust3r_ros.types import Array

_FIRST_PARALLAX_DEG = 2.0
_TURNING_PX = 1.0
_PROMISING = 2
# Far things fit nearly any direction of translation to a pixel, so that something near that moves by itself would
# choose it; to a part of a pixel they do not.
_SHARP_PX = 0.3
_REFINED = 500  # matches
_MOST = 0.8  # of the share of matches that the best pair explains: less, and it may be what moves that does

Pair = tuple[int, int]


class PairFromLandmarks:
    """The pair that sees most landmarks under parallax, posed by its essential matrix; the length is free.

    Which pairs turn on the spot, and which see most under parallax, hardly depends on the focal: of
    all focals that are tried on the same views, only the first looks at every pair.
    """

    def __init__(self, sharp: bool = False, tries: int = 1000) -> None:
        """``sharp``: what is exact to a part of a pixel decides, for images that are good and hold things that move.

        ``tries``: of RANSAC, which takes most of the time.
        """
        self._sharp, self._tries = sharp, tries
        self._turning: dict[Pair, bool] = {}
        self._ranking: list[Pair] = []

    def __call__(self, sparse: SparseMap, views: Sequence[int], focal: float) -> tuple[int, int, Array]:
        """(first, second, ``first_T_second``) of ``views``; raises ``GeometryError`` when no pair has parallax."""
        everyone = [pair for pair in combinations(views, 2) if not self._turns(sparse, *pair)]
        promising = [pair for pair in self._ranking if pair in everyone][:_PROMISING]
        others = [pair for pair in everyone if pair not in promising]
        found = self._posed(sparse, promising, focal) or self._posed(sparse, others, focal)
        if not found:
            raise GeometryError(f"none of {len(views)} views has enough parallax to another")
        if not promising:
            self._ranking = [pair for _, pair, _ in found]
        _, (first, second), first_T_second = found[0]
        return first, second, first_T_second

    def _posed(self, sparse: SparseMap, pairs: Iterable[Pair], focal: float) -> list[tuple[int, Pair, Array]]:
        """(landmarks under parallax, pair, ``first_T_second``) of those ``pairs`` that have any, most first."""
        found: list[tuple[int, Pair, Array]] = []
        shares: list[float] = []
        for pair in pairs:
            a, b = sparse.common(*pair)
            try:
                # As a rule not refined: the adjustment that follows does it better.
                first_T_second, inliers = essential_pose(
                    a, b, focal, focal, (0.0, 0.0), (0.0, 0.0),
                    threshold_px=_SHARP_PX if self._sharp else 1.0, refine_matches=_REFINED if self._sharp else 0,
                    tries=self._tries,
                )  # fmt: skip
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

    def _turns(self, sparse: SparseMap, first: int, second: int) -> bool:
        """Whether turning on the spot explains a pair."""
        if (first, second) not in self._turning:
            a, b = sparse.common(first, second)
            usual = sparse.focals[sparse.views[first].camera].prior
            good = epipolar_inliers(a, b)
            error = turning_error(a[good], b[good], 0.4 * usual, 4.0 * usual)
            self._turning[first, second] = error < _TURNING_PX
        return self._turning[first, second]


def _angles_deg(a: Array, b: Array) -> Array:
    cosine = np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
