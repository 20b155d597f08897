"""A robot that drives past a table: two cameras nobody calibrated, odometry on TF, an IMU and a simulated clock.

A process of its own: ``python fake_robot.py FILE [--pace HZ]``, the file from ``write_drive``. It waits for its
subscribers, drives once, and then stands still (clock, odometry and IMU go on) until it is stopped. The functions here
say what is true of it.
"""

from __future__ import annotations

import argparse
import pickle
import time
from pathlib import Path

import numpy as np
from rigs import RenderedRig, stereo_rig
from scipy.spatial.transform import Rotation

from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, Image

CAMERAS = ("left", "right")
IMAGE_TOPICS = tuple(f"/{name}/image_raw" for name in CAMERAS)
FRAMES = {name: f"{name}_optical" for name in CAMERAS}
ODOM, BASE, IMU = "odom", "base_link", "imu_link"
START_NS = 1_000_000_000_000
GRAVITY = 9.80665
IMU_STEP_NS = 20_000_000

# base_link: x forward, y left, z up. The left camera sits in front and above; optical: x right, y down, z forward.
BASE_T_LEFT = np.array([[0.0, 0, 1, 0.15], [-1, 0, 0, 0.05], [0, -1, 0, 0.40], [0, 0, 0, 1]])
BASE_T_IMU = np.array([[0.0, -1, 0, 0.0], [1, 0, 0, 0.0], [0, 0, 1, 0.1], [0, 0, 0, 1]])


def rig() -> RenderedRig:
    """What the cameras see."""
    return stereo_rig(60)


def mount_of(name: str) -> Array:
    """``base_T_camera`` (4, 4) metres."""
    return BASE_T_LEFT @ rig().extrinsics("left", name)


def odometry_start() -> Array:
    """``world_T_odom`` (4, 4): odometry begins at the robot's start; its z is up (REP 105)."""
    w_T_b = rig().seen["left"].w_T_c[0] @ invert(BASE_T_LEFT)
    yaw = np.arctan2(w_T_b[1, 0], w_T_b[0, 0])
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("z", yaw).as_matrix()
    T[:3, 3] = w_T_b[:3, 3]
    return T


def true_poses() -> dict[tuple[int, str], Array]:
    """``odom_T_camera`` (4, 4) of each image: its true pose in the odometry's frame, by (stamp, camera)."""
    o_T_w = invert(odometry_start())
    return {
        (START_NS + int(stamp), name): o_T_w @ w_T_c
        for name, sequence in rig().seen.items()
        for stamp, w_T_c in zip(sequence.stamps_ns, sequence.w_T_c, strict=True)
    }


def write_drive(path: Path) -> None:
    """What the process sends, rendered here: (stamp, camera, image, ``odom_T_base``) and ``base_T_frame`` by frame."""
    truth, seen = true_poses(), []
    for shift, name, image in rig().frames():
        stamp = START_NS + shift
        seen.append((stamp, name, image, truth[stamp, name] @ invert(mount_of(name))))
    mounts = {FRAMES[name]: mount_of(name) for name in CAMERAS} | {IMU: BASE_T_IMU}
    path.write_bytes(pickle.dumps((seen, mounts)))


def _publish(seen: list[tuple[int, str, Image, Array]], mounts: dict[str, Array], pace: float, still_s: float) -> None:
    import rclpy
    from geometry_msgs.msg import TransformStamped
    from rclpy.node import Node
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import CameraInfo, Image, Imu
    from tf2_msgs.msg import TFMessage

    from dust3r_ros.node.conversions import header, image_message, transform_message

    rclpy.init()
    node = Node("fake_robot")
    reliable = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
    latched = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    images = {name: node.create_publisher(Image, f"/{name}/image_raw", reliable) for name in CAMERAS}
    infos = {name: node.create_publisher(CameraInfo, f"/{name}/camera_info", reliable) for name in CAMERAS}
    tf = node.create_publisher(TFMessage, "/tf", reliable)
    tf_static = node.create_publisher(TFMessage, "/tf_static", latched)
    imu, clock = node.create_publisher(Imu, "/imu", reliable), node.create_publisher(Clock, "/clock", reliable)

    transforms = [transform_message(T, START_NS, BASE, child) for child, T in mounts.items()]
    tf_static.publish(TFMessage(transforms=transforms))
    while any(publisher.get_subscription_count() == 0 for publisher in images.values()):
        time.sleep(0.05)

    before: list[tuple[int, Array]] = []

    def report(stamp: int, o_T_b: Array) -> None:
        transform: TransformStamped = transform_message(o_T_b, stamp, ODOM, BASE)
        tf.publish(TFMessage(transforms=[transform]))
        start, o_T_start = before[-1] if before else (stamp - 300_000_000, o_T_b)
        for at in np.linspace(start, stamp, max(2, (stamp - start) // IMU_STEP_NS), dtype=np.int64)[1:]:
            feel(int(at), (start, o_T_start), (stamp, o_T_b))
        before[:] = [(stamp, o_T_b)]
        clock.publish(Clock(clock=header(stamp, "").stamp))

    def feel(at: int, start: tuple[int, Array], end: tuple[int, Array]) -> None:
        """What the IMU says on the way: gravity, and how fast it turns."""
        o_R_i = [Rotation.from_matrix(T[:3, :3] @ BASE_T_IMU[:3, :3]) for T in (start[1], end[1])]
        turn = (o_R_i[0].inv() * o_R_i[1]).as_rotvec()
        now = o_R_i[0] * Rotation.from_rotvec(turn * (at - start[0]) / (end[0] - start[0]))
        message = Imu(header=header(at, IMU))
        felt, rate = message.linear_acceleration, message.angular_velocity
        felt.x, felt.y, felt.z = map(float, now.inv().apply([0.0, 0.0, GRAVITY]))
        rate.x, rate.y, rate.z = map(float, turn / ((end[0] - start[0]) * 1e-9))
        imu.publish(message)

    for stamp, name, image, o_T_b in seen:
        report(stamp, o_T_b)
        message = image_message(image, stamp, FRAMES[name])
        infos[name].publish(CameraInfo(header=message.header, width=message.width, height=message.height))
        images[name].publish(message)
        time.sleep(1.0 / pace)
    end = time.monotonic() + still_s
    while time.monotonic() < end:
        stamp += 50_000_000
        report(stamp, o_T_b)
        time.sleep(0.05)


def main() -> None:
    """Drive."""
    parser = argparse.ArgumentParser()
    parser.add_argument("drive", type=Path, help="file that write_drive wrote")
    parser.add_argument("--pace", type=float, default=20.0, help="images per second of the machine's time")
    parser.add_argument("--still", type=float, default=300.0, help="seconds it stands before it ends by itself")
    arguments = parser.parse_args()
    _publish(*pickle.loads(arguments.drive.read_bytes()), arguments.pace, arguments.still)


if __name__ == "__main__":
    main()
