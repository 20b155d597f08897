"""What launch files work out: which parameter file, which names RViz shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dust3r_ros.config import MapperConfig, NodeConfig, load_yaml, rows
from dust3r_ros.errors import ConfigError
from dust3r_ros.node.launching import (
    Shown,
    argument_value,
    full_name,
    is_installed,
    mistyped,
    parameter_file,
    recorded_reliability,
    require_viewer,
    shown,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "config"


def test_a_bare_name_is_one_of_the_package() -> None:
    assert parameter_file("", CONFIGS) == CONFIGS / "dust3r.yaml"
    assert parameter_file("usb_camera", CONFIGS) == CONFIGS / "usb_camera.yaml"


def test_a_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "robot.yaml").write_text("", encoding="utf-8")
    assert parameter_file("~/robot.yaml", CONFIGS) == tmp_path / "robot.yaml"
    monkeypatch.chdir(tmp_path)
    assert parameter_file("robot.yaml", CONFIGS).is_file()


@pytest.mark.parametrize("name", ["nosuch", "~/nosuch.yaml", "/nosuch/robot.yaml"])
def test_a_file_that_is_not_there_is_named_with_those_that_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"config is '.*nosuch.*realsense_color.*usb_camera"):
        parameter_file(name, CONFIGS)


def test_a_viewer_that_is_missing_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A robot without a screen has neither RViz nor Foxglove's bridge."""
    index = tmp_path / "second" / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "rviz2").write_text("", encoding="utf-8")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'first'}:{tmp_path / 'second'}")
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    assert is_installed("rviz2") and not is_installed("foxglove_bridge")
    require_viewer("rviz2", "rviz")
    with pytest.raises(ConfigError, match=r"argument foxglove .*sudo apt install ros-jazzy-foxglove-bridge"):
        require_viewer("foxglove_bridge", "foxglove")
    monkeypatch.setenv("AMENT_PREFIX_PATH", "")
    assert not is_installed("rviz2")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("checkpoint", "2024", "2024"),
        ("image_topics", "/a/image, /b/image", ("/a/image", "/b/image")),
        ("publish_tf", "false", False),
        ("map_db", "''", ""),
        ("imu_topic", '""', ""),
        ("depth_topics", "''", ("",)),
    ],
)
def test_an_argument_has_the_type_of_its_parameter_and_quotes_make_it_empty(name: str, text: str, value: Any) -> None:
    known = {row.name: row for row in [*rows(MapperConfig), *rows(NodeConfig)]}
    assert argument_value(known[name], text) == value
    with pytest.raises(ConfigError, match="image_depth"):
        argument_value(known["image_depth"], text)


def test_names_of_nodes() -> None:
    assert [full_name(space) for space in ("", "robot1", "/a/b/")] == ["/dust3r", "/robot1/dust3r", "/a/b/dust3r"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "robot.yaml"
    text = "/**:\n  ros__parameters:\n    image_topic: front/image\n    map_frame: world\n    use_sim_time: true\n"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_shown_is_what_the_file_and_the_arguments_say(config: Path) -> None:
    assert shown(load_yaml(config, "/dust3r"), "/dust3r") == Shown(
        "/dust3r", "/front/image", "/front/camera_info", "/front/estimated/camera_info", "world"
    )
    given = {"image_topic": "/rear/image_raw/compressed", "map_frame": "map"}
    assert shown({**load_yaml(config, "/robot1/dust3r"), **given}, "/robot1/dust3r") == Shown(
        "/robot1/dust3r", "/rear/image_raw/compressed", "/rear/camera_info", "/rear/estimated/camera_info", "map"
    )
    names = shown(
        {
            **load_yaml(config, "/robot1/dust3r"),
            **{"image_topics": ["left/image", "~/right"], "image_transport": "raw"},
        },
        "/robot1/dust3r",
    )
    assert names.image == "/robot1/left/image"


def test_the_layout_of_rviz_follows(config: Path) -> None:
    layout = yaml.safe_load((ROOT / "rviz" / "dust3r.rviz").read_text(encoding="utf-8"))
    made = shown(load_yaml(config, "/robot1/dust3r"), "/robot1/dust3r").layout(layout)
    assert made["Visualization Manager"]["Global Options"]["Fixed Frame"] == "world"
    assert made["Visualization Manager"]["Views"]["Current"]["Target Frame"] == "world"
    before, after = list(_topics(layout)), list(_topics(made))
    assert len(before) == len(after) > 8
    moved = {"/camera/image_raw": "/robot1/front/image"}
    assert after == [moved.get(topic) or topic.replace("/dust3r/", "/robot1/dust3r/") for topic in before]
    assert shown(load_yaml(CONFIGS / "dust3r.yaml", "/dust3r"), "/dust3r").layout(layout) == layout


def _topics(tree: Any) -> Any:
    if isinstance(tree, dict):
        if "Topic" in tree:
            yield tree["Topic"]["Value"]
        for part in tree.values():
            yield from _topics(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from _topics(part)


@pytest.mark.parametrize(
    "profiles, expected",
    [
        ([{"reliability": "best_effort"}], "best_effort"),
        ([{"reliability": "reliable"}], "reliable"),
        ([{"reliability": "reliable"}, {"reliability": "best_effort"}], "best_effort"),
        ("- history: 3\n  reliability: 2\n", "best_effort"),
        ("- history: 3\n  reliability: 1\n", "reliable"),
        ("", "best_available"),
        ([], "best_available"),
        (3, "best_available"),
    ],
)
def test_a_bag_is_heard_as_it_was_recorded(tmp_path: Path, profiles: Any, expected: str) -> None:
    def topic(kind: str, profiles: Any) -> dict[str, Any]:
        return {"topic_metadata": {"name": "/x", "type": kind, "offered_qos_profiles": profiles}}

    topics = [topic("sensor_msgs/msg/Image", profiles), topic("tf2_msgs/msg/TFMessage", [{"reliability": "reliable"}])]
    data = {"rosbag2_bagfile_information": {"topics_with_message_count": topics}}
    (tmp_path / "metadata.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    assert recorded_reliability(tmp_path) == expected


def test_what_is_no_bag_is_left_to_who_plays_it(tmp_path: Path) -> None:
    assert recorded_reliability(tmp_path / "none") == "best_available"
    (tmp_path / "metadata.yaml").write_bytes(b"\xff\xfe[")
    assert recorded_reliability(tmp_path) == "best_available"


def test_an_argument_that_is_mistyped_is_named_with_the_nearest() -> None:
    known = ["image_topic", "image_topics", "odom_frame", "rviz"]
    assert mistyped(["rviz", "odomframe", "image_topic"], known) == [
        "argument odomframe is unknown and ignored; similar: odom_frame"
    ]
    assert mistyped(["publish_odom_tf", "lidar_topic"], known) == []  # of a launch file that includes this one
