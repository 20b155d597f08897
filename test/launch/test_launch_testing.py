"""Runs the launch_testing files beside this one, each in a process and a ROS domain of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from domains import free_domain

CHECKS = sorted(Path(__file__).parent.glob("check_*.py"))
ROOT = Path(__file__).resolve().parents[2]


def executable(package: str, name: str) -> bool:
    """Whether a ROS package has this executable."""
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        return (Path(get_package_prefix(package)) / "lib" / package / name).is_file()
    except PackageNotFoundError:
        return False


@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.stem)
def test_launch_testing_passes(path: Path, tmp_path: Path) -> None:
    for module in ("rclpy", "launch_ros", "launch_testing"):
        pytest.importorskip(module, reason=f"{module} comes with a full ROS 2 only")
    if not executable("dust3r_ros", "dust3r_node"):
        pytest.skip("dust3r_ros is not installed as a ROS package (colcon build)")
    if path.stem == "check_robot_example" and not executable("tf2_ros", "static_transform_publisher"):
        pytest.skip("tf2_ros comes with a full ROS 2 only")
    if path.stem == "check_offline_node" and shutil.which("ros2") is None:
        pytest.skip("ros2 bag comes with a full ROS 2 only")
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("ROS_LOCALHOST_ONLY", None)
    command = [sys.executable, "-m", "launch_testing.launch_test", str(path)]
    # In a folder without any launch/ that would hide the package of this name.
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "OK" in done.stderr + done.stdout
