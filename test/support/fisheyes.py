"""Rendered walks through an equidistant lens."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from dust3r_ros.geometry.pinhole import center_of, pixel_grid
from dust3r_ros.scenes.sequence import RenderedSequence, render_sequence


def through_fisheye(
    kind: str, frames: int, width: int, height: int, degrees: float, rate_hz: float = 10.0
) -> RenderedSequence:
    """A walk seen by a lens that shows ``degrees`` across the image; ``focal`` is that of its centre.

    The depths are those of the pinhole image that was rendered.
    """
    focal = width / 2 / np.radians(degrees / 2)
    offsets = pixel_grid(height, width).reshape(-1, 2) - center_of(height, width)
    angle = np.maximum(np.linalg.norm(offsets, axis=1, keepdims=True) / focal, 1e-9)
    ideal = offsets * np.tan(angle) / angle
    size = 2 * np.ceil(np.abs(ideal).max(axis=0)).astype(int) + 3
    seen = render_sequence(kind, frames, *size.tolist(), focal=focal, rate_hz=rate_hz, supersample=1)
    at = (ideal + (size - 1) / 2).reshape(height, width, 2).astype(np.float32)
    images = np.stack(
        [cv2.remap(cv2.GaussianBlur(image, (3, 3), 0.6), at, None, cv2.INTER_LINEAR) for image in seen.images]
    )
    return replace(seen, images=images, width=width, height=height, focal=float(focal))
