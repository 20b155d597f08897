"""The node on a robot: two cameras nobody calibrated, odometry on TF, an IMU, a simulated clock; real DDS."""

import math
import os
import subprocess
import sys
from pathlib import Path

import fake_robot
import numpy as np
import pytest
from dust3r_ros.srv import ExportMap, LoadMap, Localize, SaveCalibration, SaveMap, SetScale
from geometry_msgs.msg import TransformStamped
from messages import image_message, points_of, pose_of
from nav_msgs.msg import OccupancyGrid
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, PointCloud2
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from dust3r_ros.io.camera_yaml import read_calibrations
from dust3r_ros.node.conversions import stamp_to_ns
from dust3r_ros.node.interface import OUTPUTS, TF_STATIC, qos_profile
from dust3r_ros.sensors.transform_buffer import TransformBuffer
from dust3r_ros.storage.saved_map import load_map

PARAMETERS = {
    "image_topics": list(fake_robot.IMAGE_TOPICS),
    "odom_frame": fake_robot.ODOM,
    "base_frame": fake_robot.BASE,
    "imu_topic": "/imu",
    "use_sim_time": True,
    "working_size": 160,
    "backlog": "every",
    "companion_wait": 2.0,
    "map_period": 0.5,
    "grid_resolution": 0.1,
    "keyframe_motion_young": 0.02,
}


class Listener:
    """Everything a second node of the robot would listen to, beside the recorder."""

    def __init__(self, recorder):
        self.tf, self.static, self.infos, self.tiles, self.grids = [], [], {"left": [], "right": []}, [], []
        node = recorder.node
        node.create_subscription(TFMessage, "/tf", lambda m: self.tf.extend(m.transforms), 1000)
        node.create_subscription(
            TFMessage, "/tf_static", lambda m: self.static.extend(m.transforms), qos_profile(TF_STATIC)
        )
        for name, found in self.infos.items():
            node.create_subscription(CameraInfo, f"/{name}/estimated/camera_info", found.append, 100)
        node.create_subscription(PointCloud2, "/dust3r/map_tiles", self.tiles.append, 200)
        node.create_subscription(OccupancyGrid, "/dust3r/grid", self.grids.append, qos_profile(OUTPUTS["grid"].quality))


@pytest.fixture
def robot(own_domain, tmp_path_factory):
    """A process; it drives when somebody listens."""
    folder = tmp_path_factory.mktemp("robot")
    log, drive = (folder / "log.txt").open("w"), folder / "drive.pickle"
    fake_robot.write_drive(drive)
    support = Path(fake_robot.__file__)
    root = support.parents[2]
    environment = {"PYTHONPATH": f"{root}:{support.parent}"}
    process = subprocess.Popen(
        [sys.executable, str(support), str(drive), "--pace", "8"],
        env={**os.environ, **environment},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    yield process
    process.kill()
    process.wait()


@pytest.mark.timeout(600)
def test_a_robot_is_mapped_in_metres_and_everything_says_so(start_node, robot, tmp_path):
    """One run; every topic, frame, stamp, quality of service and service by what it holds."""
    path, manifest = tmp_path / "map.db", tmp_path / "run.jsonl"
    bench = start_node(estimated="/left/estimated/camera_info", map_db=str(path), manifest=str(manifest), **PARAMETERS)
    recorder, listener = bench.recorder, None
    listener = Listener(recorder)
    truth = fake_robot.true_poses()
    sent = len(truth)
    status = bench.handled(sent, seconds=400)

    # Status
    assert (status.state, status.mode, status.backend) == ("tracking", "mapping", "two_view")
    assert (status.dropped, status.rejected, status.resets) == (0, 0, 0)
    assert status.scale_state == "metric" and "odometry" in status.scale_sources
    assert 0 < status.metres_per_unit_std < 0.05 * status.metres_per_unit
    assert status.revision >= 1
    assert status.map_file == str(path) and status.manifest_file == str(manifest)
    cameras = {camera.name: camera for camera in status.cameras}
    for name, eye in fake_robot.rig().eyes.items():
        assert cameras[name].focal == pytest.approx(eye.focal, rel=0.03)
        assert (cameras[name].width, cameras[name].height) == (eye.width, eye.height)
        assert cameras[name].source == "estimated"
    assert cameras["right"].extrinsics == "known" and cameras["right"].reference == "left"
    assert pose_of(cameras["right"].first_from_camera) == pytest.approx(
        fake_robot.rig().extrinsics("left", "right"), abs=1e-6
    )

    # Poses: stamps copied, frame of the map, metres, in the odometry's frame but for small errors
    recorder.wait(lambda: recorder.counts["pose"] >= 20, 150, "poses come")
    poses = {stamp_to_ns(m.header.stamp): m for m in recorder.all["pose"]}
    assert set(poses) <= {stamp for stamp, _ in truth}
    assert {m.header.frame_id for m in poses.values()} == {"map"}
    by_stamp = {stamp: pose for (stamp, _), pose in truth.items()}
    late = sorted(poses)[-10:]  # the first ones were told before the map was in metres
    errors = [np.linalg.norm(pose_of(poses[s].pose.pose)[:3, 3] - by_stamp[s][:3, 3]) for s in late]
    assert max(errors) < 0.1

    # TF: map -> odom alone, never a second parent of anything; the robot's own tree stays whole
    parents = {}
    for transform in [*listener.tf, *listener.static]:
        parents.setdefault(transform.child_frame_id, set()).add(transform.header.frame_id)
    assert parents[fake_robot.ODOM] == {"map"}
    assert all(len(found) == 1 for found in parents.values())
    newest = [t for t in listener.tf if t.child_frame_id == fake_robot.ODOM][-1]
    assert np.linalg.norm(pose_of(newest.transform)[:3, 3]) < 0.1  # the map begins where odometry does
    ahead = stamp_to_ns(newest.header.stamp) - max(stamp for stamp, _ in truth)
    assert ahead > 0  # on the simulated clock, so that newest odometry can be looked up
    buffer = TransformBuffer()
    for transform in [*listener.static, *listener.tf]:
        static = transform in listener.static
        buffer.add(
            transform.header.frame_id,
            transform.child_frame_id,
            stamp_to_ns(transform.header.stamp),
            pose_of(transform.transform),
            static=static,
        )
    found = buffer.lookup("map", fake_robot.FRAMES["left"], None)
    assert isinstance(found, np.ndarray)

    # Calibration, per camera, at native resolution, stamped as its images
    for name, eye in fake_robot.rig().eyes.items():
        info = listener.infos[name][-1]
        assert info.header.frame_id == fake_robot.FRAMES[name]
        assert (stamp_to_ns(info.header.stamp), name) in truth
        assert info.k[0] == pytest.approx(eye.focal, rel=0.03)

    # Clouds and grid: z up, floor below the cameras
    recorder.wait(lambda: bool(listener.grids) and "map" in recorder.last, 150, "map and grid come")
    heights = points_of(recorder.last["map"])[0][:, 2]
    floor = -fake_robot.odometry_start()[2, 3]
    assert np.percentile(heights, 2) == pytest.approx(floor, abs=0.15)
    grid = listener.grids[-1]
    assert grid.header.frame_id == "map" and grid.info.resolution == pytest.approx(0.1)
    values = np.array(grid.data, np.int8)
    assert {-1, 0, 100} >= set(np.unique(values).tolist()) and (values == 0).any() and (values == 100).any()
    assert listener.tiles and all(tile.header.frame_id == "map" for tile in listener.tiles)
    for key in ("map", "grid", "path", "graph", "pose", "status", "map_tiles", "depth", "keyframe_cloud"):
        row = OUTPUTS[key]
        (found,) = recorder.node.get_publishers_info_by_topic(row.name.replace("~", "/dust3r"))
        assert found.qos_profile.reliability is ReliabilityPolicy[row.quality.reliability.upper()]
        assert found.qos_profile.durability is DurabilityPolicy[row.quality.durability.upper()]

    # Diagnostics: one entry per concern
    names = {s.name.split(": ")[-1] for s in recorder.last["diagnostics"].status}
    assert {"mapping", "scale", "tf", "backend"} <= names

    # Services
    folder = tmp_path / "calibrations"
    answer = recorder.call(SaveCalibration, "save_calibration", SaveCalibration.Request(path=str(folder)))
    assert answer.success and len(answer.files) == 2
    for file in answer.files:
        ((name, calibration),) = read_calibrations(file).items()
        assert calibration.fx == pytest.approx(fake_robot.rig().eyes[name].focal, rel=0.03)

    sequence = fake_robot.rig().seen["left"]
    index = len(sequence) // 2
    stamp = fake_robot.START_NS + int(sequence.stamps_ns[index])
    for camera in ("left", ""):  # known, and a camera of unknown focal
        request = Localize.Request(image=image_message(sequence.images[index], stamp), camera=camera)
        answer = recorder.call(Localize, "localize", request)
        assert answer.success, answer.message
        assert np.linalg.norm(pose_of(answer.pose.pose.pose)[:3, 3] - truth[stamp, "left"][:3, 3]) < 0.1
        assert answer.focal == pytest.approx(sequence.focal, rel=0.05)
        assert answer.inliers >= 12
    blank = np.zeros_like(sequence.images[0])
    answer = recorder.call(Localize, "localize", Localize.Request(image=image_message(blank, stamp), camera="left"))
    assert not answer.success and answer.message

    for kind, name in (("ply", "map.ply"), ("tum", "poses.txt"), ("colmap", "model"), ("grid", "grid.yaml")):
        answer = recorder.call(ExportMap, "export_map", ExportMap.Request(path=str(tmp_path / name), format=kind), 60)
        assert answer.success, answer.message
        assert (tmp_path / name).exists()
    answer = recorder.call(ExportMap, "export_map", ExportMap.Request(path=str(tmp_path / "x"), format="dxf"))
    assert not answer.success and "dxf" in answer.message

    saved = tmp_path / "saved.db"
    assert recorder.call(SaveMap, "save_map", SaveMap.Request(path=str(saved))).success
    keyframes = status.keyframes
    assert len(load_map(saved).keyframes) == keyframes
    answer = recorder.call(SetScale, "set_scale", SetScale.Request(factor=-1.0))
    assert not answer.success and "factor" in answer.message
    answer = recorder.call(SetScale, "set_scale", SetScale.Request(factor=2.0))
    assert answer.success, answer.message
    bench.status(lambda s: s.revision > status.revision, "the map is rescaled at once")

    assert recorder.call(Trigger, "reset", Trigger.Request()).success
    bench.status(lambda s: s.keyframes == 0 and s.resets == 1, "the map is gone")
    answer = recorder.call(LoadMap, "load_map", LoadMap.Request(path=str(saved), mode="localization"), 60)
    assert answer.success, answer.message
    now = bench.status(lambda s: s.keyframes == keyframes and s.mode == "localization", "the saved map is back")
    assert now.scale_state == "metric"
    answer = recorder.call(LoadMap, "load_map", LoadMap.Request(path=str(tmp_path / "none.db")))
    assert not answer.success and "none.db" in answer.message
    assert math.isfinite(now.memory_mb)
    assert isinstance(newest, TransformStamped)
