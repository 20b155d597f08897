"""A new view's pose from pointmaps alone, in closed form against what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.alignment.depth_fusion import robust_scale
from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import center_of, pixel_grid
from dust3r_ros.geometry.pose import PnpResult, solve_pnp
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.types import Array, Array32, PairPrediction

_SAMPLES = 3000
_THRESHOLD_PX = 3.0
_MIN_CONFIDENT = 0.02  # of the pixels


@dataclass(frozen=True, eq=False)
class PlacedView:
    """A view whose place is known: ``w_T_c`` (4, 4), ``depth`` (H, W) with ``confidence`` (0 and 1: unknown)."""

    w_T_c: Array
    depth: Array32
    confidence: Array32


def pair_scale(prediction: PairPrediction, placed: PlacedView) -> float:
    """Map units per unit of the pair, from the depth both know of the first view; NaN if they share none."""
    weight = np.log(prediction.confidence_first) * np.log(np.maximum(placed.confidence, 1.0))
    return robust_scale(placed.depth.ravel(), prediction.points_first[..., 2].ravel(), weight.ravel())


def attach(
    new: int, predictions: Sequence[PairPrediction], placed: Mapping[int, PlacedView], focal: float, seed: int = 0
) -> PnpResult:
    """Pose of view ``new`` from every prediction (first placed, second ``new``), all in one PnP.

    The pair's points of the new view are scaled by ``pair_scale`` into the map; ``focal`` is that of
    the new view, pixels. Raises ``GeometryError`` when the pairs know too little.
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
