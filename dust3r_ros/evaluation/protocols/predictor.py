"""A pair backend as runners use it: views in, pointmaps of their pairs out; a few views aligned in one world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np

from dust3r_ros.alignment import Part, align_parts
from dust3r_ros.backends.base import Backend
from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.datasets.recording import View as RecordedView
from dust3r_ros.evaluation.protocols.recordings import WorkingView, working
from dust3r_ros.geometry.focal import estimate_focal, pooled_focal
from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.geometry.pose import PnpResult, solve_pnp
from dust3r_ros.types import Array, PairPrediction, View

MIN_CONFIDENCE = 3.0  # of pixels that poses are computed from (as in DUSt3R's program)
_ENOUGH = 200  # confident pixels; with fewer, all pixels with any confidence take part
_MOST = 8000  # pixels in one PnP
_BEST = 4  # pairs for a focal


class Predictor:
    """``size``: long edge of the images in pixels. ``known_focals``: intrinsics of the recording are used. ``centred``:
    crops are centred on the principal point (``recordings.working``); None: with ``known_focals``.

    To the backend every view is a camera of its own: intrinsics are not assumed to be shared.
    """

    def __init__(
        self, backend: Backend, size: int = 512, known_focals: bool = False, centred: bool | None = None
    ) -> None:
        self.backend, self.size, self.known_focals = backend, size, known_focals
        self.centred = known_focals if centred is None else centred
        self.views: list[WorkingView] = []

    def take(self, views: Sequence[RecordedView]) -> list[WorkingView]:
        """Replace all views by ``views``, numbered from 0. Raises ``InputError`` for an image that cannot be used."""
        self.backend.clear()
        self.views = []
        for view in views:
            self.add(view)
        return self.views

    def add(self, view: RecordedView) -> int:
        """Add a view; returns its number."""
        made, index = working(view, self.size, self.known_focals, self.centred), len(self.views)
        self.backend.add(View(index, str(index), made.image))
        self.views.append(made)
        return index

    def predict(
        self, pairs: Sequence[tuple[int, int]], poses: Mapping[int, Array] | None = None
    ) -> list[PairPrediction]:
        """Pointmaps of ordered pairs of views; ``poses``: ``w_T_c`` that are known."""
        focals = {str(index): view.focal for index, view in enumerate(self.views) if view.focal is not None}
        return self.backend.predict(pairs, focals, poses)

    def all_pairs(self, poses: Mapping[int, Array] | None = None) -> list[PairPrediction]:
        """Pointmaps of all pairs of views, in both orders."""
        return self.predict(list(permutations(range(len(self.views)), 2)), poses)


def confident(confidence: np.ndarray) -> np.ndarray:
    """(H, W) pixels above ``MIN_CONFIDENCE``; above 1 (no evidence) where these are few."""
    chosen = confidence > MIN_CONFIDENCE
    return chosen if chosen.sum() >= _ENOUGH else confidence > 1.0


def own_focals(pairs: Sequence[PairPrediction], views: Sequence[WorkingView]) -> list[float | None]:
    """Focal of each view, working pixels: as given, else from its own pointmaps (first of a pair), else None.

    Robust Weiszfeld on each pair (``geometry.focal``), pooled over the view's most confident pairs.
    """
    found: list[float | None] = []
    for index, view in enumerate(views):
        if view.focal is not None:
            found.append(view.focal)
            continue
        own = sorted((p for p in pairs if p.first == index), key=lambda p: -float(np.mean(p.confidence_first)))
        values, weights = [], []
        for pair in own[:_BEST]:
            try:
                values.append(estimate_focal(pair.points_first, pair.confidence_first))
                weights.append(float(np.log(pair.confidence_first).mean()))
            except GeometryError:
                continue
        found.append(pooled_focal(values, weights)[0] if any(weight > 0 for weight in weights) else None)
    return found


def pose_by_pnp(pair: PairPrediction, focal: float, center: tuple[float, float]) -> PnpResult:
    """``first_T_second`` in the pair's unit: PnP-RANSAC of the second image's pixels on its points in the first frame.

    DUSt3R, section 3.3 (relative pose). Raises ``GeometryError``.
    """
    rows, columns = np.nonzero(confident(pair.confidence_second) & np.isfinite(pair.points_second).all(axis=-1))
    chosen = drawn(len(rows), 0)
    pixels = np.stack([columns, rows], axis=-1)[chosen].astype(np.float64)
    points = pair.points_second[rows[chosen], columns[chosen]]
    return solve_pnp(points, pixels, focal, center)


def drawn(count: int, seed: int, most: int = _MOST) -> np.ndarray:
    """All indices below ``count``, or ``most`` of them at random."""
    return np.arange(count) if count <= most else np.random.default_rng(seed).choice(count, most, replace=False)


# Share of confident pixels in each view: with fewer, two-view geometry is wrong more often than right, and an
# alignment cannot tell. A network is confident everywhere, so all its pairs count.
_LEAST = 0.02


def aligned_parts(
    pairs: Sequence[PairPrediction], views: Sequence[WorkingView], poses: Array | None = None
) -> list[Part]:
    """Worlds of the views connected by pairs, the largest first (``alignment.parts``); none where no pair is
    informative.

    Known focals are fixed, and so are ``poses`` (N, 4, 4) if given. An alignment takes the principal point to be at
    the image's centre; where it is known, ``working`` has brought it there, to half a pixel. Raises ``InputError``
    where it could not, and ``GeometryError`` where a part cannot be aligned.
    """
    for index, view in enumerate(views):
        off = float(np.abs(np.subtract(view.center, center_of(*view.image.shape[:2]))).max())
        if off > 1.0:
            raise InputError(
                f"the principal point of view {index} is {off:.0f} pixels off its image's centre; an alignment "
                "needs it there, so it must be inside the native image"
            )
    chosen = informative(pairs)
    if not chosen:
        return []
    focals = np.array([np.nan if view.focal is None else view.focal for view in views])
    return align_parts(chosen, poses=poses, focals=focals if np.isfinite(focals).any() else None)


def informative(pairs: Sequence[PairPrediction]) -> list[PairPrediction]:
    """Pairs with enough confident pixels in both views, in both orders: an alignment needs a pair in each view's own
    frame."""
    good = {
        (pair.first, pair.second)
        for pair in pairs
        if min(float(np.mean(pair.confidence_first > 1)), float(np.mean(pair.confidence_second > 1))) >= _LEAST
    }
    return [pair for pair in pairs if {(pair.first, pair.second), (pair.second, pair.first)} <= good]
