"""A parameter: its name, type, default, range and description."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from dust3r_ros.errors import ConfigError

ParameterValue = bool | int | float | str | tuple[str, ...]
_ACCEPTED: dict[type, type] = {bool: bool, int: Integral, float: Real, str: str}


@dataclass(frozen=True)
class Row:
    """A parameter as users see it. ``live``: may be changed while the node runs.

    ``path``: names a file; ``frame``: names a TF frame, so a leading slash (from ROS 1) is dropped.
    """

    name: str
    type: type
    default: ParameterValue
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    path: bool = False
    frame: bool = False

    def check(self, value: object) -> ParameterValue:
        """``value`` in this row's type, paths expanded; raises ``ConfigError`` naming the row, value and range."""
        value = self._typed(value)
        if self.path:
            value = expanded(str(value), f"parameter '{self.name}'")
        if self.frame:
            value = self._named(str(value).lstrip("/"))
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"parameter '{self.name}' is {value!r}; it must be finite")
        if self.choices and value not in self.choices:
            raise ConfigError(f"parameter '{self.name}' is {value!r}; it must be one of {', '.join(self.choices)}")
        if self.low is not None and not (self.low <= value <= self.high):  # type: ignore[operator]
            raise ConfigError(f"parameter '{self.name}' is {value!r}; it must lie in [{self.low:g}, {self.high:g}]")
        return value

    def _named(self, frame: str) -> str:
        if self.default and not frame:
            raise ConfigError(f"parameter '{self.name}' is empty; it must name a frame")
        return frame

    def _typed(self, value: object) -> ParameterValue:
        if self.type is tuple and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            return tuple(value)
        flag = isinstance(value, bool)  # Python takes it for a number
        if isinstance(value, _ACCEPTED.get(self.type, ())) and flag == (self.type is bool):
            try:
                return self.type(value)
            except OverflowError:
                return math.inf  # as little as a number below it
        wanted = "list of strings" if self.type is tuple else self.type.__name__
        raise ConfigError(f"parameter '{self.name}' is {value!r}; it must be of type {wanted}")


def rows(config: type[Checked]) -> Iterator[Row]:
    """The rows of a configuration class, in order."""
    for item in fields(config):
        default: Any = item.default
        yield Row(name=item.name, type=type(default), default=default, **item.metadata)


@dataclass(frozen=True)
class Checked:
    """A configuration. Made with a value that a row refuses, it raises ``ConfigError``."""

    def __post_init__(self) -> None:
        for entry in rows(type(self)):
            object.__setattr__(self, entry.name, entry.check(getattr(self, entry.name)))


def row(default: Any, description: str, **limits: Any) -> Any:
    """A field of a configuration class; ``limits`` as in ``Row``."""
    return field(default=default, metadata={"description": description, **limits})


def expanded(path: str, name: str = "path") -> str:
    """A path with ~ and environment variables expanded, as by a shell.

    Raises ``ConfigError``, calling it ``name``, for an unset variable or an unknown user.
    """
    full = os.path.expanduser(os.path.expandvars(path))
    if unset := re.search(r"\$(\w+|\{[^}]*\})", full):
        raise ConfigError(f"{name} is '{path}', but the environment variable {unset[0]} is not set")
    if full.startswith("~"):
        raise ConfigError(f"{name} is '{path}', but there is no home folder {full.split('/')[0]}; use ./~ for a file")
    return full
