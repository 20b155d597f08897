"""By launch_testing: robot_example.launch.py puts the camera on the base and starts a node that knows its frames.

launch_test test/launch/check_robot_example.py
"""

import time
import unittest
from pathlib import Path

import launch_testing.actions
import launch_testing.asserts
import numpy as np
import rclpy
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from rcl_interfaces.srv import GetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from dust3r_ros.geometry.rigid import from_quaternion
from launch import LaunchDescription

LAUNCH = Path(__file__).resolve().parents[2] / "launch" / "robot_example.launch.py"
ARGUMENTS = {"x": "0.2", "z": "0.3", "pitch": "0.1", "image_topic": "/front/image_raw", "odom_frame": "wheels"}


def generate_test_description():
    """Static transforms and the node."""
    source = PythonLaunchDescriptionSource(str(LAUNCH))
    included = IncludeLaunchDescription(source, launch_arguments=list(ARGUMENTS.items()))
    return LaunchDescription([included, launch_testing.actions.ReadyToTest()])


class TestRobot(unittest.TestCase):
    """While it runs."""

    @classmethod
    def setUpClass(cls):
        rclpy.init()
        cls.node = rclpy.create_node("robot_example_check")

    @classmethod
    def tearDownClass(cls):
        cls.node.destroy_node()
        rclpy.shutdown()

    def wait(self, until, what, seconds=60.0):
        end = time.monotonic() + seconds
        while not until():
            self.assertLess(time.monotonic(), end, what)
            rclpy.spin_once(self.node, timeout_sec=0.2)

    def test_the_camera_looks_ahead_and_a_little_down(self):
        found = {}

        def take(message):
            for item in message.transforms:
                found[item.header.frame_id, item.child_frame_id] = item.transform

        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(TFMessage, "/tf_static", take, latched)
        links = ("base_link", "camera_link"), ("camera_link", "camera_optical_frame")
        self.wait(lambda: set(links) <= set(found), "both static transforms are there")
        body, optical = (self.matrix(found[link]) for link in links)
        base_T_camera = body @ optical
        np.testing.assert_allclose(base_T_camera[:3, 3], [0.2, 0.0, 0.3], atol=1e-9)
        ahead, right = base_T_camera[:3, 2], base_T_camera[:3, 0]  # axes z and x of the image
        np.testing.assert_allclose(ahead, [np.cos(0.1), 0.0, -np.sin(0.1)], atol=1e-9)
        np.testing.assert_allclose(right, [0.0, -1.0, 0.0], atol=1e-9)

    @staticmethod
    def matrix(transform):
        place, turn = transform.translation, transform.rotation
        return from_quaternion(np.array([place.x, place.y, place.z]), np.array([turn.x, turn.y, turn.z, turn.w]))

    def test_the_node_has_the_frames_and_the_topic(self):
        client = self.node.create_client(GetParameters, "/dust3r/get_parameters")
        self.wait(client.service_is_ready, "the node is there")
        names = ["odom_frame", "base_frame", "camera_frame", "image_topic"]
        answer = client.call_async(GetParameters.Request(names=names))
        self.wait(answer.done, "the node tells its parameters")
        told = [value.string_value for value in answer.result().values]
        self.assertEqual(told, ["wheels", "base_link", "camera_optical_frame", "/front/image_raw"])
        self.wait(lambda: self.node.count_subscribers("/front/image_raw") == 1, "the node subscribes")


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """After Ctrl-C."""

    def test_the_node_ends_cleanly(self, proc_info):
        codes = {info.process_name: info.returncode for info in proc_info}
        nodes = [code for name, code in codes.items() if name.startswith("dust3r_node")]
        self.assertEqual(nodes, [0])
