"""The launch file, the parameter file and the RViz file fit the node."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dust3r_ros.config import MapperConfig, NodeConfig, as_mapping, from_mapping, load_yaml, rows, split
from dust3r_ros.node.parameters import all_rows
from dust3r_ros.node.recorder import Recorder

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch" / "dust3r.launch.py"


def literals(path):
    """The constants at the top of a module, without importing what it needs."""
    tree = ast.parse(path.read_text(), filename=str(path))
    compile(tree, str(path), "exec")
    found = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found[statement.targets[0].id] = ast.literal_eval(statement.value)
    return found


def test_config_file_has_every_parameter_with_its_default():
    values = load_yaml(ROOT / "config" / "dust3r.yaml")
    mapper, node = split(values)
    assert list(values) == [row.name for config in (MapperConfig, NodeConfig) for row in rows(config)]
    assert as_mapping(from_mapping(MapperConfig, mapper)) == as_mapping(MapperConfig())
    assert as_mapping(from_mapping(NodeConfig, node)) == as_mapping(NodeConfig())
    defaults = {**as_mapping(MapperConfig()), **as_mapping(NodeConfig())}
    for name, value in values.items():  # ROS takes no 1 for 1.0
        assert type(value) is type(defaults[name]), name


def test_config_file_describes_every_parameter():
    lines = (ROOT / "config" / "dust3r.yaml").read_text().splitlines()
    text = " ".join(line.strip().removeprefix("# ") for line in lines)
    for row in (*rows(MapperConfig), *rows(NodeConfig)):
        assert row.description in text, row.name


def test_launch_arguments_that_are_parameters_exist():
    found = literals(LAUNCH)
    known = all_rows()
    for name in found["PARAMETERS"]:
        assert known[name].type is str  # passed on as text
    assert {"image_topic", "camera_info_topic", "backend", "checkpoint"} <= set(found["PARAMETERS"])
    assert {"config", "rviz", "bag", "namespace", "use_sim_time", "autostart"} <= set(found["ARGUMENTS"])
    assert not set(found["PARAMETERS"]) & set(found["ARGUMENTS"])


def test_rviz_shows_what_the_node_publishes():
    shown = yaml.safe_load((ROOT / "rviz" / "dust3r.rviz").read_text())["Visualization Manager"]
    assert shown["Global Options"]["Fixed Frame"] == NodeConfig().map_frame
    displays = {display["Topic"]["Value"]: display for display in shown["Displays"] if "Topic" in display}
    ours = {topic.removeprefix("/dust3r/") for topic in displays if topic.startswith("/dust3r/")}
    assert ours == set(literals(LAUNCH)["SHOWN"])
    for latched in ("map", "path", "graph"):
        topic = displays[f"/dust3r/{latched}"]["Topic"]
        assert (topic["Durability Policy"], topic["Reliability Policy"]) == ("Transient Local", "Reliable")
    assert NodeConfig().image_topic in displays


RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService(noninteractive=True)
arguments = [argument.split(":=", 1) for argument in sys.argv[2:]]
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)])
)
sys.exit(service.run())
"""


def test_the_launch_file_starts_a_mapping_node(tmp_path):
    """By launch itself, in a namespace; Ctrl-C ends it cleanly."""
    pytest.importorskip("launch_ros", reason="launch and launch_ros come with a full ROS 2 only")
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        executable = Path(get_package_prefix("dust3r_ros")) / "lib" / "dust3r_ros" / "dust3r_node"
    except PackageNotFoundError:
        executable = Path()
    if not executable.is_file():
        pytest.skip("dust3r_ros is not installed as a ROS package (colcon build)")
    command = [sys.executable, "-c", RUN, str(LAUNCH), "namespace:=robot", "image_topic:=front/image_raw"]
    log = tmp_path / "launch.log"
    with log.open("w") as output, Recorder("/robot/front/estimated/camera_info", "/robot/dust3r") as recorder:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path, env=dict(os.environ), start_new_session=True
        )
        try:
            recorder.wait(
                lambda: "status" in recorder.last or process.poll() is not None, 40, "the launched node is active"
            )
            assert process.poll() is None, log.read_text()
            assert recorder.node.count_subscribers("/robot/front/image_raw") == 1
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
    assert "process has finished cleanly" in log.read_text()
