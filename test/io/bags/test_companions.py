"""A robot's bag: cameras in the order of their stamps, each image with what the robot knew then, equal to the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import robot_bag
from robot_bag import CAMERAS, HEIGHT, MS, WIDTH, Robot, camera_in_odometry, camera_on_base, depth_to_left, up_in

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.io.bags.topics import BagTopics
from dust3r_ros.io.image_sources import open_source
from dust3r_ros.types import Calibration, Frame

IMAGES = ("/left/image_raw", "/right/image_raw")
ALL = BagTopics(
    IMAGES, odom_frame="odom", imu="/imu", masks={c: f"/{c}/mask" for c in CAMERAS},
    depths={"left": "/depth/image_rect_raw"},
)  # fmt: skip


@pytest.fixture(scope="module", params=["mcap", "sqlite3", "ros1"])
def bag(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = "run.bag" if request.param == "ros1" else "run"
    return Robot().record(tmp_path_factory.mktemp("robot") / name, request.param)


def frames_of(path: Path, topics: BagTopics) -> list[Frame]:
    source = open_source(path, topics=topics)
    frames = list(source)
    assert (source.skipped, source.incomplete, source.lacking) == (0, 0, "")
    return frames


def test_cameras_come_in_the_order_of_their_stamps(bag: Path) -> None:
    robot = Robot()
    frames = frames_of(bag, BagTopics(IMAGES))
    wanted = sorted((robot.stamp(camera, index), camera, index) for camera in CAMERAS for index in range(6))
    assert [(frame.stamp_ns, frame.camera) for frame in frames] == [entry[:2] for entry in wanted]
    for frame, (_, camera, index) in zip(frames, wanted, strict=True):
        assert np.array_equal(frame.image, robot_bag.image(camera, index))
        assert frame.o_T_c is frame.up is frame.mask is frame.depth is frame.points is None


def test_every_companion_is_the_truth_at_the_stamp_of_the_image(bag: Path) -> None:
    frames = frames_of(bag, ALL)
    assert len(frames) == 12
    for frame in frames:
        index = (frame.stamp_ns - Robot().stamp(frame.camera, 0)) // (100 * MS)
        np.testing.assert_allclose(frame.o_T_c, camera_in_odometry(frame.camera, frame.stamp_ns), atol=1e-4)
        assert frame.up is not None and frame.up @ up_in(frame.camera, frame.stamp_ns) > np.cos(0.005)
        assert np.array_equal(frame.mask, robot_bag.mask(frame.camera, index))
        if frame.camera == "left":
            np.testing.assert_allclose(frame.depth, robot_bag.depth(index), atol=1e-6)
        else:
            assert frame.depth is None
        assert frame.points is None


def test_odometry_messages_do_as_well_as_tf(bag: Path) -> None:
    frames = frames_of(bag, BagTopics(IMAGES, odometry="odom"))
    for frame in frames:
        np.testing.assert_allclose(frame.o_T_c, camera_in_odometry(frame.camera, frame.stamp_ns), atol=1e-4)


def test_depth_of_another_camera_becomes_points(tmp_path: Path) -> None:
    path = Robot(depth_frame="depth_optical").record(tmp_path / "bag")
    frames = frames_of(path, BagTopics(IMAGES[:1], depths={"left": "/depth/image_rect_raw"}))
    for index, frame in enumerate(frames):
        assert frame.depth is None and frame.points is not None and frame.points.dtype == np.float32
        z = robot_bag.depth(index)
        v, u = np.nonzero(z)
        rays = np.stack([(u - 31.0) / 40.0, (v - 24.0) / 40.0, np.ones(len(u))], axis=-1) * z[v, u][:, None]
        c_T_d = depth_to_left()
        truth = rays @ c_T_d[:3, :3].T + c_T_d[:3, 3]
        distance = np.linalg.norm(frame.points[::50, None] - truth[None], axis=2).min(axis=1)
        assert 700 < len(frame.points) <= 2000 and distance.max() < 1e-5


def test_calibrations_and_extrinsics_of_the_recording(bag: Path) -> None:
    source = open_source(bag, topics=BagTopics(IMAGES))
    assert source.calibrations() == {
        "left": Calibration(64, 48, 50.0, 50.0, 31.0, 24.0, "plumb_bob", (0.1, 0.01, 0.0, 0.0, 0.0))
    }
    extrinsics = source.extrinsics()
    np.testing.assert_array_equal(extrinsics["left"], np.eye(4))
    truth = invert(camera_on_base("left")) @ camera_on_base("right")
    np.testing.assert_allclose(extrinsics["right"], truth, atol=1e-12)
    assert open_source(bag, topics=BagTopics(IMAGES[:1])).extrinsics() == {}


def test_cameras_that_say_the_same_frame_are_not_in_one_place(tmp_path: Path) -> None:
    """Their drivers have one default; only where the first one is, is known."""
    path = Robot(right_frame="left_optical").record(tmp_path / "bag")
    source = open_source(path, topics=BagTopics(IMAGES, odom_frame="odom"))
    assert source.extrinsics() == {}
    (said,) = source.remarks
    assert "'right' has the frame_id 'left_optical' of another camera, so 'right_optical_frame' is used" in said
    for frame in source:
        if frame.camera == "left":
            np.testing.assert_allclose(frame.o_T_c, camera_in_odometry("left", frame.stamp_ns), atol=1e-4)
        else:
            assert frame.o_T_c is None
    assert source.incomplete == 6 and "'right_optical_frame' is not on TF" in source.lacking


def test_a_gyroscope_alone_gives_no_gravity(tmp_path: Path) -> None:
    source = open_source(Robot(acceleration=False).record(tmp_path / "bag"), topics=BagTopics(IMAGES, imu="/imu"))
    assert all(frame.up is None for frame in source)
    assert source.lacking == "no direction of gravity for camera 'left': the IMU measures no acceleration"


def test_static_transforms_recorded_last_hold_from_the_start(tmp_path: Path) -> None:
    frames = frames_of(Robot(static_last=True).record(tmp_path / "bag"), ALL)
    np.testing.assert_allclose(frames[0].o_T_c, camera_in_odometry("left", frames[0].stamp_ns), atol=1e-4)


def test_two_readings_are_the_same_to_the_bit(bag: Path) -> None:
    first, second = frames_of(bag, ALL), frames_of(bag, ALL)
    for one, other in zip(first, second, strict=True):
        for name in ("image", "mask", "o_T_c", "up", "depth"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_what_is_missing_is_counted_and_the_image_goes_on(tmp_path: Path) -> None:
    path = Robot(mask_late=1500).record(tmp_path / "late")  # more than an image waits
    source = open_source(path, topics=ALL)
    assert len(list(source)) == 12
    assert 0 < source.incomplete <= 12 and "mask" in source.lacking
    path = Robot(lead=0).record(tmp_path / "early")
    source = open_source(path, topics=BagTopics(IMAGES, odom_frame="nothing"))
    frames = list(source)
    assert len(frames) == source.incomplete == 12 and source.lacking.endswith("frame 'nothing' is not on TF")
    assert all(frame.o_T_c is None for frame in frames)


def test_a_camera_that_falls_silent_does_not_hold_up_the_other(tmp_path: Path) -> None:
    class Half(Robot):
        def messages(self):
            for at, topic, message in super().messages():
                if not (topic == "/right/image_raw" and at > self.stamp("right", 2)):
                    yield at, topic, message

    frames = frames_of(Half(frames=20).record(tmp_path / "bag"), BagTopics(IMAGES))
    assert [frame.camera for frame in frames].count("left") == 20
    assert [frame.stamp_ns for frame in frames] == sorted(frame.stamp_ns for frame in frames)


@pytest.mark.parametrize(
    ("topics", "reason"),
    [
        (BagTopics(), r"has several image topics; choose one.*/left/image_raw"),
        (BagTopics((IMAGES[0], "left/image_raw")), r"'/left/image_raw' is given twice"),
        (BagTopics(IMAGES, ("one",)), r"1 camera names were given for 2"),
        (BagTopics(IMAGES, ("one", "one")), r"camera 'one' is given twice"),
        (BagTopics(IMAGES, masks={"top": "/left/mask"}), r"no camera 'top'; the cameras are left, right"),
        (BagTopics(IMAGES, masks={"left": "/mask"}), r"no topic '/mask'"),
        (BagTopics(IMAGES, imu="/odom"), r"'/odom'.*is of type nav_msgs/msg/Odometry.*are /imu"),
        (BagTopics(IMAGES, odometry="/nowhere"), r"no topic '/nowhere'.*are /odom"),
    ],
)
def test_topics_that_cannot_be_are_refused(bag: Path, topics: BagTopics, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        open_source(bag, topics=topics)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_depth_and_compressed_copies_are_no_second_camera(tmp_path: Path, storage: str) -> None:
    """A bag of an RGB-D camera need not say which of its topics to map."""

    class OneCamera(Robot):
        def messages(self):
            for at, topic, message in super().messages():
                if topic in ("/left/image_raw", "/depth/image_rect_raw"):
                    yield at, topic, message
                if topic == "/left/image_raw":
                    png = cv2.imencode(".png", message.data.reshape(HEIGHT, WIDTH, 3)[..., ::-1])[1]
                    values = {"header": message.header, "format": "rgb8; png compressed bgr8", "data": png.ravel()}
                    yield at, f"{topic}/compressed", self.make("sensor_msgs/msg/CompressedImage", **values)

    path = OneCamera().record(tmp_path / "bag", storage)
    for topics in (BagTopics(), BagTopics(depths={"": "depth/image_rect_raw"})):
        frames = frames_of(path, topics)
        assert [frame.camera for frame in frames] == ["left"] * 6
        assert all(np.array_equal(frame.image, robot_bag.image("left", index)) for index, frame in enumerate(frames))
        assert all((frame.depth is not None) == bool(topics.depths) for frame in frames)


def test_odometry_needs_tf(bags: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"no topic '/tf'"):
        open_source(bags["mcap"], topics=BagTopics(odom_frame="odom"))


def test_nonsense_in_messages_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Nonsense(Robot):
        def messages(self):
            tf = "tf2_msgs/msg/TFMessage"
            nan = np.full((4, 4), np.nan)
            nan[:3, :3] = np.eye(3)
            for at, topic, message in super().messages():
                yield at, topic, message
                if topic == "/tf":
                    loop = self.transform("left_optical", "odom", np.eye(4), at)
                    none = self.transform("odom", "base", nan, at)
                    yield at + 1, "/tf", self.make(tf, transforms=[loop, none])

    path = Nonsense().record(tmp_path / "bag")
    for frame in frames_of(path, ALL):
        np.testing.assert_allclose(frame.o_T_c, camera_in_odometry(frame.camera, frame.stamp_ns), atol=1e-4)
    said = [record.getMessage() for record in caplog.records]
    assert len([words for words in said if "loop" in words]) == 1
    assert len([words for words in said if "nan" in words]) == 1


def test_topics_go_through_a_manifest() -> None:
    topics = BagTopics(IMAGES, CAMERAS, masks={"left": "/left/mask"}, depths={"right": "/depth"})
    assert BagTopics.of(topics.by_camera) == topics
    assert topics.by_camera["left"] == {"image": "/left/image_raw", "mask": "/left/mask"}


class Unfocused(Robot):
    """Its drivers publish a focal length that is none."""

    def info(self, stamp_ns: int, frame: str, focal: float, d: tuple[float, ...]) -> Any:
        return super().info(stamp_ns, frame, float("nan"), d)


def test_a_calibration_that_cannot_be_is_said_once(tmp_path: Path) -> None:
    """It was a warning of the log, which dust3r-map does not show, of every message."""
    source = open_source(Unfocused().record(tmp_path / "bag"), topics=ALL)
    assert not source.calibrations() and not source.calibrations() and list(source)
    said = [words for words in source.remarks if "fx = nan" in words]
    assert sorted(words.split(":")[0] for words in said) == [f"/{of}/camera_info" for of in ("depth", "left", "right")]
    assert all(words.endswith("the camera counts as uncalibrated") for words in said)
