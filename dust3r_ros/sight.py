"""A keyframe as others are compared with it: what of it is sure, and where its points are seen in another."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.geometry.depths import REFERENCE_PRECISION
from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, Array32, Image

STEP = 3  # of the pixels that are judged


@dataclass(frozen=True, eq=False)
class Sight:
    """A keyframe as others are compared with it, every third pixel of it.

    ``depth`` (h, w), 0 = none, ``sigma`` its relative standard deviation, ``near`` the least depth around a pixel
    and 0 beside a gap; ``color`` (h, w, 3) uint8, and the range of colours around a pixel, ``dark`` to ``light``.
    ``focal``: of these pixels. ``shape``: of the keyframe.
    """

    w_T_c: Array
    focal: float
    shape: tuple[int, int]
    depth: Array32
    sigma: Array32
    near: Array32
    color: Image
    dark: Image
    light: Image

    @classmethod
    def of(
        cls, image: Image, depth: Array32, confidence: Array32, w_T_c: Array, focal: float, min_confidence: float
    ) -> Sight:
        """What of a keyframe with ``image`` (H, W, 3) RGB, ``depth`` (H, W) and ``confidence`` (H, W) is sure."""
        shape = depth.shape
        height, width = (side // STEP for side in shape)
        rows, columns = slice(STEP // 2, height * STEP, STEP), slice(STEP // 2, width * STEP, STEP)
        gain = confidence[rows, columns] - np.float32(1)
        depth = np.where(gain > min_confidence - 1, depth[rows, columns], np.float32(0))
        sigma = np.float32(REFERENCE_PRECISION) / np.sqrt(np.maximum(gain, np.float32(1e-6)))
        small = cv2.resize(image[: height * STEP, : width * STEP], (width, height), interpolation=cv2.INTER_AREA)
        around = np.ones((3, 3), np.uint8)
        return cls(
            w_T_c,
            focal / STEP,
            (shape[0], shape[1]),
            depth,
            sigma,
            np.asarray(cv2.erode(depth, around), np.float32),
            np.asarray(cv2.blur(small, (3, 3)), np.uint8),
            np.asarray(cv2.erode(small, around), np.uint8),
            np.asarray(cv2.dilate(small, around), np.uint8),
        )


def seen_from(other: Sight, sight: Sight) -> tuple[np.ndarray, np.ndarray, Array32]:
    """Pixels (K,) of a keyframe whose points lie in the image of ``other``, the pixels there, both flat, and z."""
    width = sight.depth.shape[1]
    cx, cy = _middle(sight)
    at = np.flatnonzero(sight.depth)
    depth = sight.depth.ravel()[at]
    x = ((at % width) - np.float32(cx)) / np.float32(sight.focal)
    y = ((at // width) - np.float32(cy)) / np.float32(sight.focal)
    other_T_c = (invert(other.w_T_c) @ sight.w_T_c).astype(np.float32)
    R, t = other_T_c[:3, :3], other_T_c[:3, 3]
    px, py, pz = ((R[i, 0] * x + R[i, 1] * y + R[i, 2]) * depth + t[i] for i in range(3))
    scale = np.float32(other.focal) / np.maximum(pz, np.float32(1e-6))
    ox, oy = _middle(other)
    rows, columns = other.depth.shape
    u, v = px * scale + np.float32(ox), py * scale + np.float32(oy)
    inside = (pz > 1e-6) & (u > -0.5) & (v > -0.5) & (u < columns - 0.5) & (v < rows - 0.5)
    place = np.rint(v[inside]).astype(np.int64) * columns + np.rint(u[inside]).astype(np.int64)
    return at[inside], place, pz[inside].astype(np.float32)


def _middle(sight: Sight) -> tuple[float, float]:
    cx, cy = center_of(*sight.shape)
    return (cx - 0.5 * (STEP - 1)) / STEP, (cy - 0.5 * (STEP - 1)) / STEP
