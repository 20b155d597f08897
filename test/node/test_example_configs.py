"""A node takes every example configuration as ROS reads it, and configures with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn

from dust3r_ros.node.node import MappingNode

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "config").glob("*.yaml"))


@contextmanager
def made(path: Path) -> Iterator[MappingNode]:
    """A node that was given a parameter file."""
    context = Context()
    context.init(args=[])
    node = MappingNode(context=context, cli_args=["--ros-args", "--params-file", str(path)])
    try:
        yield node
    finally:
        node.destroy_node()
        context.shutdown()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_node_configures_with_it(path: Path) -> None:
    with made(path) as node:
        assert node.parameters.unknown == [] and node.parameters.problems == []
        for name, value in yaml.safe_load(path.read_text(encoding="utf-8"))["/**"]["ros__parameters"].items():
            assert node.get_parameter(name).value == value, name
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS


def test_an_empty_list_is_empty_and_no_text(tmp_path: Path) -> None:
    """ROS reads it as a value without a type."""
    path = tmp_path / "robot.yaml"
    path.write_text("/**:\n  ros__parameters:\n    image_topics: []\n    map_frame: []\n", encoding="utf-8")
    with made(path) as node:
        assert node.get_parameter("image_topics").value == [""]
        assert node.parameters.problems == ["parameter 'map_frame' is ['']; it must be of type str"]
