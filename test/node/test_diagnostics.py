"""Levels and values of /diagnostics, and the status that says the same."""

from dataclasses import replace

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from dust3r_ros.node.diagnostics import SILENT_S, diagnostics_message
from dust3r_ros.node.status import Snapshot, status_message
from dust3r_ros.types import Camera, MapCounts, TrackingState

FINE = Snapshot(
    stamp_ns=5_000_000_007,
    state=TrackingState.TRACKING,
    backend="two_view",
    counts=MapCounts(9, 8, 3, 4, 1),
    dropped=2,
    rejected=3,
    waiting=1,
    silent_s=0.1,
    cameras={"front": Camera("front", 640, 480, 500.0, 4.0, 6)},
    stages={"track": {"count": 9, "p50_ms": 1.0, "p95_ms": 2.0, "max_ms": 3.0}},
)


def judged(**changes):
    (status,) = diagnostics_message(replace(FINE, **changes), FINE, 42, "/dust3r", "/front/image_raw").status
    return status


def test_all_is_well():
    status = judged()
    assert (status.level, status.message, status.hardware_id) == (DiagnosticStatus.OK, "tracking", "/front/image_raw")
    values = {item.key: item.value for item in status.values}
    assert (values["frames"], values["dropped"], values["focal front (px)"]) == ("9", "2", "500.0")
    assert values["track p95 (ms)"] == "2.0"


@pytest.mark.parametrize(
    ("changes", "level", "text"),
    [
        ({"failed": 1, "message": "no memory"}, DiagnosticStatus.ERROR, "no memory"),
        ({"silent_s": None}, DiagnosticStatus.WARN, "no image on /front/image_raw yet"),
        ({"silent_s": SILENT_S + 1}, DiagnosticStatus.WARN, "for 4 s"),
        ({"rejected": 5, "message": "empty"}, DiagnosticStatus.WARN, "2 images refused: empty"),
        ({"state": TrackingState.LOST}, DiagnosticStatus.WARN, "lost"),
        ({"dropped": 6}, DiagnosticStatus.WARN, "4 images dropped"),
        ({"paused": True, "silent_s": 99.0}, DiagnosticStatus.OK, "paused"),
    ],
)
def test_what_is_wrong_is_said(changes, level, text):
    status = judged(**changes)
    assert status.level == level
    assert text in status.message


def test_status_carries_the_snapshot():
    message = status_message(FINE, "map")
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (5, 7, "map")
    assert (message.frames, message.tracked, message.keyframes, message.pairs, message.lost) == (9, 8, 3, 4, 1)
    assert (message.dropped, message.rejected, message.waiting, message.state) == (2, 3, 1, "tracking")
    assert (message.scale_state, message.metres_per_unit) == ("unknown", 0.0)
    assert message.memory_mb > 10
    (camera,) = message.cameras
    assert (camera.name, camera.width, camera.focal, camera.support, camera.fixed) == ("front", 640, 500.0, 6, False)
    assert status_message(replace(FINE, paused=True), "map").state == "paused"
