"""Snapshots of a rendered world whose every point is known."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.tracking.exchange import MapSnapshot


def snapshot(sequence, index: int, **changes) -> MapSnapshot:
    """What a perfect map knows around image ``index``."""
    gray = cv2.cvtColor(sequence.images[index], cv2.COLOR_RGB2GRAY)
    corners = cv2.goodFeaturesToTrack(gray, 200, 0.003, 7).reshape(-1, 2).astype(float)
    column, row = corners.astype(int).T
    middle = np.array([sequence.width - 1, sequence.height - 1]) / 2
    pixels, z = corners - middle, sequence.depths[index][row, column][:, None]
    keep = z[:, 0] > 0
    pixels, z = pixels[keep], z[keep]
    points = transform(sequence.w_T_c[index], np.hstack([pixels / sequence.focal * z, z]))
    ids, w_T_c = 1000 * index + np.arange(len(pixels)), sequence.w_T_c[index]
    made = MapSnapshot(
        "camera", int(sequence.stamps_ns[index]), w_T_c, ids, pixels, points, pixels,
        int(sequence.stamps_ns[index]), len(ids), sequence.focal,
        Lens(max(sequence.width, sequence.height) / 2), index, w_T_c, 1.0,
    )  # fmt: skip
    return replace(made, **changes)
