"""How a keyframe starts: one focal per camera, pooled over its keyframes, and the pose of a new view from its pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dust3r_ros.alignment.moments import inverse, scale_of
from dust3r_ros.alignment.online.edge_store import PointPairs
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.depths import robust_scale
from dust3r_ros.geometry.focal import FOCAL_LIMITS, estimate_focal, pooled_focal, reference_focal
from dust3r_ros.geometry.pinhole import center_of, pixel_grid
from dust3r_ros.geometry.pose import PnpResult, solve_pnp
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.types import Array, Array32, PairPrediction

# A network's error of the log focal that all images of a scene have in common, so that their scatter does not show it:
# at least this, and a multiple of the scatter (measured with the weights that ship with this package: errors of up to
# 0.36 in eight scenes, 0.5 to 6 times the scatter, root of the mean square 3.6).
_COMMON_ERROR, _COMMON_PER_SCATTER = 0.03, 3.5
_SCATTER, _SCATTER_VOTES = 0.025, 2  # before there are votes: this scatter counts as so many
_PIXELS = 768  # of a view used for its focal: errors of pointmaps extend over more than the gaps between


@dataclass
class FocalPool:
    """The focal of one camera, pixels of its pointmaps.

    A ``given`` one is combined with the votes by its relative standard deviation ``given_std``; 0: it never changes.
    """

    given: float | None = None
    given_std: float = 0.0
    _focals: list[float] = field(default_factory=list)
    _weights: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._focals)

    def facts(self) -> dict[str, Any]:
        """What ``of`` needs, as JSON values; ``votes``: (focal, weight)."""
        votes = list(zip(self._focals, self._weights, strict=True))
        return {"given": self.given, "given_std": self.given_std, "votes": votes}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> FocalPool:
        """A pool from an earlier session."""
        focals, weights = ([vote[at] for vote in facts["votes"]] for at in (0, 1))
        return cls(facts["given"], facts.get("given_std", 0.0), focals, weights)

    @property
    def held(self) -> bool:
        """Whether the focal is given exactly."""
        return self.given is not None and self.given_std == 0.0

    def vote(self, predictions: Sequence[PairPrediction]) -> bool:
        """Let the first views of one keyframe's predictions cast one joint vote; returns whether they did."""
        logs, weights = [], []
        for prediction in () if self.held else predictions:
            weight = float(
                np.mean(np.log(np.maximum(np.nan_to_num(prediction.confidence_first, nan=1.0, posinf=1.0), 1.0)))
            )
            try:
                logs.append(math.log(_first_focal(prediction)))
                weights.append(weight)
            except GeometryError:
                continue
        if not sum(weights) > 0:
            return False
        self._focals.append(math.exp(np.average(logs, weights=weights)))
        self._weights.append(float(np.mean(weights)))
        return True

    def withdraw(self) -> None:
        """Forget the last vote."""
        self._focals.pop()
        self._weights.pop()

    def value(self, height: int, width: int) -> tuple[float, float]:
        """(focal, standard deviation); before the first vote, a guess for this image size and infinity."""
        if self.given is not None and (self.held or not self._focals):
            return self.given, self.given * self.given_std
        if not self._focals:
            return reference_focal(height, width), math.inf
        focal, std = pooled_focal(self._focals, self._weights)
        std = math.hypot(std / focal, _COMMON_ERROR, _COMMON_PER_SCATTER * self._scatter(focal))
        if self.given is None:
            return focal, focal * std
        share = 1.0 / (1.0 + (std / self.given_std) ** 2)
        focal = focal**share * self.given ** (1.0 - share)
        return focal, focal * self.given_std * math.sqrt(1.0 - share)

    def _scatter(self, focal: float) -> float:
        """Standard deviation of the logs of single votes, around that of the pooled ``focal``."""
        squares = np.log(np.divide(self._focals, focal)) ** 2
        own, usual = len(squares) * np.average(squares, weights=self._weights), _SCATTER_VOTES * _SCATTER**2
        return math.sqrt((own + usual) / (len(squares) - 1 + _SCATTER_VOTES))


def _first_focal(prediction: PairPrediction) -> float:
    """The focal of the first view from about ``_PIXELS`` pixels in rows and columns, within the usual limits."""
    height, width = prediction.confidence_first.shape
    step = max(1, round(math.sqrt(height * width / _PIXELS)))
    cx, cy = center_of(height, width)
    points, confidence = prediction.points_first[::step, ::step], prediction.confidence_first[::step, ::step]
    focal = step * estimate_focal(points, confidence, center=(cx / step, cy / step), limits=None)
    low, high = (limit * reference_focal(height, width) for limit in FOCAL_LIMITS)
    return min(max(focal, low), high)


_SAMPLES = 3000
_THRESHOLD_PX = 3.0
_MIN_CONFIDENT = 0.02  # of the pixels


@dataclass(frozen=True, eq=False)
class PlacedView:
    """A view with known pose: ``w_T_c`` (4, 4), ``depth`` (H, W) with ``confidence`` (0 and 1: unknown)."""

    w_T_c: Array
    depth: Array32
    confidence: Array32


def pair_scale(prediction: PairPrediction, placed: PlacedView) -> float:
    """Map units per unit of the pair, from the first view's depth in both; NaN if they share none."""
    weight = np.log(prediction.confidence_first) * np.log(np.maximum(placed.confidence, 1.0))
    return robust_scale(placed.depth.ravel(), prediction.points_first[..., 2].ravel(), weight.ravel())


def attach(
    new: int, predictions: Sequence[PairPrediction], placed: Mapping[int, PlacedView], focal: float, seed: int = 0
) -> PnpResult:
    """Pose of view ``new`` from all predictions (first placed, second ``new``) in one PnP.

    The pair's points of the new view are scaled into the map by ``pair_scale``; ``focal`` is the new
    view's, pixels. Raises ``GeometryError`` if the pairs give too few points.
    """
    points, pixels = [], []
    for prediction in predictions:
        if prediction.second != new or prediction.first not in placed:
            continue
        view = placed[prediction.first]
        scale = pair_scale(prediction, view)
        rows, columns = np.nonzero(prediction.confidence_second > 1.0)
        if not np.isfinite(scale) or len(rows) < _MIN_CONFIDENT * prediction.confidence_second.size:
            continue
        keep = np.linspace(0, len(rows) - 1, min(_SAMPLES, len(rows))).astype(int)
        rows, columns = rows[keep], columns[keep]
        shape = prediction.confidence_second.shape
        points.append(transform(view.w_T_c, scale * prediction.points_second[rows, columns].astype(np.float64)))
        pixels.append(pixel_grid(*shape)[rows, columns])
    if not points:
        raise GeometryError(f"view {new}: none of {len(predictions)} pairs with placed views knows its depth")
    center = center_of(*shape)
    found = np.concatenate(points)
    return solve_pnp(
        found, np.concatenate(pixels), focal, center, threshold_px=_THRESHOLD_PX, min_inliers=len(found) // 4, seed=seed
    )


# Residuals are clipped at this fraction of the scene's depth: beyond it, a pair is simply wrong.
_MAX_RESIDUAL = 0.2


def proposals(new: int, first: Array, second: Array, fitted: Array, w_S: Array) -> Array:
    """(E, 4, 4) where each edge of keyframe ``new`` on its own would put it; NaN for edges that determine nothing.

    ``first``, ``second`` (E,) are its ends, ``fitted`` (E, 4, 4) its ``second_S_first``.
    """
    ahead = second == new
    known = ~np.isnan(fitted[:, 0, 0])
    relative = np.where(known[:, None, None], fitted, np.eye(4))
    relative[ahead] = inverse(relative[ahead])  # now other_S_new
    placed = w_S[np.where(ahead, first, second)] @ relative
    placed[~known] = np.nan
    return placed


def best_proposal(new: int, first: Array, second: Array, points: PointPairs, placed: Array, w_S: Array) -> Array:
    """The proposal (4, 4) with which all edges of ``new`` agree best, the residual of each clipped.

    Raises ``GeometryError`` if no edge has information.
    """
    totals = np.full(len(placed), np.inf)
    for at in np.flatnonzero(np.isfinite(placed).all(axis=(1, 2))):
        S_first = np.where((first == new)[:, None, None], placed[at], w_S[first])
        S_second = np.where((second == new)[:, None, None], placed[at], w_S[second])
        off = np.minimum(points.mean(points.residuals(S_first, S_second)), _MAX_RESIDUAL)
        totals[at] = float(off @ points.weight.sum(axis=1))
    if not np.isfinite(totals).any():
        ends = zip(first, second, points.weight.sum(axis=1), strict=True)
        shares = ", ".join(f"{i}-{j}: {weight:.3g}" for i, j, weight in ends)
        raise GeometryError(
            f"keyframe {new} cannot be placed: none of its {len(first)} pairs determines a similarity "
            f"(weight of each: {shares}); one must share confident points that are not on one line"
        )
    return placed[np.argmin(totals)]


def pair_to_second(points: PointPairs, edge: int, S_first: Array, S_second: Array) -> Array:
    """(4, 4) from the pair's own unit in the frame of its first view to the canonical frame of its second."""
    unit = np.diag([points.scale[edge]] * 3 + [1.0])
    return inverse(S_second) @ S_first @ unit


def second_depth(prediction: PairPrediction, second_S_pair: Array) -> Array32:
    """(H, W) z of the second view's points in its own frame; ``second_S_pair`` as from ``pair_to_second``."""
    row = second_S_pair[2].astype(np.float32)
    with np.errstate(invalid="ignore"):  # non-finite values stay non-finite
        depth: Array32 = prediction.points_second @ row[:3] + row[3]
    return depth


def depth_by_pnp(new: int, prediction: PairPrediction, focal: float) -> Array32:
    """(H, W) z of a keyframe that is only the second view of its pairs: PnP finds its pose in the first view.

    Raises ``GeometryError`` if the pair gives too few points.
    """
    own = PlacedView(np.eye(4), prediction.points_first[..., 2], prediction.confidence_first)
    first_T_new = attach(new, [prediction], {prediction.first: own}, focal).w_T_c
    return transform(invert(first_T_new), prediction.points_second.astype(np.float64))[..., 2].astype(np.float32)


def rigid(S: Array) -> Array:
    """Poses (..., 4, 4) of similarities (..., 4, 4)."""
    T = S.copy()
    T[..., :3, :3] /= scale_of(S)[..., None, None]
    return T


def check_pairs(new: int, predictions: Sequence[PairPrediction], shape: Callable[[int], tuple[int, int]]) -> None:
    """Raises ``GeometryError`` for a prediction that does not join ``new`` to an older keyframe or has a wrong size.

    ``shape`` gives (height, width) of a keyframe's pointmaps, ``new`` included.
    """
    for pair in predictions:
        old, young = sorted((pair.first, pair.second))
        if young != new or not 0 <= old < new:
            raise GeometryError(
                f"pair {pair.first}-{pair.second} cannot come with keyframe {new}: one end must be {new}, "
                f"the other an older keyframe (there are {new})"
            )
        views = (
            (pair.first, pair.points_first, pair.confidence_first),
            (pair.second, pair.points_second, pair.confidence_second),
        )
        for index, points, confidence in views:
            height, width = shape(index)
            if points.shape != (height, width, 3) or confidence.shape != (height, width):
                raise GeometryError(
                    f"pair {pair.first}-{pair.second} has points {points.shape} and confidence {confidence.shape} "
                    f"for keyframe {index}, which has {height} rows of {width} pixels"
                )
