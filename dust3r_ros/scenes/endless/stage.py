"""Where the cameras of a world may be, and what lights it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dust3r_ros.scenes.endless.lighting import Lamp
from dust3r_ros.types import Array


@dataclass(frozen=True, eq=False)
class Stage:
    """``room`` (2, 3): low and high corner of where cameras may be; lamps and ambient light.

    ``density``: samples of light per metre. ``reach``: least and most metres to what a camera looks at.
    ``focus``: points (N, 3) worth looking at; none: the middles of the shapes.
    ``sky`` times the brightness of what is behind everything; 0 for things before black.
    """

    room: Array
    lamps: Sequence[Lamp]
    ambient: float
    density: float
    reach: tuple[float, float]
    focus: Array | None = None
    sky: float = 1.0
