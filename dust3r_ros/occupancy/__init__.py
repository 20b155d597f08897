"""The ground plan of a map, where a robot may go. Needs no ROS; ``io.occupancy`` writes it for map_server."""

from dust3r_ros.occupancy.grid import FREE, OCCUPIED, UNKNOWN, Grid, GridOptions
from dust3r_ros.occupancy.grid_map import MAX_CELLS, OccupancyGridMap

__all__ = ["FREE", "MAX_CELLS", "OCCUPIED", "UNKNOWN", "Grid", "GridOptions", "OccupancyGridMap"]
