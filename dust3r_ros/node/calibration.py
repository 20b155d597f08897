"""What a published CameraInfo says of a camera."""

from __future__ import annotations

import math

from sensor_msgs.msg import CameraInfo

from dust3r_ros.node.session import KnownCamera


def calibration_of(message: CameraInfo, topic: str) -> tuple[KnownCamera | None, str]:
    """The known camera, None for an uncalibrated one (K[0] == 0), and a remark for the user or "".

    The mapper knows one focal length for square pixels: the geometric mean of fx and fy is taken.
    Principal point and distortion are not taken over; a remark says so of distortion.
    """
    fx, fy = float(message.k[0]), float(message.k[4])
    if fx == 0.0:
        return None, ""
    if not (math.isfinite(fx) and fx > 0 and math.isfinite(fy) and fy >= 0):
        return None, f"{topic} has fx = {fx:g}, fy = {fy:g}; they must be positive: the focal length is estimated"
    if message.width == 0 or message.height == 0:
        return None, f"{topic} has size {message.width}x{message.height}; it must be that of the images: not used"
    remark = ""
    if any(abs(d) > 1e-9 for d in message.d):
        remark = f"{topic} has lens distortion, which is not taken over; rectified images (image_rect) map better"
    return KnownCamera(int(message.width), int(message.height), math.sqrt(fx * (fy or fx))), remark
