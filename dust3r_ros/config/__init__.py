"""The single definition of every parameter: name, type, default, range, description.

The mapper reads ``MapperConfig``; the node declares ``MapperConfig`` and ``NodeConfig`` as ROS parameters; the
command line reads the same YAML files; docs/parameters.md is made from the rows.
"""

from dust3r_ros.config.mapper import MapperConfig
from dust3r_ros.config.mapping import OF_ROS, as_mapping, from_mapping, load_yaml, parse_yaml, rows, split
from dust3r_ros.config.node import NodeConfig
from dust3r_ros.config.rows import ParameterValue, Row, expanded

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
