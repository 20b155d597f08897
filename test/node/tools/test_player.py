"""Bags as a camera plays them: to and fro, and stamped when sent."""

from array import array

import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image

from dust3r_ros.node.conversions import header, stamp_to_ns
from dust3r_ros.node.tools import player
from dust3r_ros.node.tools.player import restamped, serialised_stamp, to_and_fro
from dust3r_ros.scenes.export import write_bag
from dust3r_ros.scenes.sequence import render_sequence

STAMP = 1_700_000_000_123_456_789


@pytest.fixture
def message():
    image = Image(header=header(STAMP, "lens"), height=1, width=1, encoding="mono8", step=1)
    image.data = array("B", [7])
    return serialize_message(image)


def test_stamps_of_serialised_images(message):
    assert serialised_stamp(message) == STAMP
    other = restamped(message, STAMP + 10**9 + 5)
    assert serialised_stamp(other) == STAMP + 10**9 + 5 and serialised_stamp(message) == STAMP
    image = deserialize_message(other, Image)
    assert stamp_to_ns(image.header.stamp) == STAMP + 10**9 + 5
    assert image.header.frame_id == "lens" and image.data[0] == 7


def test_a_recording_goes_to_and_fro():
    images = [(100 + 10 * k, "/c", Image, bytes([k])) for k in range(3)]
    went = [(2.0 * after, 100 + 10 * raw[0]) for after, *_, raw in to_and_fro(images, 3)]
    assert went == list(zip(range(0, 180, 20), [100, 110, 120, 120, 110, 100, 100, 110, 120], strict=True))


def test_a_driver_stamps_now_and_the_log_tells_both_stamps(tmp_path, monkeypatch):
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    sequence = render_sequence("orbit", 3, 16, 12, rate_hz=30.0, supersample=1)
    write_bag(sequence, tmp_path / "bag", camera_info=False)
    monkeypatch.setattr(player, "wait_for_listeners", lambda *_, **__: None)
    rclpy.init(context=(context := Context()), args=[])
    try:
        node = rclpy.create_node("player", context=context)
        lines = player.play(node, tmp_path / "bag", 2.0, 0.0, passes=2, clock=lambda: STAMP)
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)
    there = sequence.stamps_ns.tolist()
    assert [line["recorded"] for line in lines] == [*there, *there[::-1]]
    np.testing.assert_allclose(np.diff([line["stamp"] for line in lines]) * 1e-9, 1 / 60, atol=1e-6)
    assert lines[0]["stamp"] == STAMP and min(np.diff([line["published"] for line in lines])) > 0
