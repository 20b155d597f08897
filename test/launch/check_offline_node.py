"""By launch_testing: offline.launch.py plays a bag to the node, which saves all at its end.

launch_test test/launch/check_offline_node.py
"""

import atexit
import shutil
import tempfile
import unittest
from pathlib import Path

import launch_testing.actions
import launch_testing.asserts
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from dust3r_ros.scenes.export import write_bag
from dust3r_ros.scenes.sequence import render_sequence
from dust3r_ros.storage.saved_map import load_map
from launch import LaunchDescription

LAUNCH = Path(__file__).resolve().parents[2] / "launch" / "offline.launch.py"
FOLDER = Path(tempfile.mkdtemp(prefix="dust3r_offline_node_"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
FRAMES = 15


def generate_test_description():
    """The bag through the node; without a viewer, launch ends with it."""
    write_bag(render_sequence("orbit", frames=FRAMES, width=200, height=150, rate_hz=10.0, seed=1), FOLDER / "bag")
    arguments = {
        "bag": str(FOLDER / "bag"),
        "out": str(FOLDER / "result"),
        "through": "node",
        "rviz": "false",
        "image_topic": "/camera/image_raw",
    }
    source = PythonLaunchDescriptionSource(str(LAUNCH))
    included = IncludeLaunchDescription(source, launch_arguments=list(arguments.items()))
    return LaunchDescription([included, launch_testing.actions.ReadyToTest()])


class TestOffline(unittest.TestCase):
    """While it runs."""

    def test_it_ends_by_itself(self, proc_info):
        proc_info.assertWaitForShutdown("dust3r_node", timeout=180)


@launch_testing.post_shutdown_test()
class TestResult(unittest.TestCase):
    """What it leaves."""

    def test_every_image_of_the_bag_is_mapped(self, proc_info, proc_output):
        launch_testing.asserts.assertExitCodes(proc_info)
        launch_testing.asserts.assertInStdout(proc_output, f"{FRAMES} images mapped, 0 dropped, 0 refused", "python")

    def test_the_services_at_the_end_saved_map_and_calibration(self):
        self.assertGreaterEqual(len(load_map(FOLDER / "result" / "map.db").keyframes), 3)
        names = {path.name for path in (FOLDER / "result").iterdir()}
        self.assertLessEqual({"map.ply", "map.db", "trajectory.txt", "cameras.yaml", "calibration"}, names)
        self.assertTrue((FOLDER / "result" / "calibration" / "camera.yaml").is_file())
