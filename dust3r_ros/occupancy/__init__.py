"""The ground plan of a map: where a robot may go. Needs no ROS; ``products.exports`` writes it for map_server."""

from dust3r_ros.occupancy.grid_map import MAX_CELLS, OccupancyGridMap
from dust3r_ros.occupancy.plan import FREE, OCCUPIED, UNKNOWN, Grid, GridOptions

__all__ = ["FREE", "MAX_CELLS", "OCCUPIED", "UNKNOWN", "Grid", "GridOptions", "OccupancyGridMap"]
