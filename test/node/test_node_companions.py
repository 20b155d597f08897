"""What comes beside the images reaches the map of the real node, and what is wrong is said where people look."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from messages import FRAME, image_message
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage

from dust3r_ros.node.conversions import header, transform_message


def mask_message(sequence, stamp_ns):
    """The left half is left out."""
    mask = np.zeros((sequence.height, sequence.width), np.uint8)
    mask[:, : sequence.width // 2] = 255
    message = Image(header=header(stamp_ns, FRAME), height=sequence.height, width=sequence.width, encoding="mono8")
    message.step = sequence.width
    message.data = array("B", mask.tobytes())
    return message


@pytest.mark.parametrize(
    "bench", [{"mask_topics": "[/camera/mask]", "companion_wait": 5.0, "dense": False}], indirect=True
)
def test_masks_and_a_camera_that_has_a_parent(bench, sequence):
    recorder, stamps = bench.recorder, [int(stamp) for stamp in sequence.stamps_ns[:20]]

    def robot_moves():
        bench.send(TFMessage(transforms=[transform_message(np.eye(4), stamps[-1], "base_link", FRAME)]), "/tf")

    robot_moves()
    listening = bench.recorder.node.count_subscribers
    recorder.wait(lambda: listening("/tf") > 1, 150, "the node listens to TF, as the recorder does")

    def entry(name):
        array = recorder.last.get("diagnostics")
        return next((item for item in array.status if item.name == f"/dust3r: {name}"), None) if array else None

    def masks_come():  # before the first mask was heard, images do not wait for theirs
        bench.send(mask_message(sequence, stamps[0] - 10**9), "/camera/mask")
        found = entry("inputs")
        return found is not None and {v.key: v.value for v in found.values}.get("/camera/mask count", "0") != "0"

    recorder.wait(masks_come, 150, "the node hears masks")
    for image, stamp_ns in zip(sequence.images, stamps, strict=False):
        robot_moves()
        bench.send(mask_message(sequence, stamp_ns), "/camera/mask")
        bench.send(image_message(image, stamp_ns))

    def mapped(status):
        robot_moves()  # a robot does so all the time
        return (status.frames, status.waiting) == (20, 0)

    bench.status(mapped, "the node maps all images", 150)
    status = bench.status(lambda status: status.problems and status.masked > 0, "the status says what is wrong")
    assert status.tracked > 0
    assert 0.4 < status.masked < 0.6
    assert status.incomplete == 0, "each image has its mask"
    assert any("'base_link' -> " in problem for problem in status.problems)

    recorder.wait(lambda: entry("tf").level == DiagnosticStatus.WARN, 150, "a warning on /diagnostics")
    message = entry("tf").message
    assert f"'base_link' -> '{FRAME}'" in message and "invert_tf" in message
    parents = {item.header.frame_id for message in recorder.all["tf"] for item in message.transforms}
    assert parents == {"base_link"}
    assert bench.node.log.count("is not published") == 1


@pytest.mark.parametrize("bench", [{"depth_topics": "[/camera/depth]", "dense": False}], indirect=True)
def test_floats_in_millimetres_are_said_to_be_no_depth(bench, sequence):
    """The map would be a thousand times too large, and metric."""
    for image, depth, stamp_ns in zip(sequence.images, sequence.depths, map(int, sequence.stamps_ns), strict=True):
        message = Image(header=header(stamp_ns, FRAME), height=sequence.height, width=sequence.width, encoding="32FC1")
        message.step = 4 * sequence.width
        message.data = array("B", (1000 * depth).astype("<f4").tobytes())
        bench.send(message, "/camera/depth")
        bench.send(image_message(image, stamp_ns))
    bench.node.wait_for_log("m away, as if in millimetres; 32FC1 is in metres")
    heard = bench.recorder.last  # also on /diagnostics, not only in the log
    said = "depth of camera 'camera': depth begins"
    bench.recorder.wait(lambda: said in str(heard.get("diagnostics")), 150, "the diagnostics name what is unusable")
    assert bench.handled(len(sequence)).tracked > 0
