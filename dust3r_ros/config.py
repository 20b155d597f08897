"""Every parameter once: name, type, default, range, description.

The mapper reads ``MapperConfig``, the node declares ``MapperConfig`` and ``NodeConfig`` as ROS
parameters, the command line reads the same YAML file, the README's table is made from the rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from dust3r_ros.errors import ConfigError

ParameterValue = bool | int | float | str | tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One parameter as a user meets it. ``live`` ones may be changed while the node runs."""

    name: str
    type: type
    default: ParameterValue
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    def check(self, value: object) -> ParameterValue:
        """``value`` as this row's type; raises ``ConfigError`` naming the row, value and range."""
        value = self._typed(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"parameter '{self.name}' is {value!r}; it must be finite")
        if self.choices and value not in self.choices:
            raise ConfigError(f"parameter '{self.name}' is {value!r}; it must be one of {', '.join(self.choices)}")
        if self.low is not None and not (self.low <= value <= self.high):  # type: ignore[operator]
            raise ConfigError(f"parameter '{self.name}' is {value!r}; it must lie in [{self.low:g}, {self.high:g}]")
        return value

    def _typed(self, value: object) -> ParameterValue:
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if self.type is tuple and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            return tuple(value)
        if type(value) is self.type:
            return value  # type: ignore[return-value]
        wanted = "list of strings" if self.type is tuple else self.type.__name__
        raise ConfigError(f"parameter '{self.name}' is {value!r}; it must be of type {wanted}")


def _row(default: Any, description: str, **limits: Any) -> Any:
    return field(default=default, metadata={"description": description, **limits})


@dataclass(frozen=True)
class MapperConfig:
    """Parameters of the mapper, the same live and offline."""

    backend: str = _row(
        "two_view",
        "What turns image pairs into pointmaps: two_view needs no weights, dust3r runs the network.",
        choices=("two_view", "dust3r"),
    )
    checkpoint: str = _row(
        "", "Weights of the dust3r backend: a .pth file or a folder with config.json and model.safetensors."
    )
    device: str = _row(
        "auto", "Where the network runs; auto takes CUDA when there is one.", choices=("auto", "cpu", "cuda")
    )
    seed: int = _row(0, "Seed of every random choice.", low=0, high=2**31 - 1)
    working_size: int = _row(320, "Long edge in pixels of the images that become pointmaps.", low=64, high=1024)
    tracking_size: int = _row(640, "Long edge in pixels of the images in which corners are tracked.", low=64, high=2048)
    focal: float = _row(0.0, "Known focal length in pixels at native resolution; 0 estimates it.", low=0.0, high=1e5)
    keyframe_motion: float = _row(
        0.045,
        "Median motion since the last keyframe, as a part of the long edge, that makes a keyframe.",
        low=0.005,
        high=0.5,
    )
    keyframe_motion_young: float = _row(
        0.01, "The same while the map has fewer than 18 keyframes: calibration is sure sooner.", low=0.005, high=0.5
    )
    keyframe_overlap: float = _row(
        0.7, "A keyframe is made when less than this part of the corners is still tracked.", low=0.1, high=0.99
    )
    track_corners: int = _row(500, "Corners kept per keyframe.", low=50, high=5000)
    track_min_inliers: int = _row(
        8, "Fewer corners than this that agree on a pose: the camera is lost.", low=6, high=500
    )
    lost_patience_s: float = _row(
        5.0,
        "A camera lost for so many seconds begins a new map; an old one of 19 keyframes waits to be seen again.",
        low=0.0,
        high=1e6,
    )
    pair_neighbours: int = _row(3, "A keyframe is paired with this many before it.", low=1, high=20)
    pair_lookalikes: int = _row(2, "And with at most this many older ones that look alike.", low=0, high=20)
    lookalike_score: float = _row(
        0.75, "How alike an older keyframe must look, as a part of how alike neighbours look.", low=0.0, high=1.0
    )
    min_parallax_deg: float = _row(
        1.0, "Pairs whose rays meet at less than this angle give no depth.", low=0.05, high=20.0
    )
    dense: bool = _row(
        True, "Depth for keyframes; false maps poses, calibration and landmarks only (backend two_view)."
    )
    depth_pairs: int = _row(
        2,
        "Pairs of a new keyframe that give depth: with those of the window that promise most (backend two_view).",
        low=1,
        high=20,
    )
    window: int = _row(8, "Keyframes whose poses are refined together when one is added.", low=2, high=100)
    fusion: bool = _row(
        False, "Take out of the clouds what other keyframes see through or contradict; the written one is thinned too."
    )
    min_confidence: float = _row(
        1.5, "Points of lower confidence stay out of the map cloud (1 = nothing known).", low=1.0, high=1e3, live=True
    )


@dataclass(frozen=True)
class NodeConfig:
    """Parameters of the ROS node beyond the mapper's."""

    image_topic: str = _row("/camera/image_raw", "Image topic to map; its camera's name is the topic's namespace.")
    image_transport: str = _row(
        "auto",
        "Message type of the image topic; auto takes compressed for topics that end in /compressed.",
        choices=("auto", "raw", "compressed"),
    )
    camera_info_topic: str = _row("", "CameraInfo of that camera; empty derives it from the image topic.")
    use_camera_info: bool = _row(True, "Take the focal length of a CameraInfo with K[0] > 0 as known.")
    image_reliability: str = _row(
        "best_effort", "QoS reliability of image subscriptions.", choices=("best_effort", "reliable")
    )
    image_depth: int = _row(5, "QoS history depth of image subscriptions.", low=1, high=1000)
    queue_size: int = _row(
        4, "Images waiting for the mapper; when full, the oldest is dropped and counted.", low=1, high=10000
    )
    map_frame: str = _row("map", "Frame of the map (z up).")
    camera_frame: str = _row("", "Optical frame of the camera; empty takes the frame of the images.")
    publish_tf: bool = _row(True, "Publish map -> camera on /tf.", live=True)
    map_period: float = _row(1.0, "Seconds between publications of the map cloud.", low=0.05, high=3600.0, live=True)
    map_stride: int = _row(
        2, "Every n-th row and column of a keyframe goes into the map cloud.", low=1, high=32, live=True
    )
    on_time_jump: str = _row(
        "reset",
        "What a stamp that jumps back does: reset starts a new map, ignore drops the frame.",
        choices=("reset", "ignore"),
    )
    output_dir: str = _row("", "Folder that gets the files of a run when the node is cleaned up; empty writes none.")


_Config = TypeVar("_Config", MapperConfig, NodeConfig)


def rows(config: type[MapperConfig] | type[NodeConfig]) -> Iterator[Row]:
    """The rows of a configuration class, in order."""
    for item in fields(config):
        default: Any = item.default
        yield Row(name=item.name, type=type(default), default=default, **item.metadata)


def from_mapping(config: type[_Config], values: Mapping[str, object]) -> _Config:
    """A checked configuration; what ``values`` leaves out keeps its default.

    Raises ``ConfigError`` for an unknown name, a wrong type or a value out of range.
    """
    known = {row.name: row for row in rows(config)}
    for name in values:
        if name not in known:
            raise ConfigError(f"unknown parameter '{name}'; known are {', '.join(sorted(known))}")
    return config(**{name: known[name].check(value) for name, value in values.items()})  # type: ignore[arg-type]


def as_mapping(config: MapperConfig | NodeConfig) -> dict[str, ParameterValue]:
    """All values by name."""
    return dataclasses.asdict(config)


def load_yaml(path: str | Path) -> dict[str, object]:
    """Parameters from a YAML file: plain ``name: value`` or the ROS form with ``ros__parameters``.

    Raises ``ConfigError`` when the file cannot be read or holds no mapping.
    """
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file '{path}' cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"configuration file '{path}' is not YAML: {' '.join(str(error).split())}") from error
    if isinstance(data, Mapping) and len(data) == 1:
        inner = next(iter(data.values()))
        if isinstance(inner, Mapping) and "ros__parameters" in inner:
            data = inner["ros__parameters"]
    if data is None:
        return {}
    if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
        raise ConfigError(f"configuration file '{path}' holds {type(data).__name__}; it must map names to values")
    return dict(data)


def split(values: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Parameters of one file parted into the mapper's and the node's; unknown ones stay with the mapper's."""
    node = {row.name for row in rows(NodeConfig)}
    return (
        {name: value for name, value in values.items() if name not in node},
        {name: value for name, value in values.items() if name in node},
    )
