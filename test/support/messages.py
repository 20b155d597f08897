"""ROS messages from arrays, and as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, PointCloud2
from sensor_msgs.msg import Image as ImageMessage

from dust3r_ros.node import conversions
from dust3r_ros.node.conversions import POINT
from dust3r_ros.types import Array, Array32, Image

FRAME = "camera_optical_frame"


def image_message(image: Image, stamp_ns: int) -> ImageMessage:
    """An image of the only camera."""
    return conversions.image_message(image, stamp_ns, FRAME)


def pose_of(message: Any) -> Array:
    """(4, 4) of a geometry_msgs Pose or Transform."""
    origin = message.position if hasattr(message, "position") else message.translation
    q = message.orientation if hasattr(message, "orientation") else message.rotation
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    T[:3, 3] = origin.x, origin.y, origin.z
    return T


def uncalibrated(image: ImageMessage) -> CameraInfo:
    """The CameraInfo of a camera that nobody calibrated: K is all zeros."""
    return CameraInfo(header=image.header, width=image.width, height=image.height)


def points_of(message: PointCloud2) -> tuple[Array32, NDArray[np.uint8], Array32]:
    """Points (N, 3), colours (N, 3) RGB and confidence (N,) of a cloud of ours."""
    packed = np.frombuffer(memoryview(message.data), POINT)
    rgb = packed["rgb"]
    colors = np.stack([rgb >> 16, (rgb >> 8) & 255, rgb & 255], axis=-1).astype(np.uint8)
    return np.stack([packed["x"], packed["y"], packed["z"]], axis=-1), colors, packed["confidence"].copy()
