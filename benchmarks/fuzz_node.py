"""The node's door: messages of ROS, through what its subscriptions do with them. Needs ROS."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np

os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"  # a message holds only what can be sent; read at the first import

from builtin_interfaces.msg import Time
from fuzz_damage import damage_message
from fuzz_doors import Door, finite, require, rigid, sound_calibration, sound_frame
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from robot_bag import BASE_T_DEPTH, BASE_T_IMU, base_in_odometry, camera_on_base
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu
from std_msgs.msg import Header

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import Dust3rRosError, GeometryError
from dust3r_ros.geometry.rigid import quaternion
from dust3r_ros.node.assembler import Held
from dust3r_ros.node.conversions import frame_of, stamp_to_ns
from dust3r_ros.node.inputs import SynchronizerInputs
from dust3r_ros.node.jobs import calibration_from
from dust3r_ros.node.tf_listener import rigid_of
from dust3r_ros.node.topics import CameraTopics
from dust3r_ros.sensors.camera_info import Calibrations
from dust3r_ros.sensors.transform_buffer import TransformBuffer

START, STEP = 100 * 10**9, 50_000_000
CONFIG = NodeConfig(odom_frame="odom", odom_topic="/odom", imu_topic="/imu")


def _header(stamp_ns: int, frame: str) -> Header:
    return Header(stamp=Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id=frame)


def _set(target: Any, values: Any) -> None:
    for name, value in zip("xyzw", np.asarray(values).tolist(), strict=False):
        setattr(target, name, value)


def _transform(parent: str, child: str, pose: np.ndarray) -> TransformStamped:
    made = TransformStamped(header=_header(START, parent), child_frame_id=child)
    _set(made.transform.translation, pose[:3, 3])
    _set(made.transform.rotation, quaternion(pose[:3, :3]))
    return made


def _image(stamp_ns: int, pixels: np.ndarray, encoding: str, frame: str = "left_optical") -> Image:
    height, width = pixels.shape[:2]
    made = Image(header=_header(stamp_ns, frame), height=height, width=width, encoding=encoding)
    made.step, made.data = pixels.nbytes // height, pixels.tobytes()
    return made


def _info(stamp_ns: int) -> CameraInfo:
    k = [80.0, 0.0, 47.5, 0.0, 80.0, 35.5, 0.0, 0.0, 1.0]
    d = [0.1, 0.01, 0.0, 0.0, 0.0]
    header = _header(stamp_ns, "left_optical")
    return CameraInfo(header=header, width=96, height=72, distortion_model="plumb_bob", k=k, d=d)


def messages() -> list[tuple[str, Any]]:
    """What a robot publishes in half a second, by kind, in order."""
    statics = (("left_optical", camera_on_base("left")), ("imu", BASE_T_IMU), ("depth_optical", BASE_T_DEPTH))
    found: list[tuple[str, Any]] = [("static", _transform("base", child, pose)) for child, pose in statics]
    for index in range(25):
        stamp_ns = START + index * STEP // 2
        imu = Imu(header=_header(stamp_ns, "imu"))
        imu.linear_acceleration.z, imu.angular_velocity.z = 9.8, 0.3
        odometry = Odometry(header=_header(stamp_ns, "odom"), child_frame_id="base")
        pose = base_in_odometry(index * STEP / 2e9)
        _set(odometry.pose.pose.position, pose[:3, 3])
        _set(odometry.pose.pose.orientation, quaternion(pose[:3, :3]))
        found += [("imu", imu), ("odometry", odometry), ("moving", _transform("world", "elsewhere", pose))]
    for index in range(3):
        stamp_ns = START + (10 + index) * STEP
        pixels = np.random.default_rng(index).integers(0, 255, (72, 96, 3), np.uint8)
        depth = np.full((72, 96), 1500, np.uint16)
        found += [
            ("info", _info(stamp_ns)),
            ("depth_info", _info(stamp_ns)),
            ("depth", _image(stamp_ns, depth, "16UC1", ("left_optical", "depth_optical")[index % 2])),
            ("mask", _image(stamp_ns, np.zeros((72, 96), np.uint8), "mono8")),
            ("image", _image(stamp_ns, pixels, "rgb8")),
        ]
        encoded = cv2.imencode(".png" if index else ".jpg", pixels)[1].tobytes()
        compressed = CompressedImage(header=_header(stamp_ns + STEP // 2, "left_optical"), format="jpeg", data=encoded)
        found.append(("image", compressed))
    return found


class Node(Door):
    """Messages of every kind that the node subscribes to."""

    named = ("image", "calibration", "encoding", "distortion")

    def make(self, folder: Path) -> None:
        (folder / "case").write_text("whole", encoding="utf-8")

    def damage(self, folder: Path, rng: Random) -> set[str]:
        (folder / "case").write_text(str(rng.getrandbits(60)), encoding="utf-8")
        return {"messages"}

    def open(self, folder: Path) -> Any:
        told = (folder / "case").read_text(encoding="utf-8")
        heard = messages()
        if told != "whole":
            rng = Random(told)
            for _ in range(rng.choice((1, 2, 5))):
                kind = rng.choice(sorted({kind for kind, _ in heard}))
                every = [message for other, message in heard if other == kind]
                state = rng.getrandbits(60)
                alike = rng.random() < 0.3
                for message in every if alike else [rng.choice(every)]:
                    damage_message(message, Random(state) if alike else rng)
        return _heard(heard)

    def judge(self, found: Any, good: Any, how: set[str]) -> None:
        frames, known, anchors = found
        for frame in frames:
            sound_frame(frame)
        for calibration in known:
            sound_calibration(calibration)
        for anchor, turned in anchors:
            rigid(anchor, "pose of the camera on the robot")
            finite(turned, "rotation by the gyroscope")


def _heard(heard: list[tuple[str, Any]]) -> Any:
    """As ``Inputs`` does: take every message in, then complete the images."""
    tf = TransformBuffer()
    camera = CameraTopics(
        "left",
        "/left/image_raw",
        False,
        "/left/camera_info",
        "/estimated",
        mask="/m",
        depth="/d",
        depth_info="/d/camera_info",
    )
    inputs = SynchronizerInputs(CONFIG, [camera], tf, lambda _, message: message.header.frame_id or "left_optical")
    calibrations, frames, anchors = Calibrations("prior", 0.05), [], []
    for kind, message in heard:
        if kind in ("static", "moving"):
            try:
                pose = rigid_of(message)
            except GeometryError:
                continue
            stamp_ns, parent = stamp_to_ns(message.header.stamp), message.header.frame_id
            tf.add(parent, message.child_frame_id, stamp_ns, pose, kind == "static")
        elif kind == "info":
            calibration, _ = calibration_from(message, "/left/camera_info")
            if calibration is not None:
                _tried(calibrations.know, "left", calibration)
        elif kind == "depth_info":
            inputs.take_depth_info(camera, message)
        elif kind in ("depth", "mask"):
            (inputs.take_depth if kind == "depth" else inputs.take_mask)("left", message)
        elif kind in ("imu", "odometry"):
            (inputs.take_imu if kind == "imu" else inputs.take_odometry)(message)
    for _, message in (item for item in heard if item[0] == "image"):
        arrival = inputs.arrival(Held("left", max(0, stamp_to_ns(message.header.stamp)), message, 0.0))
        turned = arrival.turning(arrival.stamp_ns) if arrival.turning else None
        anchors.append((arrival.anchor_T_c, None if turned is None else turned.g_R_x))
        completed = _tried(frame_of, arrival)
        if completed is None:
            continue
        frame = completed[0]
        _tried(calibrations.admit, "left", frame.image.shape[1], frame.image.shape[0])
        _tried(calibrations.pinhole, "left", frame.image, frame.mask)
        if frame.depth is not None:
            finite(calibrations.depth("left", frame.depth), "rectified depth")
        require(arrival.bytes >= 0, "bytes")
        frames.append(frame)
    return frames, list(calibrations.known.values()), anchors


def _tried(call: Any, *arguments: Any) -> Any:
    """What a call returns; None for what it refuses in a sentence."""
    try:
        return call(*arguments)
    except Dust3rRosError as error:
        require(str(error) and "\n" not in str(error), "an error that is no sentence")
        return None
