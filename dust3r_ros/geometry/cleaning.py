"""What does not belong into a fused cloud: points in front of seen surfaces, pixels on depth edges."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.pinhole import center_of, pixel_grid, project, rays
from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.types import Array, Array32


def clean_confidences(
    depths: Sequence[NDArray[np.floating]],
    confidences: Sequence[NDArray[np.floating]],
    w_T_c: Array,
    focals: Sequence[float],
    *,
    centers: Sequence[tuple[float, float]] | None = None,
    tolerance: float = 0.001,
) -> list[Array32]:
    """Confidences with 0 where a point hides a surface that another view sees with more confidence.

    For views i, j in order: the point of pixel p of view i, projected into view j (nearest pixel
    q), loses its confidence if its depth there is below (1 - tolerance) times depth_j(q) and
    confidence_i(p) < confidence_j(q), both as they stand by then, so a point that was removed
    removes no other. ``depths``, ``confidences`` N maps (H, W), sizes may differ, depth 0 = none;
    ``w_T_c`` (N, 4, 4); ``focals`` (N,) and ``centers`` (cx, cy) in pixels, the middle by default.
    Raises ``GeometryError`` where the lists do not belong together.
    """
    maps = [np.asarray(depth, dtype=np.float64) for depth in depths]
    cleaned = [np.array(confidence, dtype=np.float32) for confidence in confidences]
    middles = list(centers) if centers is not None else [center_of(*depth.shape) for depth in maps]
    _check(maps, cleaned, w_T_c, focals, middles)
    for i, depth in enumerate(maps):
        grid = pixel_grid(*depth.shape)
        points = transform(w_T_c[i], rays(grid, focals[i], middles[i]) * depth[..., None])
        for j, other in enumerate(maps):
            if i == j:
                continue
            inside, row, column, z = _look_up(transform(invert(w_T_c[j]), points), focals[j], middles[j], other.shape)
            hides = z < (1.0 - tolerance) * other[row, column]
            weaker = cleaned[i] < cleaned[j][row, column]
            cleaned[i][inside & hides & weaker & (depth > 0)] = 0.0
    return cleaned


def depth_edges(depth: NDArray[np.floating], tolerance: float = 0.1) -> NDArray[np.bool_]:
    """(H, W) true where depth jumps: largest over least depth among a pixel and its 8 neighbours above 1 + tolerance.

    ``depth`` (H, W), 0 or not finite = none; such pixels are no edges and make none.
    """
    known = np.isfinite(depth) & (depth > 0)
    kernel = np.ones((3, 3), np.uint8)
    nearest = cv2.erode(np.where(known, depth, np.inf).astype(np.float32), kernel, borderType=cv2.BORDER_REPLICATE)
    furthest = cv2.dilate(np.where(known, depth, 0.0).astype(np.float32), kernel, borderType=cv2.BORDER_REPLICATE)
    return known & (furthest > (1.0 + tolerance) * nearest)


def _look_up(
    points: Array, focal: float, center: tuple[float, float], shape: tuple[int, ...]
) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp], Array]:
    """Whether points (H, W, 3) of a camera fall on its image, the nearest row and column there, and z."""
    pixels = np.rint(project(points, focal, center))
    with np.errstate(invalid="ignore"):
        inside = (pixels >= 0).all(axis=-1) & (pixels[..., 0] < shape[1]) & (pixels[..., 1] < shape[0])
    index = np.where(inside[..., None], pixels, 0).astype(np.intp)
    return inside, index[..., 1], index[..., 0], points[..., 2]


def _check(
    depths: list[Array],
    confidences: list[Array32],
    w_T_c: Array,
    focals: Sequence[float],
    centers: list[tuple[float, float]],
) -> None:
    sizes = [len(depths), len(confidences), len(w_T_c), len(focals), len(centers)]
    if len(set(sizes)) > 1:
        raise GeometryError(f"Cleaning needs as many depths, confidences, poses, focals and centers, not {sizes}.")
    for index, (depth, confidence) in enumerate(zip(depths, confidences, strict=True)):
        if depth.ndim != 2 or depth.shape != confidence.shape:
            raise GeometryError(
                f"View {index} has depth {depth.shape} and confidence {confidence.shape}; both must be of one (H, W)."
            )
