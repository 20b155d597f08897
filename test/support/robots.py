"""A robot that sends the images of a walk, and what tells how it moves, to a node under test."""

from __future__ import annotations

import time

import numpy as np
from messages import FRAME, image_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Imu
from sequences import walk
from tf2_msgs.msg import TFMessage

from dust3r_ros.geometry.rigid import invert, pose
from dust3r_ros.node.conversions import header, stamp_to_ns, transform_message
from dust3r_ros.node.interface import TF_STATIC, qos_profile

FRAMES, MAPPED = 120, 60
ODOM_T_W = pose(Rotation.from_euler("z", 0.5).as_matrix(), [1.0, 2.0, 0.0])
# A message of TF that is lost in a burst of images comes again within 3 s.
PARAMETERS = {"dense": False, "keyframe_motion_young": 0.01, "companion_wait": 10.0}
PACE_S = 0.02


class Robot:
    """Sends images of a walk, and what tells how it moves."""

    def __init__(self, bench, odometry=False, gyroscope=False):
        self.bench, self.recorder, self.sequence = bench, bench.recorder, walk("orbit", frames=FRAMES, rate_hz=30.0)
        self.odometry, self.gyroscope = odometry, gyroscope

    def stamp(self, index):
        return int(self.sequence.stamps_ns[index]) + 1_000_000_000

    def truth(self, index):
        """``odom_T_camera`` (4, 4)."""
        return ODOM_T_W @ self.sequence.w_T_c[index]

    def map(self):
        """The first images: then there is a map, not to be corrected for now, and the front end knows it."""
        self.bench.calibrate(self.sequence.width, self.sequence.height, self.sequence.focal)
        if self.gyroscope:
            self.fixed = self.recorder.node.create_publisher(TFMessage, "/tf_static", qos_profile(TF_STATIC))
            self.fixed.publish(TFMessage(transforms=[transform_message(np.eye(4), 1, "imu", FRAME)]))
        self.send(0, MAPPED)
        self.bench.status(
            lambda s: (
                s.frames + s.dropped == MAPPED
                and s.waiting == s.backlog == 0
                and s.state == "tracking"
                and s.keyframes > 4
            ),
            "the map has begun",
        )

    def report(self, index):
        if self.odometry:
            moved = transform_message(self.truth(index), self.stamp(index), "odom", FRAME)
            self.bench.send(TFMessage(transforms=[moved]), "/tf")
        if self.gyroscope and index:
            before, now = (Rotation.from_matrix(self.truth(k)[:3, :3]) for k in (index - 1, index))
            message = Imu(header=header(self.stamp(index), "imu"))
            seconds = (self.stamp(index) - self.stamp(index - 1)) * 1e-9
            felt, rate = message.linear_acceleration, message.angular_velocity
            felt.x, felt.y, felt.z = map(float, now.inv().apply([0.0, 0.0, 9.81]))
            rate.x, rate.y, rate.z = map(float, (before.inv() * now).as_rotvec() / seconds)
            self.bench.send(message, "/imu")

    def send(self, first, last, dark=False, image=None):
        """Images of these stamps; ``image``: another one in their place. They take longer than what else is told."""
        for index in range(first, last):
            self.report(index)
            time.sleep(PACE_S)
            shown = self.sequence.images[index if image is None else image]
            self.bench.send(image_message(np.zeros_like(shown) if dark else shown, self.stamp(index)))

    def poses(self, first, last):
        """What came on ~/pose for images, by index."""
        wanted = {self.stamp(index): index for index in range(first, last)}
        said = list(self.recorder.all["pose"])
        return {wanted[at]: m for m in said if (at := stamp_to_ns(m.header.stamp)) in wanted}

    def wait_for_pose(self, index):
        self.recorder.wait(lambda: bool(self.poses(index, index + 1)), 60, f"a pose of image {index}")


def apart(a, b):
    """Distance and angle between two poses (4, 4)."""
    moved = invert(a) @ b
    return np.linalg.norm(moved[:3, 3]), Rotation.from_matrix(moved[:3, :3]).magnitude()


def transforms(recorder, child):
    return [t for m in list(recorder.all["tf"]) for t in m.transforms if t.child_frame_id == child]
