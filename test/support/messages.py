"""ROS messages as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from dust3r_ros.types import Array


def pose_of(message: Any) -> Array:
    """(4, 4) of a geometry_msgs Pose or Transform."""
    origin = message.position if hasattr(message, "position") else message.translation
    q = message.orientation if hasattr(message, "orientation") else message.rotation
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    T[:3, 3] = origin.x, origin.y, origin.z
    return T
