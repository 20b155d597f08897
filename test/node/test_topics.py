"""Names that follow from the image topics."""

import pytest

from dust3r_ros.config import NodeConfig
from dust3r_ros.errors import ConfigError
from dust3r_ros.node.topics import all_camera_topics, camera_topics, is_compressed


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
        ({"image_topics": ("/a/image", "/b/image"), "camera_frame": "lens"}, "'camera_frame' is of one camera"),
        ({"image_topics": ("/a/image", "/b/image"), "camera_info_topic": "/i"}, "'camera_info_topic' is of one"),
    ],
)
def test_lists_that_do_not_fit_are_refused(parameters, text):
    with pytest.raises(ConfigError, match=text):
        several(**parameters)
