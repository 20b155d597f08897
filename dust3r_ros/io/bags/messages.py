"""Converts recorded messages."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from dust3r_ros.errors import GeometryError
from dust3r_ros.geometry.rigid import from_quaternion
from dust3r_ros.io.bags.reader import Message
from dust3r_ros.io.bags.topics import COMPRESSED, TF, TF_STATIC, BagTopics
from dust3r_ros.io.encodings import (
    decode_compressed,
    decode_depth,
    decode_depth_file,
    decode_image,
    decode_mask,
    decode_mask_file,
)
from dust3r_ros.sensors.camera_info import calibration_from
from dust3r_ros.sensors.synchronizer import Synchronizer
from dust3r_ros.types import Array, Array32, Calibration, Image

_log = logging.getLogger(__name__)
_MOST_REMARKS = 20


def load_image(message: Message) -> Image:
    """RGB (H, W, 3) of an Image or CompressedImage; raises ``InputError``."""
    m = message.content
    if message.kind == COMPRESSED:
        return decode_compressed(m.format, m.data)
    return decode_image(m.encoding, m.height, m.width, m.step, m.is_bigendian, m.data)


def load_mask(message: Message) -> Image:
    """Mask (H, W) of an Image or CompressedImage; raises ``InputError``."""
    m = message.content
    if message.kind == COMPRESSED:
        return decode_mask_file(m.data)
    return decode_mask(m.encoding, m.height, m.width, m.step, m.is_bigendian, m.data)


def load_depth(message: Message) -> Array32:
    """Depth (h, w), metres, of an Image or CompressedImage; raises ``InputError``."""
    m = message.content
    if message.kind == COMPRESSED:
        return decode_depth_file(m.format, m.data)
    return decode_depth(m.encoding, m.height, m.width, m.step, m.is_bigendian, m.data)


def calibration_of(message: Message) -> Calibration | None:
    """The calibration in a CameraInfo, None for an uncalibrated camera; in ROS 1 its matrices are capitals."""
    m = message.content
    d, k = (m.d, m.k) if hasattr(m, "d") else (m.D, m.K)
    roi = (m.roi.x_offset, m.roi.y_offset, m.roi.width, m.roi.height)
    calibration, remark = calibration_from(m.width, m.height, m.distortion_model, d, k, (m.binning_x, m.binning_y), roi)
    if remark:
        _log.warning("%s: %s; the camera counts as uncalibrated", message.topic, remark)
    return calibration


class MessageReader:
    """Feeds a synchronizer with recorded messages, by topic; logs each kind of problem once."""

    def __init__(
        self, topics: BagTopics, synchronizer: Synchronizer, depth_cameras: Mapping[str, Calibration] | None = None
    ) -> None:
        """``depth_cameras`` are calibrations by depth topic."""
        self._synchronizer = synchronizer
        self._depth_cameras = depth_cameras or {}
        self._masks, self._depths = _by_topic(topics.masks), _by_topic(topics.depths)
        self._odometry, self._imu = topics.odometry, topics.imu
        self._said: set[str] = set()

    def take(self, message: Message) -> None:
        """Take in a message; one topic may serve several cameras."""
        topic = message.topic
        for camera in self._masks.get(topic, ()):
            self._synchronizer.add_mask(camera, message.stamp_ns, partial(load_mask, message))
        for camera in self._depths.get(topic, ()):
            load, calibration = partial(load_depth, message), self._depth_cameras.get(topic)
            self._synchronizer.add_depth(camera, message.stamp_ns, load, message.frame_id, calibration)
        if topic in (TF, TF_STATIC):
            self._take_transforms(message)
        elif topic == self._odometry:
            self._take_odometry(message)
        elif topic == self._imu:
            a, w = message.content.linear_acceleration, message.content.angular_velocity
            acceleration, rate = np.array([a.x, a.y, a.z]), np.array([w.x, w.y, w.z])
            self._synchronizer.add_imu(message.frame_id, message.stamp_ns, acceleration, rate)

    def remark(self, topic: str, remark: str) -> None:
        """Warn, unless the same remark was logged before, apart from digits."""
        kind = f"{topic}: {''.join(letter for letter in remark if not letter.isdigit())}"
        if remark and kind not in self._said and len(self._said) < _MOST_REMARKS:
            self._said.add(kind)
            _log.warning("%s: %s", topic, remark)

    def _take_transforms(self, message: Message) -> None:
        for item in message.content.transforms:
            stamp_ns = item.header.stamp.sec * 10**9 + item.header.stamp.nanosec
            pose = self._pose(message.topic, item.transform.translation, item.transform.rotation)
            if pose is not None:
                parent, child, static = item.header.frame_id, item.child_frame_id, message.topic == TF_STATIC
                self.remark(message.topic, self._synchronizer.transforms.add(parent, child, stamp_ns, pose, static))

    def _take_odometry(self, message: Message) -> None:
        m = message.content
        pose = self._pose(message.topic, m.pose.pose.position, m.pose.pose.orientation)
        if pose is not None:
            remark = self._synchronizer.add_odometry(message.frame_id, m.child_frame_id, message.stamp_ns, pose)
            self.remark(message.topic, remark)

    def _pose(self, topic: str, t: Any, q: Any) -> Array | None:
        try:
            return from_quaternion([t.x, t.y, t.z], [q.x, q.y, q.z, q.w])
        except GeometryError as error:
            self.remark(topic, str(error))
            return None


def _by_topic(by_camera: Mapping[str, str]) -> dict[str, list[str]]:
    """Cameras by topic."""
    cameras: dict[str, list[str]] = {}
    for camera, topic in by_camera.items():
        cameras.setdefault(topic, []).append(camera)
    return cameras
