"""The occupancy grid of ~/grid."""

from __future__ import annotations

from array import array

import numpy as np
from geometry_msgs.msg import Pose
from nav_msgs.msg import OccupancyGrid

from dust3r_ros.config import NodeConfig
from dust3r_ros.node.changes import Changed
from dust3r_ros.node.conversions import header, ns_to_stamp
from dust3r_ros.occupancy import Grid, GridOptions, OccupancyGridMap

# Keyframes that are worked in at once, 0.2 s of work.
_AT_ONCE = 30


class GridMap:
    """The ground plan of the keyframes so far; for one thread."""

    def __init__(self, config: NodeConfig) -> None:
        """Raises ``ConfigError`` for heights that cannot be."""
        self._grid = OccupancyGridMap(grid_options(config))

    @property
    def pending(self) -> bool:
        """Whether keyframes wait to be worked in."""
        return self._grid.pending > 0

    def message(self, changed: Changed, stamp_ns: int, frame: str) -> OccupancyGrid | None:
        """The grid with what changed; None as long as it has no cell."""
        removed = set(changed.removed)
        if changed.whole:  # what is shown stays until the new one is worked in
            removed |= self._grid.indices - {keyframe.index for keyframe in changed.keyframes}
        self._grid.update(changed.keyframes, removed, limit=_AT_ONCE)
        grid = self._grid.grid()
        return grid_message(grid, stamp_ns, frame) if grid.data.size else None


def grid_options(config: NodeConfig) -> GridOptions:
    """What the parameters ask for; raises ``ConfigError`` for heights that cannot be."""
    return GridOptions(
        resolution=config.grid_resolution,
        min_height=config.grid_min_height or None,
        max_height=config.grid_max_height or None,
        camera_height=config.grid_camera_height or None,
    )


def grid_message(grid: Grid, stamp_ns: int, frame: str) -> OccupancyGrid:
    """A grid as nav2's static layer takes it."""
    height, width = grid.data.shape
    message = OccupancyGrid(header=header(stamp_ns, frame))
    info = message.info
    info.map_load_time = ns_to_stamp(stamp_ns)
    info.resolution, info.width, info.height = float(grid.resolution), width, height
    x, y, yaw = grid.origin
    info.origin = Pose()
    info.origin.position.x, info.origin.position.y = float(x), float(y)
    info.origin.orientation.z, info.origin.orientation.w = float(np.sin(yaw / 2)), float(np.cos(yaw / 2))
    message.data = array("b", np.ascontiguousarray(grid.data, np.int8).tobytes())
    return message
