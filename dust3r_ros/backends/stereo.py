"""Depth and its precision from the flow between two views with known geometry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dust3r_ros.backends.flow import Flow
from dust3r_ros.geometry.pinhole import center_of, pixel_grid, rays
from dust3r_ros.types import Array, Array32

_MATCH_SIGMA_PX = 0.4
_MAX_MISS_PX = 1.5
# Relative depth error at which confidence is 2: log C is then about 0.7.
_REFERENCE_PRECISION = 0.03
_MAX_CONFIDENCE = 100.0


@dataclass(frozen=True, eq=False)
class StereoDepth:
    """``depth`` (H, W) float32: z in the first view, in units of the baseline given; ``confidence`` (H, W) >= 1.

    ``parallax_deg``: median angle at which the rays of consistent pixels meet, 0 when there are none.
    """

    depth: Array32
    confidence: Array32
    parallax_deg: float


def depth_from_flow(
    flow: Flow, b_T_a: Array, focal_a: float, focal_b: float, shape_b: tuple[int, int], min_parallax_deg: float
) -> StereoDepth:
    """Triangulate every pixel of view a that the flow takes to view b consistently.

    The ray of b is moved onto the epipolar line of its pixel; how far it moved is the epipolar
    error. Confidence is 1 + (reference / precision)^2, where the relative precision of depth is the
    match's standard deviation (flow and epipolar error) over focal and parallax. Pixels that meet
    at less than ``min_parallax_deg``, lie behind a camera or miss their epipolar line by more than
    1.5 pixels have confidence 1.
    """
    height, width = flow.error.shape
    ray_a = rays(pixel_grid(height, width), focal_a, center_of(height, width)).astype(np.float32)
    R, t = b_T_a[:3, :3].astype(np.float32), b_T_a[:3, 3].astype(np.float32)
    far = ray_a @ R.T  # the point at infinity along each ray, in b
    offset = (flow.target - np.asarray(center_of(*shape_b), np.float32)) / np.float32(focal_b)
    offset, epipolar = _onto_epipolar_line(offset, far, t)
    epipolar *= focal_b
    # z_a far + t = z_b (offset, 1): two equations for z_a, solved along the line's direction
    numerator = t[:2] - offset * t[2]
    denominator = offset * far[..., 2:] - far[..., :2]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (numerator * denominator).sum(-1) / np.maximum((denominator**2).sum(-1), 1e-12)
        depth_b = depth * far[..., 2] + t[2]
        ray_b = np.concatenate([offset, np.ones_like(offset[..., :1])], axis=-1)
        cross = np.linalg.norm(np.cross(far, ray_b), axis=-1)
        sine = cross / (np.linalg.norm(far, axis=-1) * np.linalg.norm(ray_b, axis=-1))
        sigma = np.sqrt(_MATCH_SIGMA_PX**2 + flow.error**2 + epipolar**2)
        precision = sigma / (0.5 * (focal_a + focal_b) * np.maximum(sine, 1e-9))
        confidence = 1.0 + np.minimum((_REFERENCE_PRECISION / precision) ** 2, _MAX_CONFIDENCE - 1.0)
    matched = (flow.error < _MAX_MISS_PX) & (epipolar < _MAX_MISS_PX)
    front = np.isfinite(depth) & (depth > 0) & (depth_b > 0)
    good = matched & front & (sine > np.sin(np.radians(min_parallax_deg)))
    parallax = float(np.degrees(np.arcsin(np.median(sine[matched])))) if matched.any() else 0.0
    return StereoDepth(
        np.where(good, depth, 0.0).astype(np.float32), np.where(good, confidence, 1.0).astype(np.float32), parallax
    )


def _onto_epipolar_line(offset: Array32, far: Array32, t: Array32) -> tuple[Array32, Array32]:
    """Normalised image points (H, W, 2) of b moved onto their epipolar lines, and how far (H, W)."""
    line = np.cross(np.broadcast_to(t, far.shape), far)  # E ray_a
    norm = np.maximum(line[..., 0] ** 2 + line[..., 1] ** 2, 1e-20)
    miss = line[..., 0] * offset[..., 0] + line[..., 1] * offset[..., 1] + line[..., 2]
    return offset - line[..., :2] * (miss / norm)[..., None], np.abs(miss) / np.sqrt(norm)
