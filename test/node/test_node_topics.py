"""A camera nobody calibrated, the real node, everything it publishes against the truth."""

import numpy as np
import pytest
from messages import points_of, pose_of, uncalibrated
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from scipy.spatial import cKDTree
from sensor_msgs.msg import Image

from dust3r_ros.geometry.rigid import transform
from dust3r_ros.geometry.similarity import weighted_similarity
from dust3r_ros.node.conversions import stamp_to_ns
from dust3r_ros.node.tools.player import FRAME, image_message
from dust3r_ros.node.tools.recorder import Recorder

MAPPED = 20  # images of which a map is made before the others come


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


@pytest.mark.parametrize("bench", [{"keyframe_motion_young": 0.005}], indirect=True)
def test_an_uncalibrated_camera_is_mapped(bench, sequence):
    """One run, all topics: poses, TF, cloud, intrinsics, path, graph and status."""
    recorder = bench.recorder
    depths = []
    recorder.node.create_subscription(Image, "/dust3r/depth", depths.append, 10)
    sent = [int(stamp) for stamp in sequence.stamps_ns]
    for first, last in ((0, MAPPED), (MAPPED, len(sequence))):
        for index in range(first, last):
            message = image_message(sequence.images[index], sent[index])
            bench.send(uncalibrated(message), "/camera/camera_info")  # K[0] == 0
            bench.send(message)
        bench.handled(last)
        status = bench.status(lambda s: s.state == "tracking" and s.waiting == s.backlog == 0, "there is a map")
    recorder.wait(lambda: {"path", "map", "pose", "camera_info"} <= set(recorder.last), 150, "all topics come")

    def newest(key):
        return stamp_to_ns(recorder.last[key].header.stamp)

    recorder.wait(
        lambda: {newest(key) for key in ("camera_info", "pose", "path")} == {sent[-1]},
        150,
        "the last frame's poses come",
    )
    recorder.wait(lambda: recorder.counts["tf"] == recorder.counts["pose"], 150, "as many transforms as poses come")

    # Status
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
    (estimate,) = status.cameras
    assert (estimate.name, estimate.width, estimate.height) == ("camera", sequence.width, sequence.height)
    assert not estimate.fixed

    # Intrinsics, at native resolution, for the frame and stamps of the images
    infos = recorder.all["camera_info"]
    assert {stamp_to_ns(info.header.stamp) for info in infos} <= set(sent)
    info = infos[-1]
    assert (info.header.frame_id, info.width, info.height) == (FRAME, sequence.width, sequence.height)
    assert info.distortion_model == "plumb_bob"
    K = info.k.reshape(3, 3)
    assert K[0, 0] == K[1, 1] == pytest.approx(sequence.focal, rel=0.05)
    assert K[0, 0] == pytest.approx(estimate.focal)
    assert (K[0, 2], K[1, 2]) == ((sequence.width - 1) / 2, (sequence.height - 1) / 2)

    # Poses: stamps of images, frame map, the first camera's axes, and the truth up to a similarity
    poses = {stamp_to_ns(item.header.stamp): item for item in recorder.all["pose"]}
    assert set(poses) <= set(sent)
    assert set(sent[MAPPED:]) <= set(poses), "every image that came when there was a map"
    assert {item.header.frame_id for item in poses.values()} == {"map"}
    covariance = np.array(recorder.last["pose"].pose.covariance).reshape(6, 6)
    assert np.isfinite(covariance).all()
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-9 + 1e-6 * abs(covariance).max())
    path = recorder.last["path"]
    assert path.header.frame_id == "map"
    stamps = [stamp_to_ns(item.header.stamp) for item in path.poses]
    assert stamps == sorted(set(stamps)) and set(stamps) <= set(sent)
    assert len(stamps) >= 0.7 * len(sent)  # those before the second keyframe may have none
    truth = np.stack([sequence.w_T_c[sent.index(stamp), :3, 3] for stamp in stamps])
    estimated = np.stack([pose_of(item.pose)[:3, 3] for item in path.poses])
    world = weighted_similarity(estimated, truth)
    error = np.sqrt(np.mean(np.sum((world.apply(estimated) - truth) ** 2, axis=1)))
    assert error < 0.02 * path_length(truth)

    # TF says the same as the pose topic, for the frame of the images
    transforms = [item for message in recorder.all["tf"] for item in message.transforms]
    assert {(item.header.frame_id, item.child_frame_id) for item in transforms} == {("map", FRAME)}
    assert {stamp_to_ns(item.header.stamp) for item in transforms} == set(poses)
    for item in transforms:
        np.testing.assert_allclose(
            pose_of(item.transform), pose_of(poses[stamp_to_ns(item.header.stamp)].pose.pose), atol=1e-12
        )

    # The cloud lies on the surfaces of the world
    message = recorder.last["map"]
    assert message.header.frame_id == "map"
    assert stamp_to_ns(message.header.stamp) in sent
    points, colors, confidence = points_of(message)
    assert len(points) > 2000
    assert np.isfinite(points).all() and (confidence > 1.5).all() and colors.std() > 5
    distances, _ = cKDTree(truth_cloud(sequence)).query(world.apply(points.astype(float)))
    assert np.median(distances) < 0.03 * np.median(sequence.depths[sequence.depths > 0])

    # A keyframe's cloud and the pair graph
    recorder.wait(lambda: {"keyframe_cloud", "graph"} <= set(recorder.last), 150, "keyframe cloud and graph")
    assert recorder.last["keyframe_cloud"].header.frame_id == "map"
    assert len(points_of(recorder.last["keyframe_cloud"])[0]) > 100
    nodes, lines = recorder.last["graph"].markers
    assert len(nodes.points) == status.keyframes
    assert len(lines.points) >= 2 * (status.keyframes - 1)

    # Depth of keyframes, NaN where there is none
    recorder.wait(lambda: len(depths) > 0, 150, "depth is published")
    depth = np.frombuffer(depths[-1].data, "<f4").reshape(depths[-1].height, depths[-1].width)
    assert (depths[-1].encoding, depths[-1].header.frame_id) == ("32FC1", FRAME)
    assert np.isfinite(depth).mean() > 0.2
    assert (depth[np.isfinite(depth)] > 0).all()

    # QoS as promised
    qos = publisher_qos(recorder, "/dust3r/map")
    assert (qos.reliability, qos.durability) == (ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
    assert publisher_qos(recorder, "/dust3r/pose").reliability == ReliabilityPolicy.RELIABLE
    assert publisher_qos(recorder, "/tf").reliability == ReliabilityPolicy.RELIABLE

    # Diagnostics
    entries = {entry.name.removeprefix("/dust3r: "): entry for entry in recorder.last["diagnostics"].status}
    assert set(entries) == {"mapping", "backend", "scale", "inputs", "tf", "calibration camera"}
    values = {name: {item.key: item.value for item in entry.values} for name, entry in entries.items()}
    assert values["mapping"]["frames"] == str(len(sent))
    assert values["inputs"]["/camera/image_raw count"] == str(len(sent))
    assert values["calibration camera"]["size"] == f"{sequence.width}x{sequence.height}"


@pytest.mark.parametrize(
    "bench", [{"camera_frame": "lens", "map_frame": "world", "publish_tf": False, "use_sim_time": True}], indirect=True
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


def test_a_subscriber_that_comes_late_gets_the_map(bench, sequence):
    """The map is latched: who comes when nothing changes any more gets it as it stands."""
    bench.play(sequence, last=12)
    bench.handled(12)
    recorder = bench.recorder
    recorder.wait(lambda: "map" in recorder.last and recorder.last["map"].width > 0, 150, "the map is published")
    with Recorder("/camera/estimated/camera_info") as late:
        late.wait(lambda: "map" in late.last, 150, "the latched map comes")
        assert late.last["map"].width == recorder.last["map"].width
