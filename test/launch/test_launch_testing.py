"""The launch files under ros2 launch: the node by launch_testing, offline runs as processes that end by themselves.

Each in a ROS domain of its own. They need launch, ros2launch and the package installed by colcon.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.node.tools.domains import free_domain
from dust3r_ros.scenes.export import write_bag
from dust3r_ros.scenes.sequence import render_sequence
from dust3r_ros.storage.saved_map import load_map

CHECKS = sorted(Path(__file__).parent.glob("check_*.py"))
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 280


def executable(package: str, name: str) -> bool:
    """Whether a ROS package has this executable."""
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        return (Path(get_package_prefix(package)) / "lib" / package / name).is_file()
    except PackageNotFoundError:
        return False


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    """Of what is launched; skips where that is not there."""
    for module in ("rclpy", "launch_ros", "launch_testing", "ros2launch"):
        pytest.importorskip(module, reason=f"{module} comes with a full ROS 2 only")
    if not executable("dust3r_ros", "dust3r_node"):
        pytest.skip("dust3r_ros is not installed as a ROS package (colcon build)")
    made = {
        **os.environ,
        "ROS_DOMAIN_ID": str(free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_HOME": str(tmp_path / "ros"),
        "PYTHONUNBUFFERED": "1",
    }
    made.pop("ROS_LOCALHOST_ONLY", None)
    return made


@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.stem)
def test_launch_testing_passes(path: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    if path.stem == "check_robot_example" and not executable("tf2_ros", "static_transform_publisher"):
        pytest.skip("tf2_ros comes with a full ROS 2 only")
    command = [sys.executable, "-m", "launch_testing.launch_test", str(path)]
    environment = {**environment, "PYTHONPATH": os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])}
    # In a folder without any launch/ that would hide the package of this name.
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "OK" in done.stderr + done.stdout


Launch = Callable[..., tuple[int, str]]


@pytest.fixture
def ros2_launch(tmp_path: Path, environment: Mapping[str, str]) -> Launch:
    """Exit code and output of ros2 launch; ``until``: ended by Ctrl-C once that stands there."""

    def launch(*words: str, until: str = "") -> tuple[int, str]:
        command = [sys.executable, "-c", "import sys; from ros2cli.cli import main; sys.exit(main())", "launch", *words]
        path = tmp_path / "launch.log"
        with path.open("w") as log:
            process = subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            end = time.monotonic() + PATIENCE_S
            while until and until not in path.read_text() and process.poll() is None:
                assert time.monotonic() < end, path.read_text()
                time.sleep(0.1)
            if until:
                os.killpg(process.pid, signal.SIGINT)
            return process.wait(PATIENCE_S), path.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    return launch


def offline(launch: Launch, bag: Path, **arguments: str) -> tuple[int, str]:
    words = {"bag": str(bag), "rviz": "false", **arguments}
    return launch("dust3r_ros", "offline.launch.py", *(f"{name}:={value}" for name, value in words.items()))


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Fifteen images, recorded best effort."""
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    sequence = render_sequence("orbit", frames=15, width=200, height=150, rate_hz=10.0, seed=1)
    write_bag(sequence, tmp_path / "reliable")
    never = QosTime(9223372036, 854775807)
    profile = Qos(
        QosHistory.KEEP_LAST,
        5,
        QosReliability.BEST_EFFORT,
        QosDurability.VOLATILE,
        never,
        never,
        QosLiveliness.AUTOMATIC,
        never,
        False,
    )
    store, made = get_typestore(Stores.ROS2_JAZZY), tmp_path / "bag"
    with Reader(tmp_path / "reliable") as reader, Writer(made, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {
            item.id: writer.add_connection(item.topic, item.msgtype, typestore=store, offered_qos_profiles=[profile])
            for item in reader.connections
        }
        for item, stamp_ns, data in reader.messages():
            writer.write(topics[item.id], stamp_ns, data)
    return made


def test_a_bag_is_mapped_offline(ros2_launch: Launch, bag: Path, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("/**:\n  ros__parameters:\n    working_size: 192\n", encoding="utf-8")
    code, text = offline(ros2_launch, bag, out="$RESULT", config="small.yaml")
    assert code != 0 and "$RESULT is not set" in text, text
    code, text = offline(ros2_launch, bag, out=str(tmp_path / "result"), config="small.yaml")
    assert code == 0, text
    names = {path.name for path in (tmp_path / "result").iterdir()}
    assert {"map.ply", "map.db", "trajectory.txt", "cameras.yaml"} <= names
    poses = (tmp_path / "result" / "trajectory.txt").read_text(encoding="utf-8").splitlines()
    assert len([line for line in poses if not line.startswith("#")]) >= 10


def test_a_bag_of_best_effort_is_mapped_by_the_node(ros2_launch: Launch, bag: Path, tmp_path: Path) -> None:
    if shutil.which("ros2") is None:
        pytest.skip("ros2 bag comes with a full ROS 2 only")
    code, text = offline(
        ros2_launch, bag, out=str(tmp_path / "result"), through="node", image_topic="/camera/image_raw"
    )
    assert code == 0 and "15 images mapped, 0 dropped, 0 refused" in text, text
    assert len(load_map(tmp_path / "result" / "map.db").keyframes) >= 3


def test_a_bag_is_played_once_the_nodes_are_ready(ros2_launch: Launch, bag: Path, tmp_path: Path) -> None:
    """However long the nodes take to start; everything ends with it."""
    if shutil.which("ros2") is None:
        pytest.skip("ros2 bag comes with a full ROS 2 only")
    arguments = {
        "bag": str(bag),
        "namespace": "one,two",
        "image_topic": "/camera/image_raw",
        "image_reliability": "best_effort",
        "backlog": "every",
        "output_dir": str(tmp_path / "result"),
    }
    words = (f"{name}:={value}" for name, value in arguments.items())
    code, text = ros2_launch("dust3r_ros", "dust3r.launch.py", *words)
    assert code == 0, text
    with Reader(bag) as reader:
        first = reader.start_time
    for name in ("one", "two"):
        assert read_tum(tmp_path / "result" / name / "trajectory.txt")[0].stamp_ns - first < 0.5e9, text


def test_a_bag_that_is_not_there_is_the_exit_code_of_launch(ros2_launch: Launch, tmp_path: Path) -> None:
    if shutil.which("ros2") is None:
        pytest.skip("ros2 bag comes with a full ROS 2 only")
    code, text = ros2_launch("dust3r_ros", "dust3r.launch.py", f"bag:={tmp_path / 'none'}")
    assert code != 0 and "playing the bag ended with exit code" in text, text


@pytest.mark.parametrize("through", ["dust3r-map", "node"])
def test_a_failure_is_the_exit_code_of_launch(ros2_launch: Launch, tmp_path: Path, through: str) -> None:
    if through == "node" and shutil.which("ros2") is None:
        pytest.skip("ros2 bag comes with a full ROS 2 only")
    code, text = offline(ros2_launch, tmp_path / "none", out=str(tmp_path / "result"), through=through)
    assert code != 0 and "ended with exit code" in text, text


@pytest.mark.parametrize("config", ["nosuch", "~/nosuch.yaml"])
def test_a_configuration_that_is_not_there_ends_it(ros2_launch: Launch, config: str) -> None:
    code, text = ros2_launch("dust3r_ros", "dust3r.launch.py", f"config:={config}")
    assert code != 0 and "there is no file" in text and "usb_camera" in text and "Traceback" not in text


def test_what_is_not_given_is_as_configured(ros2_launch: Launch, tmp_path: Path) -> None:
    """autostart and use_sim_time of a file and of a launch file around it hold; synonyms do, too."""
    path = tmp_path / "robot.yaml"
    path.write_text("/**:\n  ros__parameters: {autostart: false, image_topic: /front/image}\n", encoding="utf-8")
    outer = tmp_path / "outer.launch.xml"
    outer.write_text(
        """<launch>
  <set_parameter name="use_sim_time" value="true"/>
  <include file="$(find-pkg-share dust3r_ros)/launch/dust3r.launch.py">
    <arg name="config" value="robot.yaml"/>
    <arg name="publish_odom_tf" value="false"/>
    <arg name="log_level" value="error"/>
  </include>
  <executable cmd="CHECK" output="screen"/>
</launch>
""".replace("CHECK", f"{sys.executable} {Path(__file__).with_name('parameters_of.py')} /dust3r"),
        encoding="utf-8",
    )
    code, text = ros2_launch(str(outer), until="image_topic=")
    assert code == 0, text
    for line in ("use_sim_time=True", "autostart=False", "publish_tf=False", "image_topic=/front/image"):
        assert line in text, text
    assert "configured: backend" not in text, "the level is that of this node"


def test_arguments_of_the_included_file_are_shown(ros2_launch: Launch) -> None:
    code, text = ros2_launch("--show-args", "dust3r_ros", "robot_example.launch.py")
    assert code == 0 and all(f"'{name}':" in text for name in ("pitch", "image_topic", "imu_topic", "rviz")), text
