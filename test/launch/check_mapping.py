"""By launch_testing: dust3r.launch.py starts nodes that map; Ctrl-C ends them cleanly.

launch_test test/launch/check_mapping.py
"""

import unittest
from pathlib import Path

import launch_testing.actions
import launch_testing.asserts
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from sensor_msgs.msg import Image

from dust3r_ros.node.conversions import image_message
from dust3r_ros.node.tools.recorder import Recorder
from dust3r_ros.scenes.sequence import render_sequence
from launch import LaunchDescription

LAUNCH = Path(__file__).resolve().parents[2] / "launch" / "dust3r.launch.py"
ARGUMENTS = {
    "namespace": "robot1,robot2",
    "image_topic": "front/image_raw",
    "image_reliability": "reliable",
    "image_depth": "50",
    "backlog": "every",
    "map_frame": "world",
}


def generate_test_description():
    """Two nodes in one process."""
    source = PythonLaunchDescriptionSource(str(LAUNCH))
    included = IncludeLaunchDescription(source, launch_arguments=list(ARGUMENTS.items()))
    return LaunchDescription([included, launch_testing.actions.ReadyToTest()])


class TestNodes(unittest.TestCase):
    """While they run."""

    def test_each_node_maps_its_own_images(self, proc_output):
        sequence = render_sequence("orbit", frames=20, width=200, height=150, rate_hz=10.0, seed=1)
        with Recorder("/robot1/front/estimated/camera_info", "/robot1/dust3r") as first:
            publisher = first.node.create_publisher(Image, "/robot1/front/image_raw", 50)
            first.wait(lambda: publisher.get_subscription_count() == 1, 60, "the first node subscribes")
            for stamp, image in zip(sequence.stamps_ns, sequence.images, strict=True):
                publisher.publish(image_message(image, int(stamp), "camera_optical_frame"))
            first.wait(
                lambda: "status" in first.last and first.last["status"].frames == 20, 90, "all images are mapped"
            )
            first.wait(lambda: "map" in first.last and "camera_info" in first.last, 20, "map and camera are published")
            self.assertGreaterEqual(first.last["status"].keyframes, 3)
            self.assertEqual(first.last["map"].header.frame_id, "world")
            self.assertGreater(first.last["map"].width, 1000)
        with Recorder("/robot2/front/estimated/camera_info", "/robot2/dust3r") as second:
            second.wait(lambda: "status" in second.last, 20, "the second node tells its state")
            self.assertEqual(second.last["status"].frames, 0)
            self.assertEqual(second.node.count_subscribers("/robot2/front/image_raw"), 1)


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """After Ctrl-C."""

    def test_the_process_ends_cleanly(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)
        self.assertEqual(len(list(proc_info.processes())), 1)
