"""Depth and its precision from the flow between two views with known geometry."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.backends.flow import Flow
from dust3r_ros.geometry.depths import REFERENCE_PRECISION
from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.types import Array, Array32

_BEST_MATCH_PX = 0.15  # no flow is more precise
_AROUND = (15, 15)  # pixels over which the error of flow is similar
_MAX_MISS_PX = 1.5
_MAX_CONFIDENCE = 100.0
_TINY = np.float32(1e-20)


@dataclass(frozen=True, eq=False)
class StereoDepth:
    """``depth`` (H, W) float32: z in the first view, in units of the given baseline; ``confidence`` (H, W) >= 1.

    ``parallax_deg``: median angle at which the rays of consistent pixels meet, 0 if there are none.
    """

    depth: Array32
    confidence: Array32
    parallax_deg: float


def depth_from_flow(
    flow: Flow, b_T_a: Array, focal_a: float, focal_b: float, shape_b: tuple[int, int], min_parallax_deg: float
) -> StereoDepth:
    """Triangulate every pixel of view a that the flow takes to view b consistently.

    The ray of b is moved onto the epipolar line of its pixel; how far it moved is the epipolar
    error. How far the matches around a pixel miss their lines is the only sign of how far they err along them:
    little where texture is rich, more where it is faint. Confidence is 1 + (reference / precision)^2, where
    the relative precision of depth is the match's standard deviation (its own errors and, twice, the mean
    square of those around it) over focal and parallax. Pixels whose rays meet
    at less than ``min_parallax_deg``, lie behind a camera or miss their epipolar line by more than
    1.5 pixels have confidence 1.
    """
    R, t = b_T_a[:3, :3].astype(np.float32), b_T_a[:3, 3].astype(np.float32)
    far_x, far_y, far_z = _at_infinity(flow.error.shape, focal_a, R)
    cx, cy = center_of(*shape_b)
    x = (flow.target[..., 0] - np.float32(cx)) / np.float32(focal_b)
    y = (flow.target[..., 1] - np.float32(cy)) / np.float32(focal_b)
    x, y, epipolar = _onto_epipolar_line(x, y, (far_x, far_y, far_z), t)
    epipolar *= np.float32(focal_b)
    matched = (flow.error < _MAX_MISS_PX) & (epipolar < _MAX_MISS_PX)
    # z_a far + t = z_b (x, y, 1): two equations for z_a, solved along the line's direction
    along_x, along_y = x * far_z - far_x, y * far_z - far_y
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        square = along_x * along_x + along_y * along_y
        depth = ((t[0] - x * t[2]) * along_x + (t[1] - y * t[2]) * along_y) / np.maximum(square, _TINY)
        depth_b = depth * far_z + t[2]
        # |far x ray_b|: along is its first two components, rotated by a right angle
        twist = far_x * y - far_y * x
        lengths = (far_x * far_x + far_y * far_y + far_z * far_z) * (x * x + y * y + 1.0)
        sine = np.sqrt((square + twist * twist) / lengths)
        variance = _match_variance(flow.error, epipolar, matched)
        leverage = np.float32(REFERENCE_PRECISION * 0.5 * (focal_a + focal_b)) * sine
        confidence = 1.0 + np.minimum(leverage * leverage / variance, _MAX_CONFIDENCE - 1.0)
    front = np.isfinite(depth) & (depth > 0) & (depth_b > 0)
    good = matched & front & (sine > np.sin(np.radians(min_parallax_deg)))
    parallax = float(np.degrees(np.arcsin(np.median(sine[matched])))) if matched.any() else 0.0
    return StereoDepth(
        np.where(good, depth, 0.0).astype(np.float32), np.where(good, confidence, 1.0).astype(np.float32), parallax
    )


def _at_infinity(shape: tuple[int, int], focal: float, R: Array32) -> tuple[Array32, Array32, Array32]:
    """x, y and z, (H, W) each, of the points at infinity along the rays of view a, rotated by ``R`` (3, 3) into b."""
    height, width = shape
    cx, cy = center_of(height, width)
    x = ((np.arange(width, dtype=np.float32) - cx) / focal).astype(np.float32)[None, :]
    y = ((np.arange(height, dtype=np.float32) - cy) / focal).astype(np.float32)[:, None]
    far_x, far_y, far_z = (R[i, 0] * x + (R[i, 1] * y + R[i, 2]) for i in range(3))
    return far_x, far_y, far_z


def _match_variance(error: Array32, epipolar: Array32, matched: np.ndarray) -> Array32:
    """(H, W) variance, pixels squared, of matches along their lines: from their own errors and those around them."""
    variance: Array32 = _BEST_MATCH_PX**2 + 2 * _mean_around(epipolar * epipolar, matched)
    variance += error * error + epipolar * epipolar
    return variance


def _onto_epipolar_line(
    x: Array32, y: Array32, far: tuple[Array32, Array32, Array32], t: Array32
) -> tuple[Array32, Array32, Array32]:
    """Normalised image points of b moved onto their epipolar lines (t x far), and how far they moved."""
    line_x, line_y, line_z = t[1] * far[2] - t[2] * far[1], t[2] * far[0] - t[0] * far[2], t[0] * far[1] - t[1] * far[0]
    norm = np.maximum(line_x * line_x + line_y * line_y, _TINY)
    miss = line_x * x + line_y * y + line_z
    step = miss / norm
    return x - line_x * step, y - line_y * step, np.abs(miss) / np.sqrt(norm)


def _mean_around(values: Array32, known: np.ndarray) -> Array32:
    """(H, W) mean of the known values in a square around each pixel, 0 for none."""
    total = cv2.blur(np.where(known, values, np.float32(0)), _AROUND)
    return total / np.maximum(cv2.blur(known.astype(np.float32), _AROUND), np.float32(1e-6))
