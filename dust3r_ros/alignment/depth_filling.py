"""Depth where a keyframe's pairs are unsure, from planes through what is sure around it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.alignment.depth_planes import _FLOOR, _MOST_GAIN, _PATCH
from dust3r_ros.geometry.depths import REFERENCE_PRECISION
from dust3r_ros.types import Array32

_RADII = (1 / 64, 1 / 32)  # of the long edge: half a side of the squares that planes are fitted in
_STEP = 2  # planes are fitted on every other row and column
_LEAST_KNOWN = 0.2  # share of a square's pixels below which nothing is said
_LEAST_GAIN = 0.1  # C - 1 below which a plane says nothing: it is off by 10 %
_STEEPEST = 0.25  # change of inverse depth across a square beyond which it is a step and no plane
_RIDGE = 0.02  # of the squared radius: what is known on a line does not tilt a plane
_TINY = np.float32(1e-12)


@dataclass(frozen=True, eq=False)
class _Planes:
    """Per pixel of a reduced image a plane: inverse depth ``offset`` + x ``tilt_x`` + y ``tilt_y``, ``confidence``.

    x and y are reduced pixels from the middle of the image; confidence is 1 where there is no plane.
    """

    offset: Array32
    tilt_x: Array32
    tilt_y: Array32
    confidence: Array32

    def at_full_size(self, height: int, width: int) -> tuple[Array32, Array32]:
        """Inverse depth and confidence, each (H, W): every pixel takes the plane of its reduced one, unmixed."""
        offset, tilt_x, tilt_y, confidence = (
            cv2.resize(part, (width, height), interpolation=cv2.INTER_NEAREST)
            for part in (self.offset, self.tilt_x, self.tilt_y, self.confidence)
        )
        x, y = _from_middle(width, self.offset.shape[1]), _from_middle(height, self.offset.shape[0])
        return offset + tilt_x * x[None, :] + tilt_y * y[:, None], confidence


def fill_depth(depth: Array32, confidence: Array32) -> tuple[Array32, Array32]:
    """Depth (H, W), 0 = none, and confidence (H, W) >= 1 with gaps closed and unsure pixels smoothed.

    Inverse depth is affine in the pixel on a plane. In squares of two sizes around each pixel a plane
    is fitted to inverse depth, weighted by C - 1. What its residuals are larger than the errors that C admits is no
    plane's, and counts in full; the errors average out over the patches in the square, however well they agree;
    both grow with sqrt(1 + leverage). Its relative precision is 2 % at best; confidence follows as it does in
    stereo, less where under half of the square is known. So a square that holds two surfaces, or that has to reach
    far, says little. A pixel takes the plane's word where it is more confident than its own.
    """
    filled, sure = depth, confidence
    height, width = depth.shape
    if min(height, width) < 2 * _STEP or not (confidence > 1).any():
        return depth, confidence
    for radius in _RADII:
        side = 2 * max(1, round(radius * max(height, width) / _STEP)) + 1
        inverse, gained = _planes(depth, confidence, side).at_full_size(height, width)
        better = (gained > sure) & (inverse > 0)
        filled = np.where(better, 1 / np.where(better, inverse, 1), filled)
        sure = np.where(better, gained, sure)
    return filled, sure


def _planes(depth: Array32, confidence: Array32, side: int) -> _Planes:
    """Planes within squares of ``side`` reduced pixels."""
    height, width = depth.shape[0] // _STEP, depth.shape[1] // _STEP
    known = depth > 0
    gain = np.where(known, np.minimum(confidence - 1, np.float32(_MOST_GAIN)), 0).astype(np.float32)
    value = np.where(known, 1 / np.where(known, depth, 1), 0).astype(np.float32)
    weight, first, second = (
        cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        for part in (gain, gain * value, gain * value * value)
    )
    x, y = _from_middle(width, width)[None, :], _from_middle(height, height)[:, None]

    def mean(values: Array32) -> Array32:
        return cv2.blur(values, (side, side), borderType=cv2.BORDER_CONSTANT)

    share = mean((weight > 0.01).astype(np.float32))
    total = mean(weight)
    scale = 1 / np.maximum(total, _TINY)
    mx, my, mv = (mean(part) * scale for part in (weight * x, weight * y, first))
    xx = mean(weight * x * x) * scale - mx * mx + np.float32(_RIDGE * side * side / 4)
    yy = mean(weight * y * y) * scale - my * my + np.float32(_RIDGE * side * side / 4)
    xy = mean(weight * x * y) * scale - mx * my
    xv, yv = mean(first * x) * scale - mx * mv, mean(first * y) * scale - my * mv
    vv = mean(second) * scale - mv * mv
    determinant = np.maximum(xx * yy - xy * xy, _TINY)
    tilt_x, tilt_y = (yy * xv - xy * yv) / determinant, (xx * yv - xy * xv) / determinant
    dx, dy = x - mx, y - my
    inverse = mv + tilt_x * dx + tilt_y * dy
    leverage = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / determinant
    residual = np.maximum(vv - tilt_x * xv - tilt_y * yv, 0)
    good = (total > 1e-6) & (share > _LEAST_KNOWN) & (inverse > 0.2 * mv)
    good &= side * (np.abs(tilt_x) + np.abs(tilt_y)) < _STEEPEST * inverse
    # The weights are C - 1 = (reference / error)^2, so this is the weighted mean of the squared errors
    noise = np.float32(REFERENCE_PRECISION**2) * share / np.maximum(total, _TINY)
    rough = np.maximum(residual / np.where(good, inverse * inverse, 1) - noise, 0)
    patches = np.maximum(share * np.float32((side * _STEP) ** 2 / _PATCH), 1)
    variance = (rough + noise / patches) * (1 + leverage) + np.float32(_FLOOR**2)
    gained = np.minimum(2 * share, 1) * np.float32(REFERENCE_PRECISION**2) / variance
    good &= gained > _LEAST_GAIN
    offset = mv - tilt_x * mx - tilt_y * my
    return _Planes(offset, tilt_x, tilt_y, np.where(good, 1 + gained, 1).astype(np.float32))


def _from_middle(count: int, reduced: int) -> Array32:
    """Places of ``count`` pixels among ``reduced`` ones that cover the same length, from its middle."""
    return ((np.arange(count) + 0.5) * reduced / count - reduced / 2).astype(np.float32)
