"""The map in all its forms, from the real node: whole, thinned, in tiles, as a grid; for who is late as well."""

from __future__ import annotations

import numpy as np
import pytest
from messages import points_of
from nav_msgs.msg import OccupancyGrid
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from dust3r_ros.node.conversions import stamp_to_ns
from dust3r_ros.node.interface import OUTPUTS, qos_profile
from dust3r_ros.node.map_changes import TILE_POINT


class Follower:
    """Holds the map as the tiles say it."""

    def __init__(self, recorder):
        self.tiles, self.count = {}, 0
        self._subscription = recorder.node.create_subscription(
            PointCloud2, "/dust3r/map_tiles", self._take, qos_profile(OUTPUTS["map_tiles"].quality)
        )

    def _take(self, message):
        tile = np.frombuffer(message.data, TILE_POINT)
        (keyframe,) = set(tile["keyframe"].tolist())
        self.count += 1
        if np.isnan(tile["x"]).all():
            self.tiles.pop(keyframe, None)
        else:
            self.tiles[keyframe] = message.header, tile

    def points(self):
        """(N, 3), sorted."""
        tiles = [np.stack([tile["x"], tile["y"], tile["z"]], 1) for _, tile in list(self.tiles.values())]
        return ordered(np.concatenate(tiles)) if tiles else np.zeros((0, 3))


def ordered(points):
    return points[np.lexsort(points.T)]


def test_tiles_grid_and_thinned_map_are_of_one_map(bench, sequence):
    recorder, follower, grids = bench.recorder, Follower(bench.recorder), []
    recorder.node.create_subscription(OccupancyGrid, "/dust3r/grid", grids.append, qos_profile(OUTPUTS["grid"].quality))
    bench.play(sequence, last=16)
    bench.handled(16)
    sent = {int(stamp) for stamp in sequence.stamps_ns}

    def settled():
        if "map" not in recorder.last or not follower.tiles:
            return False
        whole = points_of(recorder.last["map"])[0]
        tiles = follower.points()
        return whole.shape == tiles.shape and len(whole) > 2000 and np.array_equal(ordered(whole), tiles)

    recorder.wait(settled, 150, "the tiles are the map")
    headers = [header for header, _ in follower.tiles.values()]
    assert {header.frame_id for header in headers} == {"map"}
    assert {stamp_to_ns(header.stamp) for header in headers} <= sent

    late = Follower(recorder)
    recorder.wait(lambda: len(late.points()) == len(follower.points()), 150, "who is late gets all tiles")
    np.testing.assert_array_equal(late.points(), follower.points())

    recorder.wait(lambda: bool(grids), 150, "a grid")
    grid = grids[-1]
    assert grid.header.frame_id == "map" and stamp_to_ns(grid.header.stamp) in sent
    assert len(grid.data) == grid.info.width * grid.info.height > 0
    assert set(grid.data) <= {-1, 0, 100}
    assert abs(grid.info.resolution - 0.05) < 1e-6

    whole = recorder.last["map"].width
    limit = Parameter(
        name="map_max_points", value=ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=1000)
    )
    (result,) = recorder.call(SetParameters, "set_parameters", SetParameters.Request(parameters=[limit])).results
    assert result.successful, result.reason
    recorder.wait(lambda: recorder.last["map"].width < whole, 150, "the map is thinned")
    assert 500 <= recorder.last["map"].width <= 1000


@pytest.mark.parametrize("bench", [{"map_stride": 1, "min_confidence": 1.0}], indirect=True)
def test_the_node_is_an_rgbd_camera(bench, sequence):
    """Image, depth and pinhole of a keyframe fit together, as depth_image_proc and RTAB-Map take them."""
    recorder, heard = bench.recorder, {"depth": [], "depth_info": [], "keyframe_image": []}
    for (key, took), kind in zip(heard.items(), (Image, CameraInfo, Image), strict=True):
        row = OUTPUTS[key]
        name = row.name.replace("~", "/dust3r")
        recorder.node.create_subscription(kind, name, took.append, qos_profile(row.quality))
    bench.play(sequence, last=16)
    bench.handled(16)
    recorder.wait(lambda: all(heard.values()) and "keyframe_cloud" in recorder.last, 60, "a keyframe is published")
    counts = {key: len(took) for key, took in heard.items()}
    assert len(set(counts.values())) == 1, counts
    depth, info, image = (took[-1] for took in heard.values())
    assert depth.header == info.header == image.header
    sizes = {(message.width, message.height) for message in (depth, info, image)}
    assert len(sizes) == 1 and image.encoding == "rgb8" and depth.encoding == "32FC1"
    assert info.k[0] == info.k[4] == info.p[0] and not any(info.d)
    # By the pinhole, depth becomes the cloud of the keyframe.
    z = np.frombuffer(depth.data, "<f4").reshape(depth.height, depth.width)
    v, u = np.nonzero(np.isfinite(z))
    points = np.stack([(u - info.k[2]) / info.k[0] * z[v, u], (v - info.k[5]) / info.k[4] * z[v, u], z[v, u]], 1)
    colors = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)[v, u]
    cloud, cloud_colors = points_of(recorder.last["keyframe_cloud"])[:2]
    assert recorder.last["keyframe_cloud"].header.stamp == depth.header.stamp
    # The cloud is in the map frame, in the same order: what no pose changes are distances.
    assert np.array_equal(cloud_colors, colors)
    far, own = (np.linalg.norm(part - part[0], axis=1) for part in (cloud, points))
    np.testing.assert_allclose(far, own, atol=1e-3 * own.max())
