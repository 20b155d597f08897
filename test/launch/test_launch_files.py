"""Launch files, layouts and example configurations fit the node; checked without ROS."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from launch_files import LAUNCH_FILES, MAIN, ROOT, constants, declared, taken

from dust3r_ros.config import MapperConfig, NodeConfig, as_mapping, from_mapping, load_yaml, rows, split
from dust3r_ros.node.interface import OUTPUTS, SENSOR

CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
ROWS = {row.name: row for config in (MapperConfig, NodeConfig) for row in rows(config)}
RVIZ = ROOT / "rviz" / "dust3r.rviz"
FOXGLOVE = ROOT / "foxglove" / "dust3r.json"
# What a display of RViz draws.
DISPLAYS = {
    "PointCloud2": "sensor_msgs/PointCloud2",
    "Map": "nav_msgs/OccupancyGrid",
    "Path": "nav_msgs/Path",
    "Marker": "visualization_msgs/Marker",
    "MarkerArray": "visualization_msgs/MarkerArray",
    "PoseWithCovariance": "geometry_msgs/PoseWithCovarianceStamped",
    "Image": "sensor_msgs/Image",
    "Camera": "sensor_msgs/Image",
}
PUBLISHED = {row.name.replace("~", "/dust3r"): row for row in OUTPUTS.values()}
IMAGE = NodeConfig().image_topic


# Configurations


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_parameter_of_a_config_exists_and_is_in_range(path: Path) -> None:
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) == {"/**"}  # any name and namespace
    values = load_yaml(path)
    mapper, node = split(values)
    from_mapping(MapperConfig, mapper), from_mapping(NodeConfig, node)
    for name, value in values.items():
        kind = list if ROWS[name].type is tuple else ROWS[name].type
        assert type(value) is kind, f"{name}: ROS takes no 1 for 1.0"
        assert value != [], f"{name}: ROS takes no type from an empty list"


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != "dust3r"], ids=lambda path: path.stem)
def test_an_example_says_how_it_is_started(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split("/**:")[0]
    calls = list(_launches(re.sub(r"^# ?", "", head, flags=re.MULTILINE)))
    assert calls
    by_default = constants(LAUNCH_FILES["robot_example.launch.py"])["ARGUMENTS"]["config"][0]
    for file, arguments in calls:
        assert dict(arguments).get("config", by_default) == path.stem
        assert {name for name, _ in arguments} <= taken(file)


def _launches(text: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(launch file, arguments) of every call of ours in a text."""
    for line in text.splitlines():
        words = line.split()
        if words[:3] == ["ros2", "launch", "dust3r_ros"]:
            yield words[3], [(word.partition(":=")[0], word.partition(":=")[2]) for word in words[4:]]


def test_the_full_config_has_every_parameter_with_its_default_and_description() -> None:
    path = ROOT / "config" / "dust3r.yaml"
    values = load_yaml(path)
    mapper, node = split(values)
    assert list(values) == list(ROWS)
    assert as_mapping(from_mapping(MapperConfig, mapper)) == as_mapping(MapperConfig())
    assert as_mapping(from_mapping(NodeConfig, node)) == as_mapping(NodeConfig())
    text = " ".join(line.strip().removeprefix("# ") for line in path.read_text(encoding="utf-8").splitlines())
    for row in ROWS.values():
        assert row.description in text, row.name


# Launch files


@pytest.mark.parametrize("name", LAUNCH_FILES)
def test_a_launch_file_declares_the_arguments_that_it_uses(name: str) -> None:
    text = LAUNCH_FILES[name].read_text(encoding="utf-8")
    compile(text, name, "exec")
    used = set(re.findall(r"LaunchConfiguration\(\"(\w+)\"\)", text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and "LaunchConfiguration(name)" in ast.unparse(node):
            tuples = [part for part in ast.walk(node) if isinstance(part, ast.Tuple)]
            used |= {str(item.value) for part in tuples for item in part.elts if isinstance(item, ast.Constant)}
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "values":
            used |= {str(node.slice.value)} if isinstance(node.slice, ast.Constant) else set()
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_flag":
            used |= {str(word.value) for word in node.args if isinstance(word, ast.Constant)}
    assert used and used <= declared(name)


@pytest.mark.parametrize("name", LAUNCH_FILES)
def test_arguments_are_described(name: str) -> None:
    found = constants(LAUNCH_FILES[name])
    assert not {*found["ARGUMENTS"]} & {*found.get("PARAMETERS", ())}
    for argument, (default, text) in found["ARGUMENTS"].items():
        assert isinstance(default, str) and len(text) > 10 and text.endswith("."), argument


@pytest.mark.parametrize("name", [name for name in LAUNCH_FILES if name != MAIN])
def test_arguments_passed_on_exist_there(name: str) -> None:
    passed = {*constants(LAUNCH_FILES[name]).get("LOSSLESS", {})}
    tree = ast.parse(LAUNCH_FILES[name].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_node":
            passed |= {keyword.arg for keyword in node.keywords if keyword.arg}
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("passed", "given"):
            passed |= {
                str(item.value)
                for item in ast.walk(node.value)
                if isinstance(item, ast.Constant) and re.fullmatch(r"[a-z_]{3,}", str(item.value))
            } - {"true", "false"}
    assert passed and passed <= declared(MAIN)


def test_arguments_that_are_parameters_exist() -> None:
    found = constants(LAUNCH_FILES[MAIN])
    assert set(found["PARAMETERS"]) <= set(ROWS)
    assert {"image_topics", "backend", "checkpoint", "mode", "load_map", "map_db", "odom_frame"} <= {
        *found["PARAMETERS"]
    }
    assert {"config", "rviz", "foxglove", "bag", "namespace", "use_sim_time", "autostart"} <= {*found["ARGUMENTS"]}


def test_what_a_robot_keeps_is_not_written_for_a_bag() -> None:
    """Neither while it is mapped nor while it is shown, with the robot's own configuration."""
    parameters = (ROOT / "dust3r_ros" / "node" / "parameters.py").read_text(encoding="utf-8")
    written = re.search(r"^WRITTEN = (\(.*\))$", parameters, re.MULTILINE)
    assert written is not None
    unwritten = constants(LAUNCH_FILES["offline.launch.py"])["UNWRITTEN"]
    assert unwritten == dict.fromkeys(ast.literal_eval(written[1]), "''")
    assert "**UNWRITTEN, **arguments" in LAUNCH_FILES["offline.launch.py"].read_text(encoding="utf-8")


def test_the_robot_of_the_example_needs_no_imu() -> None:
    """One that does not come would be all that diagnostics say of companions."""
    config = constants(LAUNCH_FILES["robot_example.launch.py"])["ARGUMENTS"]["config"][0]
    assert not load_yaml(ROOT / "config" / f"{config}.yaml").get("imu_topic")


# Layouts


def test_rviz_draws_what_the_node_publishes_as_it_publishes_it() -> None:
    shown = yaml.safe_load(RVIZ.read_text(encoding="utf-8"))["Visualization Manager"]
    assert shown["Global Options"]["Fixed Frame"] == NodeConfig().map_frame
    ours = set()
    for display in shown["Displays"]:
        if "Topic" not in display:
            continue
        topic, quality = display["Topic"]["Value"], SENSOR  # RViz has no best available
        kind = DISPLAYS[display["Class"].removeprefix("rviz_default_plugins/")]
        if topic != IMAGE:
            ours.add(topic.removeprefix("/dust3r/"))
            quality = PUBLISHED[topic].quality
            assert kind == PUBLISHED[topic].type
        asked = (display["Topic"]["Reliability Policy"], display["Topic"]["Durability Policy"])
        assert asked == tuple(word.replace("_", " ").title() for word in (quality.reliability, quality.durability))
    assert {"map", "map_tiles", "grid", "path", "graph", "pose", "depth", "status_text"} <= ours
    assert {"TF", "Camera"} <= {display["Class"].partition("/")[2] for display in shown["Displays"]}


def test_foxglove_shows_what_the_node_publishes() -> None:
    layout = json.loads(FOXGLOVE.read_text(encoding="utf-8"))
    panels: dict[str, Any] = layout["configById"]
    assert set(_leaves(layout["layout"])) == set(panels)
    known = {*PUBLISHED, IMAGE, OUTPUTS["estimated"].name.replace("<camera>", IMAGE.rpartition("/")[0])}
    topics = {topic for panel in panels.values() for topic in panel.get("topics", {})}
    topics |= {value for panel in panels.values() for name, value in _strings(panel) if name.endswith("Topic")}
    assert {"/dust3r/map", "/dust3r/grid", "/dust3r/depth", IMAGE} <= topics <= known
    assert panels["3D!map"]["followTf"] == NodeConfig().map_frame
    fields = set(re.findall(r"^[\w/\[\]]+ (\w+)(?: |$)", _message("MappingStatus"), re.MULTILINE))
    cameras = set(re.findall(r"^[\w/\[\]]+ (\w+)(?: |$)", _message("CameraEstimate"), re.MULTILINE))
    paths = [path["value"] for panel in panels.values() for path in panel.get("paths", [])]
    paths += [panel["path"] for panel in panels.values() if "path" in panel]
    assert {"/dust3r/status.state", "/dust3r/status.lag", "/dust3r/status.depth_lag"} <= set(paths)
    for path in paths:
        topic, _, field = path.partition(".")
        first, _, inner = field.partition(".")
        assert topic in PUBLISHED and first.removesuffix("[0]") in fields and (not inner or inner in cameras)


def _leaves(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    else:
        yield from _leaves(tree["first"])
        yield from _leaves(tree["second"])


def _strings(tree: Any) -> Iterator[tuple[str, str]]:
    """(key, value) of all that is text."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _strings(value)
        elif isinstance(value, str):
            yield name, value


def _message(name: str) -> str:
    return (ROOT / "msg" / f"{name}.msg").read_text(encoding="utf-8")


def test_layouts_and_examples_are_installed() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    installed = re.search(r"install\(DIRECTORY ([\w ]+) DESTINATION share/\$\{PROJECT_NAME\}\)", cmake)
    assert installed is not None and {*shlex.split(installed[1])} == {"launch", "config", "rviz", "foxglove"}
