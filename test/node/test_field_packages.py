"""What is ours because bags are read without ROS gives what the field's packages give, where those are installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from messages import points_of, pose_of
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.io.encodings import SUPPORTED
from dust3r_ros.node.conversions import cloud_message, image_of, ns_to_stamp, pack, transform_message
from dust3r_ros.sensors.transform_buffer import TransformBuffer, Unavailable

S = 10**9


def optional(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} comes with a full ROS 2 only")


def some_pose(rng: np.random.Generator) -> np.ndarray:
    return pose(Rotation.random(None, rng).as_matrix(), rng.normal(size=3))


@pytest.mark.parametrize("seed", range(5))
def test_transforms_are_those_of_tf2(seed: int) -> None:
    """A tree of moving and static frames: between samples, across branches, and where nothing is known."""
    tf2_ros = optional("tf2_ros")
    from rclpy.time import Time

    rng = np.random.default_rng(seed)
    ours, theirs = TransformBuffer(), tf2_ros.Buffer()
    frames = [f"f{index}" for index in range(7)]
    for index in range(1, len(frames)):
        parent, static = frames[rng.integers(index)], index > 1 and bool(rng.integers(2))
        start = some_pose(rng)
        for step in range(1 if static else 11):
            turned = start.copy()
            turned[:3, :3] = start[:3, :3] @ Rotation.from_rotvec(0.05 * step * rng.normal(size=3)).as_matrix()
            turned[:3, 3] += 0.1 * step
            stamp_ns = 5 * S + step * S // 10
            assert ours.add(parent, frames[index], stamp_ns, turned, static) == ""
            message: TransformStamped = transform_message(turned, stamp_ns, parent, frames[index])
            (theirs.set_transform_static if static else theirs.set_transform)(message, "test")
    for stamp_ns in (5 * S, 5 * S + 37_000_001, 5 * S + 555_555_555, 6 * S):
        for target in frames:
            for source in frames:
                answer = ours.lookup(target, source, stamp_ns)
                assert not isinstance(answer, Unavailable), answer
                stamp = Time.from_msg(ns_to_stamp(stamp_ns))
                found = pose_of(theirs.lookup_transform_core(target, source, stamp).transform)
                np.testing.assert_allclose(answer, found, atol=1e-6)
    assert isinstance(ours.lookup("f0", "f1", 8 * S), Unavailable)
    with pytest.raises(tf2_ros.ExtrapolationException):
        theirs.lookup_transform_core("f0", "f1", Time.from_msg(ns_to_stamp(8 * S)))
    assert isinstance(ours.lookup("f0", "nowhere", 5 * S), Unavailable)
    with pytest.raises(tf2_ros.LookupException):
        theirs.lookup_transform_core("f0", "nowhere", Time.from_msg(ns_to_stamp(5 * S)))


def test_clouds_are_those_of_sensor_msgs_py() -> None:
    point_cloud2 = optional("sensor_msgs_py.point_cloud2")
    rng = np.random.default_rng(3)
    cloud = Cloud(
        rng.normal(size=(50, 3)).astype(np.float32),
        rng.integers(0, 256, (50, 3), dtype=np.uint8),
        rng.uniform(1, 5, 50).astype(np.float32),
    )
    message = cloud_message([pack(cloud)], 7 * S + 1, "map")
    read = point_cloud2.read_points(message)
    np.testing.assert_array_equal(np.stack([read["x"], read["y"], read["z"]], 1), points_of(message)[0])
    np.testing.assert_array_equal(read["rgb"].view(np.uint32) & 255, cloud.colors[:, 2])
    made = point_cloud2.create_cloud(message.header, message.fields, read)
    made.is_dense = message.is_dense
    assert made == message


@pytest.mark.parametrize("encoding", SUPPORTED)
def test_images_are_those_of_cv_bridge(encoding: str) -> None:
    optional("cv_bridge.boost.cv_bridge_boost")
    cv_bridge = optional("cv_bridge")
    channels, bits = _shape(encoding)
    data = np.random.default_rng(4).integers(0, 256, (12, 16 * channels * bits // 8), dtype=np.uint8)
    step = 16 * channels * bits // 8
    message = Image(height=12, width=16, encoding=encoding, step=step, data=data.tobytes())
    try:
        theirs = cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8")
    except cv_bridge.CvBridgeError as error:
        pytest.skip(f"cv_bridge does not take {encoding}: {error}")
    # 16 bits: cv_bridge rounds where the lower half is dropped here.
    np.testing.assert_allclose(image_of(message).astype(int), theirs.astype(int), atol=1 if bits == 16 else 0)


def _shape(encoding: str) -> tuple[int, int]:
    """Channels and bits of a pixel."""
    channels = 2 if "yu" in encoding else 1 if encoding.startswith(("mono", "bayer", "8UC1")) else 3
    return 4 if "a8" in encoding and encoding.startswith(("rgba", "bgra")) else channels, 16 if "16" in encoding else 8
