"""What comes beside images, as messages: masks, depth, odometry, IMU; and what of it an image waits for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, Imu

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import GeometryError
from dust3r_ros.node.arrivals import Arrival, depth_of, mask_of
from dust3r_ros.node.assembler import Ask, Held
from dust3r_ros.node.calibration import calibration_from
from dust3r_ros.node.conversions import pose_matrix, stamp_to_ns
from dust3r_ros.node.topics import CameraTopics
from dust3r_ros.sensors.synchronizer import Companions, CompanionSettings
from dust3r_ros.sensors.transform_buffer import TransformBuffer, Unavailable
from dust3r_ros.types import Array, Calibration


class CompanionInputs:
    """Takes messages in and completes images with them. ``take_…`` return a complaint, mostly "".

    ``tf`` is what others say on TF, ``frame_of`` gives the optical frame of a camera's message.
    """

    def __init__(
        self,
        config: NodeConfig,
        cameras: Sequence[CameraTopics],
        tf: TransformBuffer,
        frame_of: Callable[[str, Any], str],
    ) -> None:
        self._config, self._tf, self._frame_of = config, tf, frame_of
        self._depth_cameras: dict[str, Calibration] = {}
        self._companions = Companions(
            CompanionSettings(
                config.odom_frame.lstrip("/"),
                bool(config.odom_topic),
                bool(config.imu_topic),
                frozenset(camera.name for camera in cameras if camera.mask),
                frozenset(camera.name for camera in cameras if camera.depth),
                turning=bool(config.imu_topic) and config.bridge_time > 0,
            ),
            tf,
        )

    def asked(self) -> dict[str, Ask]:
        """What is looked up for each image, for the assembler."""
        if self._config.odom_frame or self._config.odom_topic:
            return {
                "odometry": lambda held: _there(
                    self._companions.odometry(self._frame_of(held.camera, held.image), held.stamp_ns)
                )
            }
        if self._config.base_frame:
            return {"base": lambda held: _there(self._base(held))}
        return {}

    def arrival(self, held: Held) -> Arrival:
        """An image with what is there for it."""
        frame_id = self._frame_of(held.camera, held.image)
        match = self._companions.match(held.camera, held.stamp_ns, frame_id)
        anchor: Array | Unavailable | None = None
        if self._config.odom_frame:
            anchor = match.o_T_c
        elif self._config.base_frame:
            anchor = self._base(held)
        # Masks and depth that did not come are counted and told by diagnostics; a log of every image would be too much.
        came = {kind: None for kind in ("mask", "depth") if isinstance(getattr(match, kind), Unavailable)}
        anchor = None if isinstance(anchor, Unavailable) else anchor
        turning = partial(self._companions.turned, frame_id) if self._companions.settings.turning else None
        return Arrival(held.camera, held.stamp_ns, frame_id, held.image, replace(match, **came), anchor, turning)

    def take_mask(self, camera: str, message: Any) -> str:
        """The mask of an image of ``camera``."""
        self._companions.add_mask(camera, stamp_to_ns(message.header.stamp), lambda: mask_of(message))
        return ""

    def take_depth(self, camera: str, message: Any) -> str:
        """Depth for the images of ``camera``."""
        self._companions.add_depth(
            camera,
            stamp_to_ns(message.header.stamp),
            lambda: depth_of(message),
            message.header.frame_id,
            self._depth_cameras.get(camera),
        )
        return ""

    def take_depth_info(self, camera: str, topic: str, message: CameraInfo) -> str:
        """The camera that took the depth, where that is another one."""
        calibration, remark = calibration_from(message, topic)
        if calibration is not None:
            self._depth_cameras[camera] = calibration
        return remark

    def take_odometry(self, message: Odometry) -> str:
        """Odometry beside TF."""
        topic, wanted, frame = self._config.odom_topic, self._config.odom_frame, message.header.frame_id
        if wanted and frame.lstrip("/") != wanted.lstrip("/"):
            return f"{topic} is in the frame '{frame}', odom_frame is '{wanted}'; they must be one: it is not used"
        try:
            o_T_b = pose_matrix(message.pose.pose)
        except GeometryError as error:
            return f"{topic}: {error}"
        stamp_ns = stamp_to_ns(message.header.stamp)
        remark = self._companions.add_odometry(frame, message.child_frame_id, stamp_ns, o_T_b)
        return f"{topic}: {remark}" if remark else ""

    def take_imu(self, message: Imu) -> str:
        """Acceleration and turn rate; the first covariance of what is not measured is -1 (sensor_msgs/Imu)."""
        a, w = message.linear_acceleration, message.angular_velocity
        acceleration, turning = np.array([a.x, a.y, a.z]), np.array([w.x, w.y, w.z])
        if message.linear_acceleration_covariance[0] == -1.0 or not np.isfinite(acceleration).all():
            return f"{self._config.imu_topic} has no acceleration; it is not used"
        measured = message.angular_velocity_covariance[0] != -1.0 and np.isfinite(turning).all()
        rate = turning if measured else None
        stamp_ns = stamp_to_ns(message.header.stamp)
        self._companions.add_imu(message.header.frame_id.lstrip("/"), stamp_ns, acceleration, rate)
        return ""

    def _base(self, held: Held) -> Array | Unavailable:
        return self._tf.lookup(self._config.base_frame, self._frame_of(held.camera, held.image), held.stamp_ns)


def _there(found: Array | Unavailable | None) -> bool | None:
    """As the assembler asks it."""
    if isinstance(found, Unavailable):
        return False if found.later else None
    return True
