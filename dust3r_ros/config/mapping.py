"""Configurations from and to plain mappings and YAML files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from dust3r_ros.config.mapper import MapperConfig
from dust3r_ros.config.node import NodeConfig
from dust3r_ros.config.rows import ParameterValue, Row
from dust3r_ros.errors import ConfigError

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
    data = _without_node(data)
    if data is None:
        return {}
    if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
        raise ConfigError(f"configuration file '{path}' holds {type(data).__name__}; it must map names to values")
    return dict(data)


def _without_node(data: Any) -> Any:
    """The parameters of the ROS form for one node; anything else as it is."""
    if isinstance(data, Mapping) and len(data) == 1:
        inner = next(iter(data.values()))
        if isinstance(inner, Mapping) and "ros__parameters" in inner:
            return inner["ros__parameters"]
    return data


def split(values: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Parameters of one file parted into the mapper's and the node's; unknown ones stay with the mapper's."""
    node = {row.name for row in rows(NodeConfig)}
    return (
        {name: value for name, value in values.items() if name not in node},
        {name: value for name, value in values.items() if name in node},
    )
