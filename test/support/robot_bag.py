"""A bag of a whole robot with known truth: two cameras on a moving base, odometry, IMU, masks, depth, calibrations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, invert, pose

pytest.importorskip("rosbags", reason="rosbags is not installed")

from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

START = 1_700_000_000 * 10**9
MS = 10**6
WIDTH, HEIGHT = 64, 48
CAMERAS = ("left", "right")
GRAVITY = 9.80665


def base_in_odometry(t: float) -> np.ndarray:
    """Odometry: along a line while turning, both steadily, on ground that is tilted by 0.1 rad."""
    turn = Rotation.from_euler("YZ", [0.1, 0.3 * t])
    return pose(turn.as_matrix(), [0.5 * t, 0.2 * t, 0.0])


def camera_on_base(camera: str) -> np.ndarray:
    """Extrinsics of a stereo pair, its right camera turned out."""
    side = 1 if camera == "left" else -1
    b_T_c = pose(Rotation.from_euler("z", 0.1 * side).as_matrix(), [0.2, 0.06 * side, 0.3]) @ BODY_T_OPTICAL
    return b_T_c


BASE_T_IMU = pose(Rotation.from_euler("xyz", [0.0, 0.0, 1.5]).as_matrix(), [0.0, 0.0, 0.1])
BASE_T_DEPTH = pose(np.eye(3), [0.25, 0.0, 0.3]) @ BODY_T_OPTICAL


def camera_in_odometry(camera: str, stamp_ns: int) -> np.ndarray:
    return base_in_odometry((stamp_ns - START) * 1e-9) @ camera_on_base(camera)


def up_in(camera: str, stamp_ns: int) -> np.ndarray:
    return camera_in_odometry(camera, stamp_ns)[:3, :3].T @ [0.0, 0.0, 1.0]


def image(camera: str, index: int) -> np.ndarray:
    """RGB, of its own for every frame."""
    return np.random.default_rng([index, CAMERAS.index(camera)]).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def mask(camera: str, index: int) -> np.ndarray:
    return np.where(image(camera, index)[..., 0] > 200, 255, 0).astype(np.uint8)


def depth(index: int) -> np.ndarray:
    """Metres, multiples of 1 mm; 0 in the first row."""
    made = 1.0 + np.random.default_rng([index, 7]).integers(0, 3000, (HEIGHT, WIDTH)) * 1e-3
    made[0] = 0.0
    return made.astype(np.float32)


@dataclass
class Robot:
    """What is recorded. Times are ms since ``START``; stamps of the right camera lie between those of the left.

    ``depth_frame``: optical frame of the depth camera. ``mask_late``: how much later than its image a mask comes.
    ``right_frame``: what the right camera's driver calls its frame. ``acceleration``: whether the IMU measures it.
    """

    frames: int = 6
    period: int = 100
    shift: int = 50
    tf_period: int = 20
    imu_period: int = 5
    lead: int = 500
    depth_frame: str = "left_optical"
    right_frame: str = "right_optical"
    acceleration: bool = True
    mask_late: int = 300
    static_last: bool = False
    store: Any = field(default_factory=lambda: get_typestore(Stores.ROS2_JAZZY))

    def stamp(self, camera: str, index: int) -> int:
        return START + (self.lead + index * self.period + (self.shift if camera == "right" else 0)) * MS

    # Messages

    def make(self, kind: str, **values: Any) -> Any:
        made = self.store.types[kind]
        if "D" in made.__dataclass_fields__:
            values = {name.upper() if name in ("d", "k", "r", "p") else name: v for name, v in values.items()}
        return made(**values)

    def header(self, stamp_ns: int, frame: str) -> Any:
        time = self.make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        extra = {"seq": 0} if "seq" in self.store.types["std_msgs/msg/Header"].__dataclass_fields__ else {}
        return self.make("std_msgs/msg/Header", stamp=time, frame_id=frame, **extra)

    def picture(self, pixels: np.ndarray, encoding: str, stamp_ns: int, frame: str) -> Any:
        raw = np.ascontiguousarray(pixels)
        return self.make(
            "sensor_msgs/msg/Image", header=self.header(stamp_ns, frame), height=raw.shape[0], width=raw.shape[1],
            encoding=encoding, is_bigendian=0, step=raw.nbytes // raw.shape[0], data=raw.view(np.uint8).reshape(-1),
        )  # fmt: skip

    def vector(self, kind: str, xyz: Any) -> Any:
        return self.make(f"geometry_msgs/msg/{kind}", x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2]))

    def quaternion(self, rotation: np.ndarray) -> Any:
        x, y, z, w = Rotation.from_matrix(rotation).as_quat()
        return self.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    def transform(self, parent: str, child: str, p_T_c: np.ndarray, stamp_ns: int) -> Any:
        t = self.vector("Vector3", p_T_c[:3, 3])
        moved = self.make("geometry_msgs/msg/Transform", translation=t, rotation=self.quaternion(p_T_c[:3, :3]))
        return self.make(
            "geometry_msgs/msg/TransformStamped", header=self.header(stamp_ns, parent), child_frame_id=child,
            transform=moved,
        )  # fmt: skip

    def info(self, stamp_ns: int, frame: str, focal: float, d: tuple[float, ...]) -> Any:
        roi = self.make("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        k = np.array([focal, 0, 31.0, 0, focal, 24.0, 0, 0, 1.0 if focal else 0.0])
        return self.make(
            "sensor_msgs/msg/CameraInfo", header=self.header(stamp_ns, frame), height=HEIGHT, width=WIDTH,
            distortion_model="plumb_bob", d=np.array(d), k=k, r=np.zeros(9), p=np.zeros(12), binning_x=0, binning_y=0,
            roi=roi,
        )  # fmt: skip

    def imu(self, stamp_ns: int) -> Any:
        o_R_i = (base_in_odometry((stamp_ns - START) * 1e-9) @ BASE_T_IMU)[:3, :3]
        rate = BASE_T_IMU[:3, :3].T @ [0.0, 0.0, 0.3]  # the base turns about its own z
        return self.make(
            "sensor_msgs/msg/Imu", header=self.header(stamp_ns, "imu"), orientation=self.quaternion(np.eye(3)),
            orientation_covariance=np.zeros(9), angular_velocity=self.vector("Vector3", rate),
            angular_velocity_covariance=np.zeros(9),
            linear_acceleration=self.vector("Vector3", o_R_i.T @ [0.0, 0.0, GRAVITY]),
            linear_acceleration_covariance=np.array([0.0 if self.acceleration else -1.0, *[0.0] * 8]),
        )  # fmt: skip

    def odometry(self, stamp_ns: int) -> Any:
        o_T_b = base_in_odometry((stamp_ns - START) * 1e-9)
        where = self.make(
            "geometry_msgs/msg/Pose", position=self.vector("Point", o_T_b[:3, 3]),
            orientation=self.quaternion(o_T_b[:3, :3]),
        )  # fmt: skip
        still = self.make(
            "geometry_msgs/msg/Twist", linear=self.vector("Vector3", np.zeros(3)),
            angular=self.vector("Vector3", np.zeros(3)),
        )  # fmt: skip
        return self.make(
            "nav_msgs/msg/Odometry", header=self.header(stamp_ns, "odom"), child_frame_id="base",
            pose=self.make("geometry_msgs/msg/PoseWithCovariance", pose=where, covariance=np.zeros(36)),
            twist=self.make("geometry_msgs/msg/TwistWithCovariance", twist=still, covariance=np.zeros(36)),
        )  # fmt: skip

    # The recording

    def messages(self) -> Iterator[tuple[int, str, Any]]:
        """(time of recording, topic, message), in no order."""
        tf = "tf2_msgs/msg/TFMessage"
        end = START + (self.lead + self.frames * self.period + 200) * MS
        static = [self.transform("base", f"{c}_optical", camera_on_base(c), START) for c in CAMERAS]
        static += [self.transform("base", "imu", BASE_T_IMU, START)]
        static += [self.transform("base", "depth_optical", BASE_T_DEPTH, START)]
        yield end if self.static_last else START, "/tf_static", self.make(tf, transforms=static)
        for stamp in range(START, end, self.tf_period * MS):
            moved = self.transform("odom", "base", base_in_odometry((stamp - START) * 1e-9), stamp)
            yield stamp + 30 * MS, "/tf", self.make(tf, transforms=[moved])
            yield stamp + 30 * MS, "/odom", self.odometry(stamp)
        for stamp in range(START, end, self.imu_period * MS):
            yield stamp + MS, "/imu", self.imu(stamp)
        for camera in CAMERAS:
            for index in range(self.frames):
                yield from self._pictures(camera, index)

    def _pictures(self, camera: str, index: int) -> Iterator[tuple[int, str, Any]]:
        stamp, frame = self.stamp(camera, index), self.right_frame if camera == "right" else f"{camera}_optical"
        at = stamp + 5 * MS
        yield at, f"/{camera}/image_raw", self.picture(image(camera, index), "rgb8", stamp, frame)
        focal, d = (50.0, (0.1, 0.01, 0.0, 0.0, 0.0)) if camera == "left" else (0.0, ())
        yield at, f"/{camera}/camera_info", self.info(stamp, frame, focal, d)
        yield at + self.mask_late * MS, f"/{camera}/mask", self.picture(mask(camera, index), "mono8", stamp, frame)
        if camera == "left":
            millimetres = np.rint(depth(index) * 1000).astype(np.uint16)
            seen = self.picture(millimetres, "16UC1", stamp + 3 * MS, self.depth_frame)
            yield at + 20 * MS, "/depth/image_rect_raw", seen
            yield at + 20 * MS, "/depth/camera_info", self.info(stamp, self.depth_frame, 40.0, ())

    def record(self, path: Path, storage: str = "mcap") -> Path:
        """Write the bag: mcap, sqlite3 or ros1."""
        if storage == "ros1":
            self.store = get_typestore(Stores.ROS1_NOETIC)
            register_tf(self.store)
        order = sorted(self.messages(), key=lambda item: (item[0], item[1]))
        if storage == "ros1":
            with Writer1(path) as writer1:
                self._write(writer1, order, self.store.serialize_ros1)
        else:
            plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
            with Writer(path, version=Writer.VERSION_LATEST, storage_plugin=plugin) as writer2:
                self._write(writer2, order, self.store.serialize_cdr)
        return path

    def _write(self, writer: Any, order: list[tuple[int, str, Any]], serialize: Any) -> None:
        connections: dict[str, Any] = {}
        for at, topic, message in order:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=self.store)
            writer.write(connections[topic], at, serialize(message, kind))


def register_tf(store: Any) -> None:
    """rosbags knows no tf2_msgs of ROS 1; bags bring the definition with them."""
    from rosbags.typesys import get_types_from_msg

    if "tf2_msgs/msg/TFMessage" not in store.types:
        store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))


def depth_to_left() -> np.ndarray:
    return invert(camera_on_base("left")) @ BASE_T_DEPTH
