"""What launch files work out before they start anything: parameter files, topics, viewers, what RViz shows.

Imports no ROS.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dust3r_ros.config import NodeConfig, expanded, from_mapping, split
from dust3r_ros.errors import ConfigError
from dust3r_ros.node.topics import all_camera_topics, camera_topics

# What rviz/dust3r.rviz shows of a node that runs with the defaults.
_NODE, _IMAGE, _FRAME = "/dust3r", NodeConfig().image_topic, NodeConfig().map_frame
_INFO = camera_topics(NodeConfig(), _IMAGE).camera_info


def parameter_file(name: str, configs: Path) -> Path:
    """The file of a ``config`` argument: a path, or the bare name of one in ``configs``; "" takes dust3r.yaml.

    Raises ``ConfigError`` where there is none: launch itself goes on with defaults.
    """
    name = name or "dust3r"
    bare = "/" not in name and not Path(name).suffix and not name.startswith(("~", "$"))
    path = configs / f"{name}.yaml" if bare else Path(expanded(name, "argument config"))
    if path.is_file():
        return path
    known = ", ".join(sorted(path.stem for path in configs.glob("*.yaml")))
    raise ConfigError(f"argument config is '{name}', but there is no file '{path}'; of the package's own are {known}")


def recorded_reliability(bag: Path) -> str:
    """The ``image_reliability`` with which images of a rosbag2 are all heard, by what its metadata say was offered."""
    try:
        data = yaml.safe_load((bag / "metadata.yaml").read_text(encoding="utf-8"))
        topics = data["rosbag2_bagfile_information"]["topics_with_message_count"]
        metadata = [topic["topic_metadata"] for topic in topics]
        offered = [topic.get("offered_qos_profiles") or [] for topic in metadata if "Image" in topic["type"]]
        # Text of YAML in itself, and numbers for words, in recordings of ROS 2 distributions before Jazzy.
        profiles = [
            profile for text in offered for profile in (yaml.safe_load(text) if isinstance(text, str) else text)
        ]
        words = {profile["reliability"] for profile in profiles}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return "best_available"  # no bag; whoever plays it says so
    if words & {"best_effort", 2}:
        return "best_effort"
    return "reliable" if words else "best_available"


def is_installed(package: str) -> bool:
    """Whether ROS finds a package: the ament index of a prefix that is sourced names it."""
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    return any(Path(prefix, "share/ament_index/resource_index/packages", package).is_file() for prefix in prefixes)


def require_viewer(package: str, argument: str) -> None:
    """Raises ``ConfigError`` where ``argument`` asks for a viewer that is not installed: none is a dependency."""
    if not is_installed(package):
        debian = f"ros-{os.environ.get('ROS_DISTRO', 'jazzy')}-{package.replace('_', '-')}"
        raise ConfigError(f"argument {argument} is true, but {package} is not installed: sudo apt install {debian}")


def require_success(what: str, code: int) -> None:
    """Raises ``RuntimeError`` where a process failed: only an exception makes the exit code of ros2 launch non-zero."""
    if code:
        raise RuntimeError(f"{what} ended with exit code {code}; see its output above")


def full_name(namespace: str) -> str:
    """Of the node that is started in a namespace."""
    return f"/{namespace.strip('/')}{_NODE}" if namespace.strip("/") else _NODE


@dataclass(frozen=True)
class Shown:
    """What a node publishes and hears under which names, as far as RViz shows it.

    ``camera_info``: where RViz looks for that of the image; ``estimated``: where the node publishes it.
    """

    node: str
    image: str
    camera_info: str
    estimated: str
    map_frame: str

    def layout(self, layout: Any) -> Any:
        """A layout of RViz for the defaults, as YAML reads it, with these names."""
        if isinstance(layout, Mapping):
            return {key: self.map_frame if key == "Fixed Frame" else self.layout(part) for key, part in layout.items()}
        if isinstance(layout, list):
            return [self.layout(part) for part in layout]
        if layout == _IMAGE:
            return self.image
        if isinstance(layout, str) and layout.startswith(f"{_NODE}/"):
            return self.node + layout.removeprefix(_NODE)
        return layout


def shown(values: Mapping[str, object], node: str) -> Shown:
    """What the node of that full name does with these parameters; raises ``ConfigError`` for some that cannot be."""
    config = from_mapping(NodeConfig, split(values)[1])
    space = node.removesuffix(_NODE)

    def resolve(topic: str) -> str:
        if topic.startswith("~"):
            return f"{node}/{topic[1:].lstrip('/')}"
        return topic if topic.startswith("/") else f"{space}/{topic}"

    first = all_camera_topics(config, resolve)[0]
    beside = camera_topics(NodeConfig(), first.image).camera_info
    return Shown(node, first.image, beside, first.estimated, config.map_frame)
