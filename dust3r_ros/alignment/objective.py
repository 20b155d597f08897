"""What a global alignment returns, and the published objective by which every method is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.geometry.pinhole import unproject
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.types import Array, Array32, PairPrediction

PAIR_SCALE = 0.5  # geometric mean of all σ: the gauge of the published scheme
_FIT_PIXELS = 5000  # of a view suffice for a similarity
_COARSE_ROUNDS, _FINE_ROUNDS = 60, 12
_COARSE_CHANGE, _FINE_CHANGE = 1e-5, 1e-6
_MIN_SAMPLE = 100  # with fewer confident pixels than this, all are taken
_FLOOR = 1e-6  # least residual in a weight, relative to the mean depth


@dataclass(eq=False)
class _PairFit:
    """One pair's similarity into the world, as ``scale`` * ``rotation`` x + ``translation``, and its cost there."""

    scale: float
    rotation: Array
    translation: Array
    cost: float = float("inf")


def published_objective(
    pairs: Sequence[PairPrediction],
    w_T_c: Array,
    focals: Array,
    depths: Sequence[Array32],
    *,
    fit_stride: int | None = None,
) -> float:
    """Confidence-weighted distance between a scene and its pairs, in units of half the mean pair scale.

    For each of the two views, take the mean of log(C) * ‖χ - σ P X‖ over all pixels of all pairs; add the two
    means. χ: the pixel's point in the world, from ``depths`` (N maps (H, W) of z), ``focals``
    (N,) pixels and ``w_T_c`` (N, 4, 4). X, C: the pair's point and confidence. σ, P: similarity of the pair;
    all similarities minimise this sum under mean log σ = log 1/2, which also fixes
    the scale of the scene, so the value does not depend on the input scale.

    The similarities are fitted to every ``fit_stride``-th row and column (None: about 5000 pixels a
    view, which is within 1e-4 of the minimum); the value always covers all pixels. Raises
    ``InputError`` for no pairs and for inconsistent arrays, ``GeometryError`` for a pair
    without confident pixels or with all its points in one place.

    Source: Wang et al., "DUSt3R", CVPR 2024, eq. 5, with the logarithm of the confidence.
    """
    _check(pairs, w_T_c, focals, depths)
    world = [transform(T, unproject(d, float(f))) for T, d, f in zip(w_T_c, depths, focals, strict=True)]
    costs = _Costs(pairs, world)
    fine = fit_stride or max(1, round(float(np.sqrt(max(d.size for d in depths) / _FIT_PIXELS))))
    fits = costs.improve(costs.start(fine), 2 * fine, _COARSE_ROUNDS, _COARSE_CHANGE)
    fits = costs.improve(fits, fine, _FINE_ROUNDS, _FINE_CHANGE)
    total = sum(costs.cost(index, fit) for index, fit in enumerate(fits))
    mean_log = float(np.mean([np.log(fit.scale) for fit in fits]))
    return float(total * PAIR_SCALE * np.exp(-mean_log))


class _Costs:
    """The cost of every pair: its weighted distances, divided by the pixel count of all first or all second views.

    In float32, with the world's origin at the centre of the scene so that this is precise enough.
    """

    def __init__(self, pairs: Sequence[PairPrediction], world: Sequence[Array]) -> None:
        middle = np.mean([points.mean(axis=(0, 1)) for points in world], axis=0)
        self._pairs = pairs
        self._world = [(points - middle).astype(np.float32) for points in world]
        self._pixels = (sum(p.confidence_first.size for p in pairs), sum(p.confidence_second.size for p in pairs))

    def _views(self, index: int, stride: int) -> Iterator[tuple[Array32, Array32, Array32, Array32]]:
        """Points (M, 3), place in the world (M, 3), confidence (M,), weight (M,) of both views of a pair."""
        pair = self._pairs[index]
        views = (
            (pair.first, pair.points_first, pair.confidence_first),
            (pair.second, pair.points_second, pair.confidence_second),
        )
        for pixels, (image, points, confidence) in zip(self._pixels, views, strict=True):
            x, y, c = (a[::stride, ::stride] for a in (points, self._world[image], confidence))
            c = c.ravel()
            yield x.reshape(-1, 3), y.reshape(-1, 3), c, np.log(c) * np.float32(stride * stride / pixels)

    def points(self, index: int, stride: int) -> tuple[Array32, Array32, Array32]:
        """Points (M, 3) of a pair, their place (M, 3) in the world, weights (M,), for the pixels that have weight."""
        parts = [(x[c > 1.0], y[c > 1.0], w[c > 1.0]) for x, y, c, w in self._views(index, stride)]
        x, y, w = (np.concatenate(part) for part in zip(*parts, strict=True))
        return x, y, w

    def cost(self, index: int, fit: _PairFit) -> float:
        """The cost of a pair over all its pixels."""
        # A point without weight may be NaN; selecting the others would take longer than all the rest.
        total = sum(float(w @ _distances(fit, x, y)) for x, y, _, w in self._views(index, 1))
        if np.isfinite(total):
            return total
        x, y, w = self.points(index, 1)
        return float(w @ _distances(fit, x, y))

    def sample(self, index: int, stride: int) -> tuple[Array32, Array32, Array32]:
        """``points`` at a stride, or of all pixels if those are too few."""
        found = self.points(index, stride)
        return found if len(found[2]) >= _MIN_SAMPLE or stride == 1 else self.points(index, 1)

    def start(self, stride: int) -> list[_PairFit]:
        """Start from least squares of the squared distances."""
        fits = []
        for index, pair in enumerate(self._pairs):
            x, y, w = self.sample(index, stride)
            if len(w) < 3:
                raise GeometryError(
                    f"pair ({pair.first}, {pair.second}) has {len(w)} pixels of confidence above 1; "
                    "its similarity needs at least 3"
                )
            fits.append(_step(x, y, w, 0.0))
        return fits

    def improve(self, fits: list[_PairFit], stride: int, rounds: int, change: float) -> list[_PairFit]:
        """Iteratively reweighted least squares for the distances; the scale gauge couples all pairs.

        The derivative of the logarithm of the normalised sum by log σ_e is cost_e' / total - 1 / pairs, so each
        pair minimises its cost minus the mean cost times log σ_e.
        """
        data = [self.sample(index, stride) for index in range(len(fits))]
        previous = np.inf
        for _ in range(rounds):
            distances = [_distances(fit, x, y) for fit, (x, y, _) in zip(fits, data, strict=True)]
            total = sum(float(w @ r) for r, (_, _, w) in zip(distances, data, strict=True))
            value = total * np.exp(-np.mean([np.log(fit.scale) for fit in fits]))
            if not previous - value > change * value:
                break
            previous = value
            floor = _FLOOR * float(np.mean([fit.scale for fit in fits])) + 1e-30
            fits = [
                _step(x, y, w / np.maximum(r, np.float32(floor)), total / len(fits))
                for r, (x, y, w) in zip(distances, data, strict=True)
            ]
        return fits


def _distances(fit: _PairFit, x: Array32, y: Array32) -> Array32:
    d = x @ (fit.scale * fit.rotation.T).astype(np.float32)
    d += fit.translation.astype(np.float32)
    d -= y
    return np.sqrt(np.einsum("mi,mi->m", d, d))


def _step(x: Array32, y: Array32, weights: Array32, pull: float) -> _PairFit:
    """The similarity minimising Σ weights ‖y - S x‖² / 2 - ``pull`` * log σ (Umeyama, PAMI 1991, weighted)."""
    total = float(weights.sum())
    w = weights / np.float32(total)
    mean_x, mean_y = w @ x, w @ y
    x, y = x - mean_x, y - mean_y
    wx = w[:, None] * x
    U, singular, Vt = np.linalg.svd((y.T @ wx).astype(np.float64))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])
    rotation = (U * signs) @ Vt
    square, along = float(np.einsum("mi,mi->", wx, x)), float(singular @ signs)
    if not (square > 0 and along > 0):
        raise GeometryError(
            f"a pair of {len(w)} confident points with variance {square:.3g} has no similarity to the scene"
        )
    scale = (along + np.sqrt(along**2 + 4 * square * pull / total)) / (2 * square)
    return _PairFit(scale, rotation, mean_y - scale * rotation @ mean_x)


def _check(pairs: Sequence[PairPrediction], w_T_c: Array, focals: Array, depths: Sequence[Array32]) -> None:
    if len(pairs) == 0:
        raise InputError("the objective of an alignment needs at least one pair, not 0")
    if not len(w_T_c) == len(focals) == len(depths):
        raise InputError(
            f"{len(w_T_c)} poses, {len(focals)} focals and {len(depths)} depth maps; their numbers must be equal"
        )
    for pair in pairs:
        views = ((pair.first, pair.confidence_first.shape), (pair.second, pair.confidence_second.shape))
        for image, shape in views:
            if not 0 <= image < len(depths) or np.shape(depths[image]) != shape:
                raise InputError(
                    f"pair ({pair.first}, {pair.second}) has an image {image} of {shape}, but the scene of "
                    f"{len(depths)} images has no depth map of that size for it"
                )


@dataclass(frozen=True)
class EdgeReport:
    """The outcome for one pair; reports are in the order of the given pairs.

    ``residual``: confidence-weighted mean of ‖χ - σ P X‖ over the pixels of both views, in units of
    the scene. ``switched_off``: treated as an outlier (such as a wrong loop), without influence on the result.
    """

    first: int
    second: int
    residual: float
    switched_off: bool = False


@dataclass(frozen=True, eq=False)
class Alignment:
    """N images in one world of arbitrary scale.

    ``w_T_c`` (N, 4, 4); ``focals`` (N,) pixels; ``depths`` N maps (H, W) float32 of z in the camera,
    0 where unknown; ``seconds``: wall time of the solution, without ``objective``, which
    is computed on demand. ``edges``: one report per pair.
    """

    w_T_c: Array
    focals: Array
    depths: list[Array32]
    seconds: float
    edges: tuple[EdgeReport, ...] = ()
    pairs: Sequence[PairPrediction] = field(default=(), repr=False)

    @cached_property
    def objective(self) -> float:
        """The published objective of this result on its pairs (see ``published_objective``)."""
        return published_objective(self.pairs, self.w_T_c, self.focals, self.depths)
