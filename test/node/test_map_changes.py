"""Somebody who follows ~/map_tiles by the documented rule holds the map."""

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2

from dust3r_ros.node import map_changes as module
from dust3r_ros.node.conversions import POINT, stamp_to_ns
from dust3r_ros.node.map_changes import TILE_POINT, Changed, Tiles


class Stand:
    """A keyframe by its index, with ``size`` points at ``x``."""

    def __init__(self, index, x=0.0, size=10):
        self.index, self.x, self.size, self.stamp_ns = index, x, size, 1000 + index


def points(stand, every):
    part = np.zeros(stand.size, POINT)
    part["x"], part["rgb"], part["confidence"] = stand.x, 0x010203, 7.0
    return part


class Follower:
    """Keeps the newest tile of every keyframe."""

    def __init__(self, tiles):
        self._tiles, self.map = tiles, {}

    def listen(self, most=100):
        """Take what comes in one go."""
        count = 0
        for sent in self._tiles.messages(points, 5, "map"):
            message = deserialize_message(serialize_message(sent), PointCloud2)
            assert [field.name for field in message.fields] == list(TILE_POINT.names)
            assert [field.offset for field in message.fields] == [TILE_POINT.fields[n][1] for n in TILE_POINT.names]
            tile = np.frombuffer(message.data, TILE_POINT)
            (keyframe,) = set(tile["keyframe"].tolist())
            count += len(tile)
            if np.isnan(tile["x"]).all():
                assert not message.is_dense and len(tile) == 1
                self.map.pop(keyframe)
                continue
            assert stamp_to_ns(message.header.stamp) == 1000 + keyframe
            self.map[keyframe] = tile
        return count


def held(follower):
    return {keyframe: (len(tile), float(tile["x"][0])) for keyframe, tile in follower.map.items()}


def test_the_map_is_there_changes_and_goes():
    tiles = Tiles()
    follower = Follower(tiles)
    tiles.update(Changed((Stand(0), Stand(4, 2.0)), (), True))
    assert follower.listen() == 20
    tiles.update(Changed((Stand(4, 3.0, 5),)))
    assert follower.listen() == 5, "only what changed is sent"
    assert held(follower) == {0: (10, 0.0), 4: (5, 3.0)}
    assert set(follower.map[4]["rgb"]) == {0x010203} and set(follower.map[4]["confidence"]) == {7.0}
    tiles.update(Changed((), (0,)))
    follower.listen()
    assert held(follower) == {4: (5, 3.0)}
    assert tiles.waiting == 0


def test_a_map_that_is_replaced_takes_its_tiles_away():
    tiles = Tiles()
    follower = Follower(tiles)
    tiles.update(Changed((Stand(0), Stand(1), Stand(2)), (), True))
    follower.listen()
    tiles.update(Changed((Stand(1, 9.0),), (), True))
    follower.listen()
    assert held(follower) == {1: (10, 9.0)}


def test_a_keyframe_that_was_never_sent_needs_no_farewell():
    tiles = Tiles()
    follower = Follower(tiles)
    tiles.update(Changed((Stand(0), Stand(1)), (), True))
    tiles.update(Changed((), (1, 7)))
    follower.listen()
    assert held(follower) == {0: (10, 0.0)}


def test_large_maps_go_in_slices_the_newest_first(monkeypatch):
    monkeypatch.setattr(module, "POINTS_AT_ONCE", 35)
    tiles = Tiles()
    follower = Follower(tiles)
    tiles.update(Changed(tuple(Stand(index) for index in range(10)), (), True))
    assert follower.listen() == 40
    assert sorted(follower.map) == [6, 7, 8, 9] and tiles.waiting == 6
    tiles.update(Changed((Stand(9, 1.0),)))
    while tiles.waiting:
        assert follower.listen() <= 40
    assert held(follower) == {index: (10, float(index == 9)) for index in range(10)}


def test_a_keyframe_that_lost_its_points():
    tiles = Tiles()
    follower = Follower(tiles)
    tiles.update(Changed((Stand(0, size=0), Stand(1)), (), True))
    follower.listen()
    assert held(follower) == {1: (10, 0.0)}
    tiles.update(Changed((Stand(1, size=0),)))
    follower.listen()
    assert held(follower) == {}
    assert tiles.messages(points, 5, "map") == []
