"""A camera nobody calibrated, the real node, everything it publishes against the truth; for who is late as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from messages import FRAME, image_message, points_of, pose_of, uncalibrated
from nav_msgs.msg import OccupancyGrid
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from scipy.spatial import cKDTree
from sensor_msgs.msg import Image, PointCloud2

from dust3r_ros.geometry.rigid import transform
from dust3r_ros.geometry.similarity import Similarity, weighted_similarity
from dust3r_ros.node.conversions import stamp_to_ns
from dust3r_ros.node.interface import OUTPUTS, qos_profile
from dust3r_ros.node.map_changes import TILE_POINT

MAPPED = 20  # images of which a map is made before the others come


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


@dataclass
class Run:
    """A node that has mapped a walk, and all it published on the way; tests leave it as it was."""

    recorder: Any
    sequence: Any
    status: Any
    depths: list[Any]
    grids: list[Any]
    follower: Follower
    bench: Any

    @property
    def sent(self) -> list[int]:
        """Stamps (ns) of the images."""
        return [int(stamp) for stamp in self.sequence.stamps_ns]

    @property
    def poses(self) -> dict[int, Any]:
        """Those that came on ~/pose, by stamp."""
        return {stamp_to_ns(item.header.stamp): item for item in self.recorder.all["pose"]}

    def way(self):
        """Stamps, true and estimated positions (N, 3) of the newest path."""
        path = self.recorder.last["path"].poses
        stamps = [stamp_to_ns(item.header.stamp) for item in path]
        truth = np.stack([self.sequence.w_T_c[self.sent.index(stamp), :3, 3] for stamp in stamps])
        return stamps, truth, np.stack([pose_of(item.pose)[:3, 3] for item in path])

    def world(self) -> Similarity:
        """From the map to the truth."""
        _, truth, estimated = self.way()
        return weighted_similarity(estimated, truth)

    def whole(self):
        """(N, 3) points of ~/map once ~/map_tiles say the same."""
        points_now = lambda: points_of(self.recorder.last["map"])[0]  # noqa: E731
        self.recorder.wait(
            lambda: np.array_equal(ordered(points_now()), self.follower.points()), 150, "the tiles are the map"
        )
        return points_now()

    @contextmanager
    def with_parameter(self, name, value) -> Iterator[None]:
        """Another value of a live parameter, for a while."""
        width = len(self.whole())
        (before,) = self.recorder.call(GetParameters, "get_parameters", GetParameters.Request(names=[name])).values
        self._set(name, value)
        try:
            yield
        finally:
            self._set(name, parameter_value_to_python(before))
            self.recorder.wait(lambda: self.recorder.last["map"].width == width, 150, "the map is as it was")

    def _set(self, name, value) -> None:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        (result,) = self.recorder.call(SetParameters, "set_parameters", request).results
        assert result.successful, result.reason


def path_length(positions):
    return np.linalg.norm(np.diff(positions, axis=0), axis=1).sum()


def truth_cloud(sequence, count=20_000):
    """Points of the world that the camera saw, in the world."""
    generator = np.random.default_rng(0)
    points = []
    for index in range(0, len(sequence), 5):
        v, u = generator.integers(sequence.height, size=count), generator.integers(sequence.width, size=count)
        z = sequence.depths[index][v, u]
        center = (np.array([sequence.width, sequence.height]) - 1) / 2
        rays = np.column_stack([(np.column_stack([u, v]) - center) / sequence.focal, np.ones(count)])
        points.append(transform(sequence.w_T_c[index], (rays * z[:, None])[z > 0]))
    return np.concatenate(points)


def publisher_qos(recorder, topic):
    (info,) = recorder.node.get_publishers_info_by_topic(topic)
    return info.qos_profile


@pytest.mark.parametrize(
    "bench",
    [{"camera_frame": "lens", "map_frame": "world", "publish_tf": False, "use_sim_time": True, "dense": False}],
    indirect=True,
)
def test_a_published_calibration_is_taken_and_frames_can_be_named(bench, sequence):
    recorder = bench.recorder
    known = 1.02 * sequence.focal  # not what the images say: what is published must be this very number
    bench.calibrate(sequence.width, sequence.height, known)
    bench.play(sequence, last=12)
    status = bench.handled(12)
    assert status.cameras[0].fixed
    assert status.cameras[0].focal == known
    assert status.header.frame_id == "world"
    recorder.wait(lambda: recorder.counts["camera_info"] > 0, 150, "the camera is published")
    assert recorder.last["camera_info"].k[0] == known
    assert recorder.last["camera_info"].header.frame_id == "lens"
    assert recorder.counts["tf"] == 0


@pytest.fixture(scope="module")
def run(start_shared, sequence) -> Run:
    """One run, all topics. It begins when the first test needs it: a node that waits costs time, too."""
    bench = start_shared(keyframe_motion_young=0.0075, working_size=160)
    recorder, depths, grids = bench.recorder, [], []
    recorder.node.create_subscription(Image, "/dust3r/depth", depths.append, 10)
    recorder.node.create_subscription(OccupancyGrid, "/dust3r/grid", grids.append, qos_profile(OUTPUTS["grid"].quality))
    follower, sent = Follower(recorder), [int(stamp) for stamp in sequence.stamps_ns]
    for first, last in ((0, MAPPED), (MAPPED, len(sequence))):
        for index in range(first, last):
            message = image_message(sequence.images[index], sent[index])
            bench.send(uncalibrated(message), "/camera/camera_info")  # K[0] == 0
            bench.send(message)
        bench.handled(last)
        status = bench.status(lambda s: s.state == "tracking" and s.waiting == s.backlog == 0, "there is a map")
    recorder.wait(
        lambda: {"path", "map", "pose", "camera_info", "keyframe_cloud", "graph"} <= set(recorder.last),
        150,
        "all topics come",
    )

    def newest(key):
        return stamp_to_ns(recorder.last[key].header.stamp)

    recorder.wait(
        lambda: {newest(key) for key in ("camera_info", "pose", "path")} == {sent[-1]},
        150,
        "the last frame's poses come",
    )
    recorder.wait(lambda: recorder.counts["tf"] == recorder.counts["pose"], 150, "as many transforms as poses come")
    recorder.wait(lambda: bool(depths and grids), 150, "depth and a grid come")
    return Run(recorder, sequence, status, depths, grids, follower, bench)


def test_the_status_tells_what_was_taken_in_and_how_long_it_took(run):
    status, sent = run.status, run.sent
    assert status.state == "tracking"
    assert status.backend == "two_view"
    assert status.header.frame_id == "map"
    assert stamp_to_ns(status.header.stamp) == sent[-1]
    assert (status.dropped, status.rejected, status.lost) == (0, 0, 0)
    assert status.keyframes >= 3
    assert status.pairs >= status.keyframes - 1
    assert 0 < status.tracked <= len(sent)
    assert 20 < status.memory_mb < 4000
    assert "track" in {stage.name for stage in status.stages}
    assert all(0 <= stage.p50_ms <= stage.p95_ms <= stage.max_ms and stage.count > 0 for stage in status.stages)


def test_intrinsics_are_estimated_at_native_resolution(run):
    """For the frame and stamps of the images."""
    sequence, infos = run.sequence, run.recorder.all["camera_info"]
    (estimate,) = run.status.cameras
    assert (estimate.name, estimate.width, estimate.height) == ("camera", sequence.width, sequence.height)
    assert not estimate.fixed
    assert {stamp_to_ns(info.header.stamp) for info in infos} <= set(run.sent)
    info = infos[-1]
    assert (info.header.frame_id, info.width, info.height) == (FRAME, sequence.width, sequence.height)
    assert info.distortion_model == "plumb_bob"
    K = info.k.reshape(3, 3)
    assert K[0, 0] == K[1, 1] == pytest.approx(sequence.focal, rel=0.05)
    assert K[0, 0] == pytest.approx(estimate.focal)
    assert (K[0, 2], K[1, 2]) == pytest.approx(((sequence.width - 1) / 2, (sequence.height - 1) / 2), abs=2.0)


def test_poses_have_the_images_stamps_and_are_true_up_to_a_similarity(run):
    sent, poses = run.sent, run.poses
    assert set(poses) <= set(sent)
    assert set(sent[MAPPED:]) <= set(poses), "every image that came when there was a map"
    assert {item.header.frame_id for item in poses.values()} == {"map"}
    covariance = np.array(run.recorder.last["pose"].pose.covariance).reshape(6, 6)
    assert np.isfinite(covariance).all()
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-9 + 1e-6 * abs(covariance).max())
    assert run.recorder.last["path"].header.frame_id == "map"
    stamps, truth, estimated = run.way()
    assert stamps == sorted(set(stamps)) and set(stamps) <= set(sent)
    assert len(stamps) >= 0.7 * len(sent)  # those before the second keyframe may have none
    error = np.sqrt(np.mean(np.sum((run.world().apply(estimated) - truth) ** 2, axis=1)))
    assert error < 0.02 * path_length(truth)


def test_tf_says_the_same_as_the_pose_topic(run):
    """For the frame of the images."""
    poses, transforms = run.poses, [item for message in run.recorder.all["tf"] for item in message.transforms]
    assert {(item.header.frame_id, item.child_frame_id) for item in transforms} == {("map", FRAME)}
    assert {stamp_to_ns(item.header.stamp) for item in transforms} == set(poses)
    for item in transforms:
        np.testing.assert_allclose(
            pose_of(item.transform), pose_of(poses[stamp_to_ns(item.header.stamp)].pose.pose), atol=1e-12
        )


def test_the_cloud_lies_on_the_surfaces_of_the_world(run):
    message, sequence = run.recorder.last["map"], run.sequence
    assert message.header.frame_id == "map"
    assert stamp_to_ns(message.header.stamp) in run.sent
    points, colors, confidence = points_of(message)
    assert len(points) > 2000
    assert np.isfinite(points).all() and (confidence > 1.5).all() and colors.std() > 5
    distances, _ = cKDTree(truth_cloud(sequence)).query(run.world().apply(points.astype(float)))
    # Live, after 30 small images, the focal is uncertain by 2 %, and depth with it.
    assert np.median(distances) < 0.04 * np.median(sequence.depths[sequence.depths > 0])


def test_a_keyframes_cloud_and_depth_and_the_graph_of_pairs(run):
    last, depth = run.recorder.last, run.depths[-1]
    assert last["keyframe_cloud"].header.frame_id == "map"
    assert len(points_of(last["keyframe_cloud"])[0]) > 100
    _, nodes, lines, *numbers = last["graph"].markers
    assert len(nodes.points) == len(numbers) == run.status.keyframes
    assert len(lines.points) >= 2 * (run.status.keyframes - 1)
    z = np.frombuffer(depth.data, "<f4").reshape(depth.height, depth.width)  # NaN where there is none
    assert (depth.encoding, depth.header.frame_id) == ("32FC1", FRAME)
    assert np.isfinite(z).mean() > 0.2
    assert (z[np.isfinite(z)] > 0).all()


def test_the_quality_of_service_is_as_promised(run):
    qos = publisher_qos(run.recorder, "/dust3r/map")
    assert (qos.reliability, qos.durability) == (ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
    assert publisher_qos(run.recorder, "/dust3r/pose").reliability == ReliabilityPolicy.RELIABLE
    assert publisher_qos(run.recorder, "/tf").reliability == ReliabilityPolicy.RELIABLE


def test_diagnostics_have_an_entry_per_concern(run):
    sequence, count = run.sequence, str(len(run.sent))
    entries = {entry.name.removeprefix("/dust3r: "): entry for entry in run.recorder.last["diagnostics"].status}
    assert set(entries) == {"mapping", "backend", "scale", "inputs", "tf", "calibration camera"}
    values = {name: {item.key: item.value for item in entry.values} for name, entry in entries.items()}
    assert values["mapping"]["frames"] == count
    assert values["inputs"]["/camera/image_raw count"] == count
    assert values["calibration camera"]["size"] == f"{sequence.width}x{sequence.height}"


def test_tiles_and_grid_are_of_the_same_map(run):
    assert len(run.whole()) > 2000
    headers = [header for header, _ in run.follower.tiles.values()]
    assert {header.frame_id for header in headers} == {"map"}
    assert {stamp_to_ns(header.stamp) for header in headers} <= set(run.sent)
    grid = run.grids[-1]
    assert grid.header.frame_id == "map" and stamp_to_ns(grid.header.stamp) in run.sent
    assert len(grid.data) == grid.info.width * grid.info.height > 0
    assert set(grid.data) <= {-1, 0, 100}
    assert abs(grid.info.resolution - 0.05) < 1e-6


def test_who_comes_late_gets_the_map_and_all_tiles(run):
    """The map is latched: who comes when no image does gets it as it stands."""
    newest = lambda recorder: "map" in recorder.last and recorder.last["map"].width  # noqa: E731
    with run.bench.who_comes_late() as late:
        late.wait(lambda: 0 < newest(late) == newest(run.recorder), 150, "the latched map comes")
        follower = Follower(late)
        late.wait(lambda: len(follower.points()) == len(run.follower.points()), 150, "all tiles come")
        np.testing.assert_array_equal(follower.points(), run.follower.points())


def test_live_parameters_change_the_map_at_once(run):
    recorder, whole = run.recorder, len(run.whole())
    with run.with_parameter("map_stride", 4):
        recorder.wait(lambda: recorder.last["map"].width < 0.5 * whole, 150, "a sparser map is published")
    with run.with_parameter("map_max_points", 1000):
        recorder.wait(lambda: recorder.last["map"].width < whole, 150, "the map is thinned")
        assert 500 <= recorder.last["map"].width <= 1000
