"""The grid on ~/grid as the map grows and begins anew."""

from __future__ import annotations

import numpy as np
from true_map import room_walk, true_keyframes

from dust3r_ros.config import NodeConfig
from dust3r_ros.node.conversions import stamp_to_ns
from dust3r_ros.node.map_changes import Changed
from dust3r_ros.node.map_publisher import GridMap

STAMP_NS = 3_000_000_005


def test_the_grid_of_a_map_that_began_anew_is_one_unknown_cell() -> None:
    """nav2 keeps what it has where a grid has no cells."""
    keyframes = tuple(true_keyframes(room_walk()))
    grid = GridMap(NodeConfig())
    assert grid.message(Changed(whole=True), STAMP_NS, "map") is None, "there was no grid to take back"
    shown = grid.message(Changed(keyframes, whole=True), STAMP_NS, "map")
    assert shown is not None and shown.info.width * shown.info.height > 1000
    emptied = grid.message(Changed(whole=True), STAMP_NS, "map")
    assert emptied is not None and (emptied.info.width, emptied.info.height, list(emptied.data)) == (1, 1, [-1])
    assert emptied.info.resolution > 0 and emptied.header.frame_id == "map"
    assert stamp_to_ns(emptied.header.stamp) == STAMP_NS == stamp_to_ns(emptied.info.map_load_time)
    assert grid.message(Changed(whole=True), STAMP_NS, "map") is None
    again = grid.message(Changed(keyframes, whole=True), STAMP_NS, "map")
    assert again is not None and np.array_equal(again.data, shown.data)
