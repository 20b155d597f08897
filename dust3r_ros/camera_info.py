"""A CameraInfo's fields as a calibration, whichever ROS they come from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dust3r_ros.types import Calibration


def calibration_from(
    width: int,
    height: int,
    model: str,
    d: Sequence[float],
    k: Sequence[float],
    binning: tuple[int, int] = (1, 1),
    roi: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> tuple[Calibration | None, str]:
    """The calibration of the images as they are sent, and a remark for the user or "".

    None is an uncalibrated camera: K[0] = 0, or numbers that cannot be, of which the remark tells. ``roi``
    (x, y, width, height; zeros are the whole) is in pixels of the whole image and comes before ``binning``
    (0 and 1 are none), as sensor_msgs/CameraInfo defines both.
    """
    k = [float(value) for value in k]
    if len(k) != 9 or k[0] == 0.0:
        return None, "" if len(k) == 9 else f"K has {len(k)} numbers; it must have 9"
    fx, fy, cx, cy = k[0], k[4] or k[0], k[2], k[5]
    coefficients = tuple(float(value) for value in d)
    if not all(math.isfinite(value) for value in (fx, fy, cx, cy, *coefficients)) or min(fx, fy) <= 0:
        return None, f"fx = {fx:g}, fy = {fy:g}, cx = {cx:g}, cy = {cy:g}; all must be finite, fx and fy positive"
    x, y, roi_width, roi_height = roi
    width, height = roi_width or width, roi_height or height
    across, down = max(1, binning[0]), max(1, binning[1])
    width, height = width // across, height // down
    if width <= 0 or height <= 0:
        return None, f"the size is {width}x{height}; it must be that of the images"
    cx, cy = (cx - x + 0.5) / across - 0.5, (cy - y + 0.5) / down - 0.5
    return Calibration(width, height, fx / across, fy / down, cx, cy, model, coefficients), ""
