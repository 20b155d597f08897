"""Messages carry exactly what the types hold, and the other way round."""

import time
from array import array

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from messages import points_of
from rclpy.serialization import deserialize_message, serialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from visualization_msgs.msg import Marker

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, pose
from dust3r_ros.node import conversions
from dust3r_ros.types import Calibration, Camera, Keyframe, StampedPose

STAMP = 1_700_000_000_123_456_789


def some_pose(seed=0):
    generator = np.random.default_rng(seed)
    return pose(Rotation.random(random_state=generator.integers(1 << 30)).as_matrix(), generator.normal(size=3))


def cloud(count, seed=0):
    generator = np.random.default_rng(seed)
    return Cloud(
        generator.normal(size=(count, 3)).astype(np.float32),
        generator.integers(0, 256, (count, 3), dtype=np.uint8),
        generator.uniform(1, 100, count).astype(np.float32),
    )


@pytest.mark.parametrize("stamp_ns", [0, 1, 999_999_999, 1_000_000_000, STAMP, (2**31 - 1) * 10**9 + 999_999_999, -1])
def test_stamps_stay_integers(stamp_ns):
    message = conversions.ns_to_stamp(stamp_ns)
    assert 0 <= message.nanosec < 10**9
    assert conversions.stamp_to_ns(message) == stamp_ns


def test_stamp_of_the_largest_message():
    assert conversions.stamp_to_ns(Time(sec=2**31 - 1, nanosec=999_999_999)) == (2**31) * 10**9 - 1


def test_an_image_message_is_decoded_with_its_stride():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    rows = np.hstack([pixels[..., ::-1].reshape(5, 21), np.full((5, 3), 9, np.uint8)])
    message = Image(height=5, width=7, encoding="bgr8", step=24, data=array("B", rows.tobytes()))
    np.testing.assert_array_equal(conversions.image_of(message), pixels)


def test_a_compressed_message_is_decoded():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    data = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    message = CompressedImage(format="png", data=array("B", data))
    np.testing.assert_array_equal(conversions.image_of(message), pixels)


@pytest.mark.parametrize("message", [Image(encoding="rgb8"), CompressedImage(format="jpeg")])
def test_an_empty_message_is_refused_with_a_reason(message):
    with pytest.raises(InputError, match="empty"):
        conversions.image_of(message)


@pytest.mark.parametrize("sizes", [[], [0], [1], [3, 0, 5]])
def test_a_cloud_survives_the_wire(sizes):
    parts = [cloud(size, seed) for seed, size in enumerate(sizes)]
    sent = conversions.cloud_message([conversions.pack(part) for part in parts], STAMP, "map")
    message = deserialize_message(serialize_message(sent), PointCloud2)
    points, colors, confidence = points_of(message)
    count = sum(sizes)
    assert (message.width, message.height, message.row_step) == (count, 1, count * message.point_step)
    assert len(message.data) == message.row_step
    assert message.header.frame_id == "map"
    assert conversions.stamp_to_ns(message.header.stamp) == STAMP
    if count:
        np.testing.assert_array_equal(points, np.concatenate([part.points for part in parts]))
        np.testing.assert_array_equal(colors, np.concatenate([part.colors for part in parts]))
        np.testing.assert_array_equal(confidence, np.concatenate([part.confidence for part in parts]))


def test_a_cloud_lies_as_its_fields_say():
    """Read by the fields alone, as RViz and PCL do: float32 x, y, z and rgb packed as 0x00RRGGBB."""
    given = Cloud(np.array([[1, 2, 3]], np.float32), np.array([[10, 20, 30]], np.uint8), np.array([4], np.float32))
    message = conversions.cloud_message([conversions.pack(given)], STAMP, "map")
    raw = bytes(message.data)
    offsets = {field.name: field.offset for field in message.fields}
    assert all(field.datatype == 7 and field.count == 1 for field in message.fields)
    values = [np.frombuffer(raw, "<f4", 1, offsets[name])[0] for name in ("x", "y", "z", "confidence")]
    assert values == [1, 2, 3, 4]
    assert int.from_bytes(raw[offsets["rgb"] : offsets["rgb"] + 4], "little") == 0x0A141E


def test_a_large_cloud_is_made_without_looping_over_its_points():
    packed = conversions.pack(cloud(1_000_000))
    start = time.process_time()
    conversions.cloud_message([packed] * 2, STAMP, "map")
    assert time.process_time() - start < 1.0  # a Python loop over 40 MB takes longer by far


def test_camera_info_is_that_of_the_native_image():
    camera = Camera("front", 641, 480, 512.5, 3.0, 4)
    message = conversions.camera_info_message(camera.calibration, STAMP, "front_optical")
    assert (message.width, message.height, message.distortion_model) == (641, 480, "plumb_bob")
    assert list(message.d) == [0.0] * 5
    np.testing.assert_array_equal(message.k.reshape(3, 3), [[512.5, 0, 320], [0, 512.5, 239.5], [0, 0, 1]])
    np.testing.assert_array_equal(message.r.reshape(3, 3), np.eye(3))
    np.testing.assert_array_equal(message.p.reshape(3, 4)[:, :3], message.k.reshape(3, 3))
    np.testing.assert_array_equal(message.p.reshape(3, 4)[:, 3], 0)


def test_camera_info_describes_the_raw_image():
    camera = Camera("front", 640, 480, 500.0, principal_offset=(3.0, -2.0), distortion=(0.1, -0.02, 0.0, 0.0, 0.003))
    message = conversions.camera_info_message(camera.calibration, STAMP, "front_optical")
    assert list(message.d) == [0.1, -0.02, 0, 0, 0.003]
    np.testing.assert_array_equal(message.k.reshape(3, 3), [[500, 0, 322.5], [0, 500, 237.5], [0, 0, 1]])
    np.testing.assert_array_equal(message.p.reshape(3, 4)[:, :3], message.k.reshape(3, 3))


def test_camera_info_keeps_another_model_and_pixels_that_are_not_square():
    known = Calibration(640, 480, 500.0, 510.0, 320.0, 240.0, "equidistant", (0.1, 0.2, 0.3, 0.4))
    message = conversions.camera_info_message(known, STAMP, "front_optical")
    assert (message.distortion_model, list(message.d)) == ("equidistant", [0.1, 0.2, 0.3, 0.4])
    assert (message.k[0], message.k[4], message.p[5]) == (500.0, 510.0, 510.0)


def test_pose_and_transform_agree():
    w_T_c = some_pose()
    pose_message = conversions.pose_message(w_T_c)
    transform = conversions.transform_message(w_T_c, STAMP, "map", "camera")
    q = pose_message.orientation
    np.testing.assert_allclose(Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix(), w_T_c[:3, :3], atol=1e-12)
    assert transform.transform.rotation == q
    t = transform.transform.translation
    np.testing.assert_array_equal([t.x, t.y, t.z], w_T_c[:3, 3])
    assert (transform.header.frame_id, transform.child_frame_id) == ("map", "camera")


def test_covariance_is_turned_into_the_axes_of_the_map():
    """The first camera looks along x: unsure along its viewing direction z means unsure along x of the map."""
    covariance = np.diag([1.0, 2.0, 9.0, 0.1, 0.2, 0.9])
    message = conversions.pose_with_covariance(BODY_T_OPTICAL, covariance, STAMP, "map")
    turned = np.array(message.pose.covariance).reshape(6, 6)
    np.testing.assert_allclose(turned, np.diag([9.0, 1.0, 2.0, 0.9, 0.1, 0.2]), atol=1e-12)


def test_a_path_has_all_poses_given():
    trajectory = [StampedPose(index, "camera", np.eye(4)) for index in range(7)]
    path = conversions.path_message(trajectory, STAMP, "map")
    assert [conversions.stamp_to_ns(item.header.stamp) for item in path.poses] == list(range(7))
    assert conversions.path_message([], STAMP, "map").poses == []


def keyframe(index, w_T_c):
    zeros = np.zeros((2, 3), np.float32)
    return Keyframe(index, 1, STAMP, "camera", w_T_c, 5.0, np.zeros((2, 3, 3), np.uint8), zeros, zeros + 1)


def test_graph_draws_the_pairs_whose_keyframes_exist():
    places = {index: some_pose(index)[:3, 3] for index in (0, 2, 5)}
    old, nodes, lines, *numbers = conversions.graph_markers(
        places, [(0, 2, 1.0), (2, 5, 2.0), (5, 9, 1.0)], STAMP, "map", 0.1
    ).markers
    centers = [[point.x, point.y, point.z] for point in nodes.points]
    np.testing.assert_allclose(centers, list(places.values()))
    assert len(lines.points) == len(lines.colors) == 4
    assert lines.points[2:] == nodes.points[1:]
    assert lines.colors[3].g > lines.colors[0].g
    assert old.action == Marker.DELETEALL, "of the last message, a number may be gone"
    assert [(marker.ns, marker.text) for marker in numbers] == [("numbers", text) for text in ("0", "2", "5")]
    above = numbers[1].pose.position
    np.testing.assert_allclose([above.x, above.y, above.z], places[2] + [0.0, 0.0, 0.1])


def test_of_a_large_map_some_keyframes_are_numbered():
    places = {3 * index: np.full(3, index, float) for index in range(1000)}
    for count in (0, 1, 100, 1000):
        some = dict(list(places.items())[:count])
        _, nodes, _, *numbers = conversions.graph_markers(some, [], STAMP, "map", 0.1).markers
        assert len(nodes.points) == count and min(count, 50) <= len(numbers) <= 100
        assert {int(marker.text) for marker in numbers} <= some.keys()


def test_depth_is_nan_where_there_is_none():
    depth = np.array([[0, 1.5, 2], [3, 0, 4]], np.float32)
    frame = keyframe(0, np.eye(4))
    frame = Keyframe(0, 1, STAMP, "camera", frame.w_T_c, 5.0, frame.image, depth, frame.confidence)
    message = conversions.depth_message(frame, "optical")
    assert (message.encoding, message.step, message.header.frame_id) == ("32FC1", 12, "optical")
    got = np.frombuffer(message.data, "<f4").reshape(2, 3)
    np.testing.assert_array_equal(got, np.where(depth > 0, depth, np.nan))
