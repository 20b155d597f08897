"""What does not belong into a fused cloud: pixels on depth edges."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def depth_edges(depth: NDArray[np.floating], tolerance: float = 0.1) -> NDArray[np.bool_]:
    """(H, W) true where depth jumps: largest over least depth among a pixel and its 8 neighbours above 1 + tolerance.

    ``depth`` (H, W), 0 or not finite = none; such pixels are no edges and make none.
    """
    known = np.isfinite(depth) & (depth > 0)
    kernel = np.ones((3, 3), np.uint8)
    nearest = cv2.erode(np.where(known, depth, np.inf).astype(np.float32), kernel, borderType=cv2.BORDER_REPLICATE)
    furthest = cv2.dilate(np.where(known, depth, 0.0).astype(np.float32), kernel, borderType=cv2.BORDER_REPLICATE)
    return known & (furthest > (1.0 + tolerance) * nearest)
