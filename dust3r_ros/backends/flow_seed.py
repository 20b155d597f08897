"""Where flow begins: what landmarks say of the motion between two posed views."""

from __future__ import annotations

import cv2
import numpy as np

from dust3r_ros.backends.flow import grid
from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.types import Array, Array32

_LEAST = 12  # landmarks in the image: fewer leave most of it far from any
_FARTHEST = 1.5  # image sides beyond the middle to which a target may lie outside


def seeded_targets(
    points: Array, b_T_a: Array, focal_a: float, focal_b: float, shape_a: tuple[int, int], shape_b: tuple[int, int]
) -> Array32 | None:
    """Targets (H, W, 2) in view b of the pixels of view a, each as deep as the landmark nearest to it in the image.

    ``points`` (N, 3) in camera a, ``b_T_a`` in their unit, focals in pixels, shapes (H, W). Flow goes from coarse to
    fine images and loses near things, which are small and move far; landmarks on them bring it there. NaN where
    the depth lies behind b; None where too few landmarks are in the image.
    """
    height, width = shape_a
    cx, cy = center_of(height, width)
    front = points[points[:, 2] > 0]
    pixels = np.rint(front[:, :2] / front[:, 2:] * focal_a + (cx, cy))
    inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)
    if inside.sum() < _LEAST:
        return None
    column, row = pixels[inside].astype(int).T
    # Of landmarks in one pixel the nearest is what is seen
    order = np.argsort(-front[inside, 2], kind="stable")
    closeness = np.zeros((height, width), np.float32)
    closeness[row[order], column[order]] = 1 / front[inside, 2][order]
    _, nearest = cv2.distanceTransformWithLabels(
        (closeness == 0).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.zeros(nearest.max() + 1, np.float32)
    of_label[nearest[row, column]] = closeness[row, column]
    return _moved(of_label[nearest], b_T_a, focal_a, focal_b, shape_b)


def _moved(closeness: Array32, b_T_a: Array, focal_a: float, focal_b: float, shape_b: tuple[int, int]) -> Array32:
    """Targets (H, W, 2) of pixels with inverse depth ``closeness`` (H, W)."""
    height, width = closeness.shape
    rays = (grid(height, width) - np.array(center_of(height, width), np.float32)) / np.float32(focal_a)
    R, t = b_T_a[:3, :3].astype(np.float32), b_T_a[:3, 3].astype(np.float32)
    x, y, z = (R[i, 0] * rays[..., 0] + R[i, 1] * rays[..., 1] + R[i, 2] + t[i] * closeness for i in range(3))
    scale = np.float32(focal_b) / np.where(z > 0, z, np.float32(np.nan))
    middle = np.array(center_of(*shape_b), np.float32)
    reach = np.float32(_FARTHEST) * np.array(shape_b[::-1], np.float32)
    offset = np.stack([x * scale, y * scale], axis=-1)
    return np.clip(offset, -reach, reach) + middle
