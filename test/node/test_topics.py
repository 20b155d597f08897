"""Names that follow from the image topic; what a CameraInfo tells."""

import math

import pytest
from sensor_msgs.msg import CameraInfo

from dust3r_ros.config import NodeConfig
from dust3r_ros.node.calibration import calibration_of
from dust3r_ros.node.session import KnownCamera
from dust3r_ros.node.topics import camera_topics


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


def info(fx, fy, width=640, height=480, d=()):
    message = CameraInfo(width=width, height=height, d=list(d))
    message.k[0], message.k[4] = fx, fy
    return message


def test_a_camera_without_k_is_uncalibrated():
    assert calibration_of(info(0.0, 0.0), "/info") == (None, "")


def test_the_focal_length_is_that_of_square_pixels():
    assert calibration_of(info(500.0, 500.0), "/info") == (KnownCamera(640, 480, 500.0), "")
    known, _ = calibration_of(info(400.0, 900.0), "/info")
    assert known.focal == pytest.approx(600.0)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (info(-5.0, 5.0), "fx = -5"),
        (info(math.nan, 5.0), "fx = nan"),
        (info(math.inf, 5.0), "fx = inf"),
        (info(5.0, -1.0), "fy = -1"),
        (info(500.0, 500.0, width=0), "size 0x480"),
    ],
)
def test_nonsense_is_named_and_not_used(message, reason):
    known, remark = calibration_of(message, "/info")
    assert known is None
    assert reason in remark and "/info" in remark


def test_distortion_is_remarked():
    known, remark = calibration_of(info(500.0, 500.0, d=[0.1, 0, 0, 0, 0]), "/info")
    assert known is not None and "distortion" in remark
