"""Cameras, companions, odometry and IMU over real DDS: which arrivals come out, and with what."""

from __future__ import annotations

import time
from array import array
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu
from tf2_msgs.msg import TFMessage

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import ConfigError
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, pose
from dust3r_ros.node import inputs as inputs_module
from dust3r_ros.node import topics
from dust3r_ros.node.conversions import frame_of, header, pose_message, transform_message
from dust3r_ros.node.inputs import Inputs
from dust3r_ros.node.qos import tf_profile
from dust3r_ros.node.tf_listener import TfListener, TransformSender
from dust3r_ros.node.tools.domains import free_domain, release_domain
from dust3r_ros.node.tools.recorder import Spinner
from dust3r_ros.node.topics import all_camera_topics

MS = 1_000_000
HEIGHT, WIDTH = 12, 16
QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)


class Robot:
    """A node with inputs, and another one that plays the robot."""

    def __init__(self, overrides: tuple[str, ...], config: dict[str, Any]) -> None:
        self._context, self._domain = Context(), free_domain()
        arguments = ["--ros-args", *(part for override in overrides for part in ("-p", override))]
        rclpy.init(
            context=self._context, args=arguments, domain_id=self._domain,
            signal_handler_options=SignalHandlerOptions.NO,
        )  # fmt: skip
        self.node, self.robot = (
            rclpy.create_node(name, context=self._context, start_parameter_services=False) for name in ("ours", "robot")
        )
        self.arrivals: list[Any] = []
        self.calibrations: list[Any] = []
        config = NodeConfig(**{"image_reliability": "reliable", "image_depth": 50, **config})
        listener = TfListener(self.node, TransformSender(self.node))
        listener.subscribe()
        cameras = all_camera_topics(config, self.node.resolve_topic_name)
        self.inputs = Inputs(
            self.node, config, cameras, listener, self.arrivals.append, lambda *item: self.calibrations.append(item)
        )
        self.listener = listener
        self._publishers: dict[Any, Any] = {}
        self._spinner = Spinner(self._context, self.node, self.robot)

    def start(self) -> Robot:
        self.inputs.subscribe()
        self._spinner.start()
        return self

    def send(self, topic: str, message: Any, qos: QoSProfile = QOS) -> None:
        key = topic, type(message)
        if key not in self._publishers:
            publisher = self._publishers[key] = self.robot.create_publisher(type(message), topic, qos)
            self.until(lambda: publisher.get_subscription_count() > 0, f"a subscription to {topic}")
        self._publishers[key].publish(message)

    def transform(self, parent: str, child: str, p_T_c: Any, stamp_ns: int = 0, static: bool = False) -> None:
        message: TransformStamped = transform_message(p_T_c, stamp_ns, parent, child)
        self.send("/tf_static" if static else "/tf", TFMessage(transforms=[message]), tf_profile(static))
        now = self.listener.buffer
        self.until(lambda: isinstance(now.lookup(parent, child, stamp_ns), np.ndarray), f"{parent} -> {child}")

    def come(self, count: int) -> list[Any]:
        self.until(lambda: len(self.arrivals) >= count, f"{count} arrivals")
        return self.arrivals

    def heard(self, kind: str, count: int = 1) -> None:
        """Messages of a kind came; those of different topics may overtake each other."""
        self.until(
            lambda: sum(item.count for item in self.inputs.health() if item.kind == kind) >= count, f"{count} {kind}"
        )

    def until(self, check: Any, what: str, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < end, f"not within {seconds} s: {what}"
            time.sleep(0.005)

    def close(self) -> None:
        self._spinner.stop()
        release_domain(self._domain)


@pytest.fixture
def robot():
    made: list[Robot] = []

    def make(overrides: tuple[str, ...] = (), **config: Any) -> Robot:
        made.append(Robot(overrides, config))
        return made[-1]

    yield make
    for item in made:
        item.close()


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def image(stamp_ns: int, frame: str = "lens", seed: int = 0) -> Image:
    message = Image(header=header(stamp_ns, frame), height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    message.data = array("B", pixels(seed).tobytes())
    return message


def plane(stamp_ns: int, values: np.ndarray, encoding: str, frame: str = "lens") -> Image:
    height, width = values.shape
    step = width * values.itemsize
    message = Image(header=header(stamp_ns, frame), height=height, width=width, encoding=encoding, step=step)
    message.data = array("B", values.tobytes())
    return message


def calibration(focal: float, frame: str = "lens", width: int = WIDTH, height: int = HEIGHT) -> CameraInfo:
    message = CameraInfo(header=header(0, frame), width=width, height=height)
    message.k[0] = message.k[4] = focal
    message.k[2], message.k[5], message.k[8] = (width - 1) / 2, (height - 1) / 2, 1.0
    return message


def test_an_image_and_its_calibration(robot):
    r = robot().start()
    r.send("/camera/camera_info", calibration(0.0))
    r.send("/camera/camera_info", calibration(20.0))
    r.send("/camera/camera_info", calibration(20.0))
    r.heard("camera_info", 3)
    r.send("/camera/image_raw", image(7, seed=3))
    (arrival,) = r.come(1)
    assert (arrival.camera, arrival.stamp_ns, arrival.frame_id, arrival.anchor_T_c) == ("camera", 7, "lens", None)
    frame, missing = frame_of(arrival)
    np.testing.assert_array_equal(frame.image, pixels(3))
    assert (frame.stamp_ns, frame.camera, frame.mask, frame.depth, frame.o_T_c, frame.up) == (7, "camera", *[None] * 4)
    assert missing == ()
    assert [(name, item.fx, item.width) for name, item in r.calibrations] == [("camera", 20.0, WIDTH)], "once"
    counts = {(item.kind, item.count) for item in r.inputs.health()}
    assert ("image", 1) in counts


def test_compressed_images_and_a_named_frame(robot):
    r = robot(image_topic="/front/image_raw/compressed", camera_frame="other").start()
    data = cv2.imencode(".png", pixels(1)[..., ::-1])[1].tobytes()
    r.send(
        "/front/image_raw/compressed", CompressedImage(header=header(7, "lens"), format="png", data=array("B", data))
    )
    (arrival,) = r.come(1)
    assert (arrival.camera, arrival.frame_id) == ("front", "other")
    np.testing.assert_array_equal(frame_of(arrival)[0].image, pixels(1))


def test_two_cameras_in_the_order_of_stamps_with_mask_and_depth(robot):
    r = robot(
        image_topics=("/left/image_raw", "/right/image_raw"),
        mask_topics=("/left/mask", ""),
        depth_topics=("", "/right/depth/image_rect"),
        companion_wait=5.0,
        backlog="every",
    ).start()
    mask = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3 == 0).astype(np.uint8)
    depth = np.full((HEIGHT // 2, WIDTH // 2), 1500, np.uint16)
    r.send("/left/mask", plane(0, mask, "mono8"))  # heard: from now on they are waited for
    r.send("/right/depth/image_rect", plane(0, depth, "16UC1"))
    r.heard("mask")
    r.heard("depth")
    r.send("/left/image_raw", image(100 * MS, "left"))
    r.send("/right/image_raw", image(90 * MS, "right", seed=1))
    time.sleep(0.1)
    assert r.arrivals == []
    r.send("/right/depth/image_rect", plane(90 * MS, depth, "16UC1", "right"))
    r.send("/left/mask", plane(100 * MS, mask, "mono8", "left"))
    right, left = r.come(2)
    assert [(right.camera, right.stamp_ns), (left.camera, left.stamp_ns)] == [("right", 90 * MS), ("left", 100 * MS)]
    np.testing.assert_array_equal(frame_of(left)[0].mask, mask)
    frame, missing = frame_of(right)
    np.testing.assert_allclose(frame.depth, 1.5)
    assert frame.mask is None and missing == () and r.inputs.incomplete == 0


def test_a_mask_that_does_not_come_is_not_waited_for_forever(robot):
    r = robot(mask_topics=("/camera/mask",), companion_wait=0.2).start()
    r.send("/camera/image_raw", image(0))
    r.come(1)  # nothing was heard of masks yet
    r.send("/camera/mask", plane(0, np.zeros((HEIGHT, WIDTH), np.uint8), "mono8"))
    r.heard("mask")
    r.send("/camera/image_raw", image(500 * MS))
    frame, missing = frame_of(r.come(2)[1])
    assert frame.mask is None and missing == (), "counted, not logged with every image"
    assert r.inputs.incomplete == 1


def test_depth_of_another_camera_becomes_points_in_the_frame_of_the_images(robot):
    r = robot(depth_topics=("/tof/image_rect",), companion_wait=5.0).start()
    c_T_d = pose(np.eye(3), [0.5, 0.0, 0.0])
    r.transform("lens", "tof", c_T_d, static=True)
    info = calibration(20.0, "tof", 8, 6)  # of the raw camera; the rectified one is in P
    info.d, info.p[0], info.p[5], info.p[2], info.p[6] = [-0.3, 0.1, 0.0, 0.0, 0.0], 10.0, 10.0, 3.5, 2.5
    r.send("/tof/camera_info", info)
    r.heard("depth_info")
    depth = np.zeros((6, 8), np.float32)
    depth[2, 3] = 2.0
    r.send("/tof/image_rect", plane(MS, depth, "32FC1", "tof"))
    r.heard("depth")
    r.send("/camera/image_raw", image(MS))
    frame, missing = frame_of(r.come(1)[0])
    assert frame.depth is None and missing == ()
    np.testing.assert_allclose(frame.points, [[0.5 + (3 - 3.5) / 10 * 2, (2 - 2.5) / 10 * 2, 2.0]], atol=1e-6)


def test_odometry_by_tf_is_waited_for(robot):
    r = robot(odom_frame="odom", companion_wait=5.0).start()
    r.transform("base", "lens", pose(BODY_T_OPTICAL[:3, :3], [0.2, 0, 0]), static=True)
    r.transform("odom", "base", pose(np.eye(3), [1.0, 0, 0]), 100 * MS)
    r.send("/camera/image_raw", image(100 * MS))
    r.come(1)
    r.send("/camera/image_raw", image(150 * MS))
    time.sleep(0.1)
    assert len(r.arrivals) == 1
    r.transform("odom", "base", pose(np.eye(3), [2.0, 0, 0]), 200 * MS)
    first, second = r.come(2)
    assert frame_of(first)[0].o_T_c[0, 3] == pytest.approx(1.2)
    np.testing.assert_allclose(frame_of(second)[0].o_T_c, pose(BODY_T_OPTICAL[:3, :3], [1.7, 0, 0]), atol=1e-9)
    np.testing.assert_array_equal(second.anchor_T_c, frame_of(second)[0].o_T_c)


def test_odometry_by_topic_and_what_is_wrong_with_it(robot):
    r = robot(odom_frame="odom", odom_topic="/wheels", companion_wait=5.0).start()
    r.transform("base", "lens", np.eye(4), static=True)
    wrong = Odometry(header=header(100 * MS, "world"), child_frame_id="base")
    r.send("/wheels", wrong)
    right = Odometry(header=header(100 * MS, "odom"), child_frame_id="base")
    right.pose.pose = pose_message(pose(np.eye(3), [3.0, 0, 0]))
    r.send("/wheels", right)
    r.heard("odometry", 2)
    r.send("/camera/image_raw", image(100 * MS))
    (arrival,) = r.come(1)
    np.testing.assert_allclose(frame_of(arrival)[0].o_T_c, pose(np.eye(3), [3.0, 0, 0]))
    (health,) = (item for item in r.inputs.health() if item.kind == "odometry")
    assert health.bad == 1 and "its frame is 'world', but odom_frame is 'odom'" in health.reason


def test_a_base_without_odometry_gives_the_anchor_only(robot):
    r = robot(base_frame="base").start()
    r.transform("base", "lens", pose(np.eye(3), [0.2, 0, 0]), static=True)
    r.send("/camera/image_raw", image(100 * MS))
    (arrival,) = r.come(1)
    np.testing.assert_allclose(arrival.anchor_T_c, pose(np.eye(3), [0.2, 0, 0]))
    assert frame_of(arrival)[0].o_T_c is None


def test_an_imu_tells_what_is_up(robot):
    r = robot(imu_topic="/imu").start()
    r.transform("imu", "lens", BODY_T_OPTICAL, static=True)
    for k in range(40):
        message = Imu(header=header(k * 10 * MS, "imu"))
        message.linear_acceleration.z = 9.81
        r.send("/imu", message)
    bad = Imu(header=header(400 * MS, "imu"))
    bad.linear_acceleration_covariance[0] = bad.angular_velocity_covariance[0] = -1.0
    r.send("/imu", bad)
    r.heard("imu", 41)
    r.send("/camera/image_raw", image(390 * MS))
    np.testing.assert_allclose(frame_of(r.come(1)[0])[0].up, [0, -1, 0], atol=1e-6)
    (health,) = (item for item in r.inputs.health() if item.kind == "imu")
    assert (health.bad, health.reason) == (1, "/imu has no acceleration; it is not used")


def test_a_gyroscope_alone_turns_the_camera(robot):
    r = robot(imu_topic="/imu").start()
    r.transform("imu", "lens", np.eye(4), static=True)
    for k in range(30):
        message = Imu(header=header(k * 10 * MS, "imu"))
        message.angular_velocity.z = 1.0
        message.linear_acceleration_covariance[0] = -1.0
        r.send("/imu", message)
    r.heard("imu", 30)
    r.send("/camera/image_raw", image(200 * MS))
    (arrival,) = r.come(1)
    axes = arrival.turning(200 * MS).g_R_x
    np.testing.assert_allclose(axes[:2, 0], [np.cos(0.2), np.sin(0.2)], atol=1e-6)
    assert frame_of(arrival)[0].up is None
    assert not [item for item in r.inputs.health() if item.bad]


def test_depth_that_is_never_at_an_image_is_said(robot):
    """Two clocks, or a depth camera that is not triggered: the scale stayed unknown, and all seemed well."""
    r = robot(depth_topics=("/camera/depth",)).start()
    depth = np.full((HEIGHT, WIDTH), 1500, np.uint16)

    def come(first: int, shift_ns: int) -> str:
        for k in range(first, first + 35):
            r.send("/camera/depth", plane(100 * k * MS + shift_ns, depth, "16UC1"))
            r.heard("depth", k + 1)
            r.send("/camera/image_raw", image(100 * k * MS))
            r.heard("image", k + 1)
        (health,) = (item for item in r.inputs.health() if item.kind == "depth")
        return "" if health.well else health.reason

    assert "no stamp of an image is within 20 ms" in come(0, 40 * MS)
    assert come(35, 0) == ""


def test_depth_stamped_as_its_image_is_registered_whatever_camera_frame_says(robot):
    """Gazebo stamps both with camera_link, whose axes are not optical."""
    r = robot(camera_frame="optical", depth_topics=("/camera/depth",), companion_wait=5.0).start()
    r.transform("camera_link", "optical", BODY_T_OPTICAL, static=True)
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    r.send("/camera/depth", plane(MS, depth, "32FC1", "/camera_link"))
    r.heard("depth")
    r.send("/camera/image_raw", image(MS, "camera_link"))
    frame, missing = frame_of(r.come(1)[0])
    assert missing == () and frame.points is None
    np.testing.assert_array_equal(frame.depth, depth)


@pytest.mark.parametrize("shared, owner", [("camera", "a"), ("b_optical_frame", "b")])
def test_cameras_with_one_frame_id_are_not_taken_for_one(robot, monkeypatch, capfd, shared, owner):
    """As usb_cam and v4l2_camera stamp by default; the one listed first may be heard last."""
    monkeypatch.setattr(inputs_module, "WATCH_S", 0.05)
    r = robot(image_topics=("/a/image", "/b/image"), companion_wait=0.0).start()
    r.transform("base", shared, pose(np.eye(3), [0.0, 0.1, 0]), static=True)
    r.send("/b/image", image(MS, shared))
    r.come(1)
    assert r.inputs.optical_frame("b") == shared and r.inputs.problems == ()
    r.send("/a/image", image(2 * MS, shared))
    r.send("/b/image", image(3 * MS, shared))
    frames = {arrival.camera: arrival.frame_id for arrival in r.come(3)}
    other = "b" if owner == "a" else "a"
    assert frames == {owner: shared, other: f"{other}_optical_frame"}
    assert {name: r.inputs.optical_frame(name) for name in "ab"} == frames
    assert r.inputs.rig() == {}, "nothing is known of where the other camera is"
    (problem,) = r.inputs.problems
    assert f"camera '{other}' has the frame_id '{shared}'" in problem and f"'{other}_optical_frame'" in problem
    said = []
    r.until(lambda: said.append(capfd.readouterr().err) or problem in "".join(said), "it is logged")


def test_the_rig_of_static_tf(robot):
    r = robot(image_topics=("/a/image", "/b/image", "/c/image")).start()
    r.transform("base", "a", pose(np.eye(3), [0.0, 0.1, 0]), static=True)
    assert r.inputs.rig() == {}
    r.transform("base", "b", pose(np.eye(3), [0.0, -0.1, 0]), static=True)
    for name in "abc":
        r.send(f"/{name}/image", image(MS, name))
    r.come(3)
    rig = r.inputs.rig()
    assert set(rig) == {"a", "b"}, "nothing is known of c"
    np.testing.assert_array_equal(rig["a"], np.eye(4))
    np.testing.assert_allclose(rig["b"], pose(np.eye(3), [0, -0.2, 0]))
    assert r.inputs.optical_frame("c") == "c"


def test_a_camera_that_was_unplugged_and_is_back(robot, monkeypatch):
    r = robot().start()
    r.send("/camera/image_raw", image(MS))
    r.come(1)
    monkeypatch.setattr(topics, "SILENT_S", 0.05)
    time.sleep(0.1)
    (health,) = (item for item in r.inputs.health() if item.kind == "image")
    assert health.silent and health.silent_s > 0.05 and health.rate_hz == 0.0
    r.send("/camera/image_raw", image(2 * MS))
    r.come(2)
    (health,) = (item for item in r.inputs.health() if item.kind == "image")
    assert (health.returns, health.silent) == (1, False)


def test_deactivated_it_listens_no_more_and_can_begin_again(robot):
    r = robot().start()
    r.send("/camera/image_raw", image(MS))
    r.come(1)
    r.inputs.unsubscribe()
    r.until(lambda: r.robot.count_subscribers("/camera/image_raw") == 0, "nobody listens")
    r.inputs.subscribe()
    r.until(lambda: r.robot.count_subscribers("/camera/image_raw") == 1, "somebody listens")
    r.until(lambda: next(iter(r._publishers.values())).get_subscription_count() == 1, "they know each other")
    r.send("/camera/image_raw", image(2 * MS))
    r.come(2)


def test_qos_follows_parameters_and_overrides(robot):
    r = robot(
        ("qos_overrides./camera/camera_info.subscription.reliability:=reliable",
         "qos_overrides./camera/image_raw.subscription.depth:=3"),
        image_reliability="best_effort",
    ).start()  # fmt: skip

    def profile(topic):
        (info,) = r.robot.get_subscriptions_info_by_topic(topic)
        return info.qos_profile

    r.until(
        lambda: all(r.robot.count_subscribers(f"/camera/{name}") == 1 for name in ("image_raw", "camera_info")),
        "both subscriptions",
    )
    assert profile("/camera/image_raw").reliability == ReliabilityPolicy.BEST_EFFORT
    assert profile("/camera/image_raw").durability == DurabilityPolicy.VOLATILE
    assert profile("/camera/camera_info").reliability == ReliabilityPolicy.RELIABLE
    assert r.node.get_parameter("qos_overrides./camera/image_raw.subscription.depth").value == 3


BEST_EFFORT = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


def listens(r, reliability):
    infos = r.node.get_subscriptions_info_by_topic("/camera/image_raw")
    return [info.qos_profile.reliability for info in infos] == [reliability]


def test_a_subscription_follows_what_publishers_offer(robot, monkeypatch):
    """A best-effort camera comes after the node, then a reliable one takes its place."""
    monkeypatch.setattr(inputs_module, "WATCH_S", 0.05)
    r = robot(image_reliability="best_available").start()
    assert listens(r, ReliabilityPolicy.RELIABLE)
    r.send("/camera/image_raw", image(MS), BEST_EFFORT)
    r.come(1)
    assert listens(r, ReliabilityPolicy.BEST_EFFORT)
    r.robot.destroy_publisher(r._publishers.popitem()[1])
    r.until(lambda: listens(r, ReliabilityPolicy.RELIABLE), "with no publisher it is reliable again")
    r.send("/camera/image_raw", image(2 * MS))
    r.come(2)


def test_an_override_of_the_reliability_stays(robot, monkeypatch):
    monkeypatch.setattr(inputs_module, "WATCH_S", 0.05)
    r = robot(
        ("qos_overrides./camera/image_raw.subscription.reliability:=reliable",), image_reliability="best_available"
    ).start()
    publisher = r.robot.create_publisher(Image, "/camera/image_raw", BEST_EFFORT)
    r.until(lambda: r.node.count_publishers("/camera/image_raw") == 1, "the camera is known")
    time.sleep(0.2)
    assert listens(r, ReliabilityPolicy.RELIABLE) and publisher.get_subscription_count() == 0


def test_images_lost_on_the_way_are_counted_and_explained_once(robot, monkeypatch, capfd):
    monkeypatch.setattr(inputs_module, "WATCH_S", 0.05)
    r = robot().start()
    stamps = [10**18 + k * 33 * MS for k in range(120) if k % 4]  # a fourth is missing
    for count, stamp in enumerate(stamps, 1):
        r.send("/camera/image_raw", image(stamp))
        r.come(count)
    (health,) = (item for item in r.inputs.health() if item.kind == "image")
    assert 20 <= health.lost <= 30
    said = ""

    def explained():
        nonlocal said
        said += capfd.readouterr().err
        return "Images that get lost" in said

    r.until(explained, "a line in the log")
    time.sleep(0.2)
    explained()
    assert said.count("Images that get lost") == 1 and "% of the images on /camera/image_raw" in said
    r.inputs.restart()
    (health,) = (item for item in r.inputs.health() if item.kind == "image")
    assert health.lost == 0


@pytest.mark.parametrize("value", ["reliability:=nonsense", "depth:=hello"])
def test_an_override_that_cannot_be_is_named(robot, value):
    r = robot((f"qos_overrides./camera/image_raw.subscription.{value}",))
    with pytest.raises(ConfigError, match="qos_overrides of topic '/camera/image_raw' are not valid"):
        r.inputs.subscribe()


def test_a_topic_that_is_given_twice_for_different_things_is_named(robot):
    r = robot(imu_topic="/camera/image_raw")
    with pytest.raises(ConfigError, match="'/camera/image_raw' is given for imu, Imu, but also for Image"):
        r.inputs.subscribe()
    assert r.node.get_subscriptions_info_by_topic("/camera/image_raw") == []


def test_where_one_subscription_cannot_be_none_is_left(robot):
    r = robot(("qos_overrides./camera/camera_info.subscription.reliability:=nonsense",))
    with pytest.raises(ConfigError):
        r.inputs.subscribe()
    assert r.node.get_subscriptions_info_by_topic("/camera/image_raw") == []
