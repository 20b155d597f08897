"""The single definition of every parameter: name, type, default, range, description.

The mapper reads ``MapperConfig``; the node declares ``MapperConfig`` and ``NodeConfig`` as ROS parameters; the
command line reads the same YAML files; docs/parameters.md is made from the rows.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from dust3r_ros.config.mapper import MapperConfig
from dust3r_ros.config.node import NodeConfig
from dust3r_ros.config.rows import ParameterValue, Row, expanded, rows
from dust3r_ros.errors import ConfigError

__all__ = [
    "OF_ROS",
    "MapperConfig",
    "NodeConfig",
    "ParameterValue",
    "Row",
    "as_mapping",
    "expanded",
    "from_mapping",
    "load_yaml",
    "parse_yaml",
    "rows",
    "split",
]


_Config = TypeVar("_Config", MapperConfig, NodeConfig)


def from_mapping(config: type[_Config], values: Mapping[str, object]) -> _Config:
    """A validated configuration; parameters missing in ``values`` keep their defaults.

    Raises ``ConfigError`` for an unknown name, a wrong type or a value out of range.
    """
    known = {row.name for row in rows(config)}
    for name in values:
        if name not in known:
            raise ConfigError(f"unknown parameter '{name}'; known are {', '.join(sorted(known))}")
    return config(**values)  # type: ignore[arg-type]


def as_mapping(config: MapperConfig | NodeConfig) -> dict[str, ParameterValue]:
    """All values by name."""
    return dataclasses.asdict(config)


def load_yaml(path: str | Path, node: str = "/dust3r") -> dict[str, object]:
    """Parameters from a YAML file: plain ``name: value``, or the ROS form, from which those for ``node`` are taken.

    ``path`` is expanded as by a shell; ``node`` is a full name, such as /robot1/dust3r.
    Raises ``ConfigError`` when the file cannot be read, is not a mapping, or has only parameters of other nodes.
    """
    path = expanded(str(path), "configuration file")
    found: dict[str, object] = {}
    for values in _own(_document(path), path, node):
        named = isinstance(values, Mapping) and all(isinstance(name, str) for name in values)
        if values is not None and not named:
            raise ConfigError(f"configuration file '{path}' holds {type(values).__name__}; it must map names to values")
        found.update(values or {})
    return found


def _own(data: Any, path: str, node: str) -> list[Any]:
    """The parts of a file's ``data`` that are for ``node``."""
    sections = list(_sections(data))
    own = [values for name, values in sections if _is_for(name, node)] if sections else [data]
    if not own:
        names = ", ".join(name for name, _ in sections)
        raise ConfigError(f"configuration file '{path}' has only parameters of {names}; it must have some of {node}")
    return own


def _document(path: str) -> Any:
    """What the only document of a YAML file holds; None if there is none."""
    try:
        documents = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file '{path}' cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigError(f"configuration file '{path}' is not YAML: {error}") from error
    if len(documents) > 1:
        raise ConfigError(f"configuration file '{path}' holds {len(documents)} documents; it must be one")
    return documents[0] if documents else None


def parse_yaml(text: str) -> list[Any]:
    """The documents of a YAML text.

    Raises ``ValueError`` for what is not YAML, for a key that is given twice, of which one value would be lost, and for
    merge keys (<<), a few lines of which can take forever.
    """
    import yaml

    if len(text) > _LONGEST:
        raise ValueError(f"it has {len(text)} characters; at most {_LONGEST} are read")
    if max(accumulate((1 if mark in "[{" else -1 for mark in re.findall(r"[][{}]", text)), initial=0)) > _DEEPEST_LIST:
        raise ValueError(f"its lists are more than {_DEEPEST_LIST} deep")

    class Loader(yaml.SafeLoader):  # that of libyaml crashes on deep lists
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            known = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.tag == "tag:yaml.org,2002:merge":
                    raise ValueError("merge keys (<<) are not read; write the values out")
                if (key.tag, key.value) in known:
                    raise ValueError(f"'{key.value}' is given twice")
                known.add((key.tag, key.value))

    try:
        return list(yaml.load_all(text, Loader=Loader))
    except Exception as error:  # constructors of dates, numbers and deep lists raise anything
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


_LONGEST = 100_000  # characters of a YAML file: about a second
_DEEPEST_LIST = 200
# Maximum nesting of namespaces and node name; a YAML file with recursive aliases has no end.
_DEEPEST = 5


def _sections(data: object, name: str = "") -> Iterator[tuple[str, Any]]:
    """Node names, which may have wildcards, and their parameters, in a file of the ROS form."""
    for key, value in data.items() if isinstance(data, Mapping) else ():
        if key == "ros__parameters":
            yield name or "/**", value
        elif name.count("/") < _DEEPEST:
            yield from _sections(value, f"{name}/{str(key).strip('/')}")


def _is_for(name: str, node: str) -> bool:
    """Whether ``name`` matches ``node`` by the rules of ROS: * is one token, ** any number of them."""
    pattern = re.escape(name).replace(r"/\*\*", r"(/[^/]+)*").replace(r"/\*", r"/[^/]+")
    return re.fullmatch(pattern, node) is not None


# Parameters that every ROS node has; the last one has parts, after dots.
OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides")


def split(values: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Splits the parameters of a file into the mapper's and the node's; unknown ones go to the mapper's.

    ROS's own parameters are left out, and autostart, which only a node has.
    """
    node = {row.name for row in rows(NodeConfig)}
    values = {name: value for name, value in values.items() if name.partition(".")[0] not in (*OF_ROS, "autostart")}
    return (
        {name: value for name, value in values.items() if name not in node},
        {name: value for name, value in values.items() if name in node},
    )
