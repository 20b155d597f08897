"""The rows of ``dust3r_ros.config`` as ROS parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from dust3r_ros.config import OF_ROS, MapperConfig, NodeConfig, Row, from_mapping, rows
from dust3r_ros.errors import ConfigError
from dust3r_ros.io.files import make_folder

# It decides how the node starts, not how it maps, so the command line does not have it.
AUTOSTART = Row("autostart", bool, True, "Configure and activate at start; false leaves it to a lifecycle manager.")

# Files and folders that a node writes.
WRITTEN = ("output_dir", "map_db", "manifest", "profile")


def all_rows() -> dict[str, Row]:
    """Every parameter of the node by name."""
    return {row.name: row for row in chain(rows(MapperConfig), rows(NodeConfig), [AUTOSTART])}


class Parameters:
    """Declares the rows on a node and checks values that are set.

    The node must be made with ``automatically_declare_parameters_from_overrides=True``, so that an override with a
    wrong type, range or name is reported here instead of ending the process. A row with a bad override is declared
    with its default and listed in ``problems``; ``mapper`` and ``node`` then raise.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._rows = all_rows()
        self.problems: list[str] = []
        self.unknown = sorted(
            name
            for name in node.get_parameters_by_prefix("")
            if name not in self._rows and name.partition(".")[0] not in OF_ROS
        )
        for row in self._rows.values():
            self._declare(row)
        node.add_on_set_parameters_callback(self._check)

    def mapper(self) -> MapperConfig:
        """The mapper's configuration; raises ``ConfigError`` with all problems."""
        self._refuse()
        return from_mapping(MapperConfig, {row.name: self[row.name] for row in rows(MapperConfig)})

    def node(self) -> NodeConfig:
        """The node's configuration; raises ``ConfigError`` with all problems."""
        self._refuse()
        return from_mapping(NodeConfig, {row.name: self[row.name] for row in rows(NodeConfig)})

    def __getitem__(self, name: str) -> Any:
        """The current value of a parameter."""
        return self._node.get_parameter(name).value

    def _refuse(self) -> None:
        if self.problems:
            raise ConfigError("; ".join(self.problems))

    def _declare(self, row: Row) -> None:
        value: Any = row.default
        if self._node.has_parameter(row.name):
            override = self._node.get_parameter(row.name).value
            self._node.undeclare_parameter(row.name)
            try:
                value = row.check(override)
            except ConfigError as error:
                self.problems.append(str(error))
        value = list(value) if isinstance(value, tuple) else value
        self._node.declare_parameter(row.name, value, descriptor(row), ignore_override=True)

    def _check(self, changes: Iterable[Parameter]) -> SetParametersResult:
        for change in changes:
            row = self._rows.get(change.name)
            try:
                if row is not None:
                    row.check(change.value)
            except ConfigError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def own_files(config: NodeConfig, apart: Iterable[str], namespace: str) -> NodeConfig:
    """A configuration in which the ``WRITTEN`` parameters in ``apart`` point to a folder named after the namespace.

    The folder is created in ``output_dir`` or next to the configured file. Raises ``OutputError``.
    """
    space, own = namespace.strip("/"), {}
    for name in apart:
        path = Path(getattr(config, name))
        folder, file = (path, "") if name == "output_dir" else (path.parent, path.name)
        own[name] = str(make_folder(folder / space) / file)
    return replace(config, **own)  # type: ignore[arg-type]


def descriptor(row: Row) -> ParameterDescriptor:
    """The ROS descriptor of a row: range, choices, read-only unless live."""
    described = ParameterDescriptor(name=row.name, description=row.description, read_only=not row.live)
    if row.choices:
        described.additional_constraints = "one of: " + ", ".join(row.choices)
    if row.low is not None and row.high is not None:
        if row.type is int:
            described.integer_range = [IntegerRange(from_value=int(row.low), to_value=int(row.high), step=0)]
        else:
            described.floating_point_range = [
                FloatingPointRange(from_value=float(row.low), to_value=float(row.high), step=0.0)
            ]
    return described
