"""What is known of a topic from when its messages came. Names that follow from the image topics."""

from __future__ import annotations

import pytest

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import ConfigError
from dust3r_ros.node.topics import SILENT_S, TopicMonitor, all_camera_topics, camera_topics, is_compressed


def fed(times):
    monitor = TopicMonitor("/camera/image_raw", "image", "camera")
    return monitor, [monitor.heard(time) for time in times]


def test_nothing_came_yet():
    health = TopicMonitor("/t", "image", "c").health(100.0)
    assert (health.topic, health.kind, health.camera) == ("/t", "image", "c")
    assert (health.count, health.rate_hz, health.silent_s, health.silent) == (0, 0.0, None, True)


def test_the_rate_is_that_of_the_newest():
    monitor, _ = fed([k * 1.0 for k in range(50)] + [49.0 + 0.1 * k for k in range(1, 31)])
    health = monitor.health(52.05)
    assert health.rate_hz == pytest.approx(10.0)
    assert (health.count, health.silent) == (80, False)
    assert health.silent_s == pytest.approx(0.05)


def test_unplugged_and_back():
    monitor, silences = fed([0.0, 0.1])
    assert silences == [None, None]
    health = monitor.health(0.1 + SILENT_S + 1)
    assert health.silent and health.rate_hz == 0.0
    assert monitor.heard(10.0) == pytest.approx(9.9)
    assert monitor.heard(10.1) is None
    health = monitor.health(10.1)
    assert (health.returns, health.count) == (1, 4)
    assert health.rate_hz == pytest.approx(10.0), "the silence is not counted in"


def test_messages_at_the_same_moment_have_no_rate():
    monitor, _ = fed([1.0, 1.0])
    assert monitor.health(1.0).rate_hz == 0.0


def test_what_was_refused():
    monitor, _ = fed([0.0])
    monitor.refuse("empty")
    monitor.refuse("too large")
    assert (monitor.health(0.0).bad, monitor.health(0.0).reason) == (2, "too large")
    assert not monitor.health(0.0).well
    monitor.heard(1.0)
    assert monitor.health(1.0).well


@pytest.mark.parametrize(
    ("image", "name", "compressed", "info", "estimated"),
    [
        ("/camera/image_raw", "camera", False, "/camera/camera_info", "/camera/estimated/camera_info"),
        ("/camera/image_raw/compressed", "camera", True, "/camera/camera_info", "/camera/estimated/camera_info"),
        ("/front/left/image", "front/left", False, "/front/left/camera_info", "/front/left/estimated/camera_info"),
        ("/image", "camera", False, "/camera_info", "/camera/estimated/camera_info"),
    ],
)
def test_topics_follow_from_the_image_topic(image, name, compressed, info, estimated):
    topics = camera_topics(NodeConfig(), image)
    assert (topics.name, topics.compressed, topics.camera_info, topics.estimated) == (name, compressed, info, estimated)


def test_parameters_win_over_names():
    topics = camera_topics(NodeConfig(image_transport="compressed", camera_info_topic="/other"), "/camera/image")
    assert (topics.compressed, topics.camera_info) == (True, "/other")
    assert not camera_topics(NodeConfig(image_transport="raw"), "/camera/image/compressed").compressed


def several(**parameters):
    return all_camera_topics(
        NodeConfig(**parameters), lambda topic: topic if topic.startswith("/") else f"/robot/{topic}"
    )


def test_one_camera_is_the_one_of_image_topic():
    (camera,) = several(image_topic="image")
    assert (camera.image, camera.name, camera.space, camera.mask, camera.depth) == (
        "/robot/image",
        "robot",
        "/robot",
        "",
        "",
    )


def test_several_cameras_with_companions_and_names():
    left, right = several(
        image_topics=("left/image_raw", "/right/image_raw/compressed"),
        camera_names=("l", ""),
        mask_topics=("", "/right/mask"),
        depth_topics=("left/depth/image_rect/compressedDepth", ""),
    )
    assert (left.name, left.image, left.estimated) == (
        "l", "/robot/left/image_raw", "/robot/left/estimated/camera_info",
    )  # fmt: skip
    assert (left.depth, left.depth_info) == (
        "/robot/left/depth/image_rect/compressedDepth",
        "/robot/left/depth/camera_info",
    )
    assert is_compressed(left.depth) and not is_compressed(right.mask)
    assert (right.name, right.compressed, right.mask, right.depth, right.depth_info) == (
        "right", True, "/right/mask", "", "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"image_topics": ("/a/image", "/a/image")}, "'/a/image' more than once"),
        ({"image_topics": ("/a/image", "/b/image"), "camera_names": ("x", "x")}, "camera_names has 'x' more than once"),
        ({"image_topics": ("/a/image", "/a/gray")}, "more than once"),
        ({"image_topics": ("/a/image", "/b/image"), "mask_topics": ("/m",)}, "has 1 entries, but there are 2"),
        ({"image_topics": ("/a/image", "/b/image"), "camera_frame": "lens"}, "'camera_frame' is for a single camera"),
        ({"image_topics": ("/a/image", "/b/image"), "camera_info_topic": "/i"}, "'camera_info_topic' is for a single"),
    ],
)
def test_lists_that_do_not_fit_are_refused(parameters, text):
    with pytest.raises(ConfigError, match=text):
        several(**parameters)
