"""Helpers of the launch files: parameter files, topics, viewers, the layout of RViz.

Imports no ROS.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from dust3r_ros.config import NodeConfig, ParameterValue, Row, expanded, from_mapping, split
from dust3r_ros.errors import ConfigError
from dust3r_ros.node.topics import all_camera_topics, camera_topics

# The names in rviz/dust3r.rviz: those of a node with default parameters.
_NODE, _IMAGE = "/dust3r", NodeConfig().image_topic
_FRAMES = ("Fixed Frame", "Target Frame")  # keys of the map's frame in it
_ALIKE = 0.8  # difflib's ratio


def parameter_file(name: str, configs: Path) -> Path:
    """The file of a ``config`` argument: a path, or the bare name of a file in ``configs``; "" means dust3r.yaml.

    Raises ``ConfigError`` if it does not exist: launch itself would continue with defaults.
    """
    name = name or "dust3r"
    bare = "/" not in name and not Path(name).suffix and not name.startswith(("~", "$"))
    path = configs / f"{name}.yaml" if bare else Path(expanded(name, "argument config"))
    if path.is_file():
        return path
    known = ", ".join(sorted(path.stem for path in configs.glob("*.yaml")))
    raise ConfigError(f"argument config is '{name}', but there is no file '{path}'; the package provides {known}")


def recorded_reliability(bag: Path) -> str:
    """The ``image_reliability`` that receives all images of a rosbag2, from the QoS profiles in its metadata."""
    try:
        data = yaml.safe_load((bag / "metadata.yaml").read_text(encoding="utf-8"))
        topics = data["rosbag2_bagfile_information"]["topics_with_message_count"]
        metadata = [topic["topic_metadata"] for topic in topics]
        offered = [topic.get("offered_qos_profiles") or [] for topic in metadata if "Image" in topic["type"]]
        # Recordings before Jazzy hold YAML as text, and numbers instead of words.
        profiles = [
            profile for text in offered for profile in (yaml.safe_load(text) if isinstance(text, str) else text)
        ]
        words = {profile["reliability"] for profile in profiles}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return "best_available"  # no bag; the player reports that
    if words & {"best_effort", 2}:
        return "best_effort"
    return "reliable" if words else "best_available"


def is_installed(package: str) -> bool:
    """Whether a package is in the ament index of a sourced prefix."""
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    return any(Path(prefix, "share/ament_index/resource_index/packages", package).is_file() for prefix in prefixes)


def require_viewer(package: str, argument: str) -> None:
    """Raises ``ConfigError`` if the viewer that ``argument`` asks for is missing: viewers are no dependencies."""
    if not is_installed(package):
        debian = f"ros-{os.environ.get('ROS_DISTRO', 'jazzy')}-{package.replace('_', '-')}"
        raise ConfigError(f"argument {argument} is true, but {package} is not installed: sudo apt install {debian}")


def mistyped(given: Iterable[str], known: Iterable[str]) -> list[str]:
    """A sentence for each given argument that looks like a known one: launch ignores unknown arguments silently.

    Others may belong to a launch file that includes this one.
    """
    names = set(known)
    nearest = {name: get_close_matches(name, names, 1, _ALIKE) for name in given if name not in names}
    return [f"argument {name} is unknown and ignored; similar: {near[0]}" for name, near in nearest.items() if near]


def require_success(what: str, code: int) -> None:
    """Raises ``RuntimeError`` where a process failed: only an exception makes the exit code of ros2 launch non-zero."""
    if code:
        raise RuntimeError(f"{what} ended with exit code {code}; see its output above")


def flag(name: str, text: str) -> bool:
    """An argument that is true or false. Raises ``ConfigError`` for anything else."""
    words = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in words:
        raise ConfigError(f"argument {name} is '{text}'; it must be true or false")
    return words[text.lower()]


def argument_value(row: Row, text: str) -> ParameterValue:
    """An argument in the type of its parameter, '' or "" as the empty one; raises ``ConfigError`` if out of range."""
    text = "" if text in ("''", '""') else text
    if row.type is str:  # as text: a checkpoint named 2024 is not a number
        return row.check(text)
    if row.type is tuple:
        return row.check([item.strip() for item in text.split(",")])
    return row.check(yaml.safe_load(text))


def full_name(namespace: str) -> str:
    """The full name of the node in a namespace."""
    return f"/{namespace.strip('/')}{_NODE}" if namespace.strip("/") else _NODE


@dataclass(frozen=True)
class Shown:
    """The names of a node's topics and frames that RViz shows.

    ``camera_info``: the topic on which RViz expects it; ``estimated``: the topic on which the node publishes it.
    """

    node: str
    image: str
    camera_info: str
    estimated: str
    map_frame: str

    def layout(self, layout: Any) -> Any:
        """An RViz layout for the defaults, parsed from YAML, with these names put in."""
        if isinstance(layout, Mapping):
            return {key: self.map_frame if key in _FRAMES else self.layout(part) for key, part in layout.items()}
        if isinstance(layout, list):
            return [self.layout(part) for part in layout]
        if layout == _IMAGE:
            return self.image
        if isinstance(layout, str) and layout.startswith(f"{_NODE}/"):
            return self.node + layout.removeprefix(_NODE)
        return layout


def shown(values: Mapping[str, object], node: str) -> Shown:
    """The names used by the node with this full name and parameters; raises ``ConfigError`` for invalid ones."""
    config = from_mapping(NodeConfig, split(values)[1])
    space = node.removesuffix(_NODE)

    def resolve(topic: str) -> str:
        if topic.startswith("~"):
            return f"{node}/{topic[1:].lstrip('/')}"
        return topic if topic.startswith("/") else f"{space}/{topic}"

    first = all_camera_topics(config, resolve)[0]
    beside = camera_topics(NodeConfig(), first.image).camera_info
    return Shown(node, first.image, beside, first.estimated, config.map_frame)
