"""A node takes every example configuration as ROS reads it, and configures with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn

from dust3r_ros.node.node import MappingNode

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "config").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_node_configures_with_it(path: Path) -> None:
    context = Context()
    context.init(args=[])
    node = MappingNode(context=context, cli_args=["--ros-args", "--params-file", str(path)])
    try:
        assert node.parameters.unknown == [] and node.parameters.problems == []
        for name, value in yaml.safe_load(path.read_text(encoding="utf-8"))["/**"]["ros__parameters"].items():
            assert node.get_parameter(name).value == value, name
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    finally:
        node.destroy_node()
        context.shutdown()
