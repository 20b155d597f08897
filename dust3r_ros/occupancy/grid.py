"""What an occupancy grid is asked for, and what it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import ConfigError

UNKNOWN, FREE, OCCUPIED = -1, 0, 100


@dataclass(frozen=True)
class GridOptions:
    """What the grid looks for; lengths in map units (metres once the scale is metric), None: from the map.

    ``resolution``: edge of a cell (None: 0.025 of the median depth). Obstacles lie between ``min_height``
    (None: 0.1 of the cameras' height) and ``max_height`` (None: the cameras' height and a tenth) above the
    ground; the ground is ``camera_height`` below the cameras (None: found as the lowest large plane). Depth
    is used up to ``max_range`` (None: 200 cells) and above ``min_confidence``. Raises ``ConfigError``.
    """

    resolution: float | None = None
    min_height: float | None = None
    max_height: float | None = None
    camera_height: float | None = None
    max_range: float | None = None
    min_confidence: float = 1.5

    def __post_init__(self) -> None:
        for name in ("resolution", "min_height", "max_height", "camera_height", "max_range"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ConfigError(f"{name} of the occupancy grid is {value}; it must be positive, in map units")
        if self.min_height is not None and self.max_height is not None and self.min_height >= self.max_height:
            raise ConfigError(
                f"min_height of the occupancy grid is {self.min_height}; it must be below max_height, {self.max_height}"
            )


@dataclass(frozen=True, eq=False)
class Grid:
    """``data`` (H, W) int8, -1 unknown, 0 free, 100 occupied; row 0 has the lowest y, column 0 the lowest x.

    ``origin`` (x, y, yaw), map units and radians, is the outer corner of cell [0, 0] in the map frame;
    ``resolution`` the edge of a cell, map units: the fields of ``nav_msgs/OccupancyGrid``.
    """

    resolution: float
    origin: tuple[float, float, float]
    data: NDArray[np.int8]
