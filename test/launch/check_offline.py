"""By launch_testing: offline.launch.py maps a folder of images and leaves the files of a run.

launch_test test/launch/check_offline.py
"""

import atexit
import shutil
import tempfile
import unittest
from pathlib import Path

import cv2
import launch_testing.actions
import launch_testing.asserts
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from dust3r_ros.scenes.sequence import render_sequence
from launch import LaunchDescription

LAUNCH = Path(__file__).resolve().parents[2] / "launch" / "offline.launch.py"
FOLDER = Path(tempfile.mkdtemp(prefix="dust3r_offline_"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
CONFIG = FOLDER / "small.yaml"


def generate_test_description():
    """dust3r-map by the launch file; without a viewer, launch ends with it."""
    images = FOLDER / "images"
    images.mkdir()
    sequence = render_sequence("orbit", frames=15, width=200, height=150, rate_hz=10.0, seed=1)
    for index, image in enumerate(sequence.images):
        cv2.imwrite(str(images / f"{index:03}.png"), image[..., ::-1])
    CONFIG.write_text("/**:\n  ros__parameters:\n    working_size: 192\n", encoding="utf-8")
    arguments = {"bag": str(images), "out": str(FOLDER / "result"), "rviz": "false", "config": str(CONFIG)}
    source = PythonLaunchDescriptionSource(str(LAUNCH))
    included = IncludeLaunchDescription(source, launch_arguments=list(arguments.items()))
    return LaunchDescription([included, launch_testing.actions.ReadyToTest()])


class TestOffline(unittest.TestCase):
    """While it runs."""

    def test_it_ends_by_itself(self, proc_info):
        proc_info.assertWaitForShutdown("dust3r-map", timeout=120)


@launch_testing.post_shutdown_test()
class TestResult(unittest.TestCase):
    """What it leaves."""

    def test_the_files_are_there(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)
        names = {path.name for path in (FOLDER / "result").iterdir()}
        self.assertLessEqual({"map.ply", "map.db", "trajectory.txt", "cameras.yaml"}, names)
        poses = (FOLDER / "result" / "trajectory.txt").read_text(encoding="utf-8").splitlines()
        self.assertGreaterEqual(len([line for line in poses if not line.startswith("#")]), 10)
