"""Rows of results: plain values that JSON has; ``report.metrics`` says what its figures are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.evaluation.protocols.recordings import Recording

Row = dict[str, Any]


def row(recording: Recording, protocol: str, system: str, **values: Any) -> Row:
    """A row: data set, scene, protocol and system (the backend), the split if the data set has some, then ``values``;
    what is not finite becomes None."""
    start: Row = {"dataset": recording.dataset, "scene": recording.name, "protocol": protocol, "system": system}
    if split := getattr(recording, "split", ""):
        start["split"] = split
    return start | {name: _plain(value) for name, value in values.items()}


def guarded(recording: Recording, protocol: str, system: str, measure: Callable[[], Row]) -> Row:
    """What ``measure`` gives; where the scene cannot be measured, a row whose ``note`` says why."""
    try:
        return measure()
    except (GeometryError, InputError) as error:
        return row(recording, protocol, system, note=str(error))


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
