"""Levels and values of /diagnostics, and the status that says the same."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from dust3r_ros.msg import MappingStatus
from rclpy.serialization import deserialize_message, serialize_message
from sequences import SMALL, walk

from dust3r_ros.config import NodeConfig
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.node.diagnostics import diagnostics_message
from dust3r_ros.node.status import (
    CameraStates,
    RigCamera,
    Snapshot,
    lens_shift,
    session_snapshot,
    status_message,
    status_text,
)
from dust3r_ros.node.topics import SILENT_S, TopicHealth
from dust3r_ros.session.session import Session
from dust3r_ros.types import Calibration, Camera, Frame, MapCounts, TrackingState

IMAGES = TopicHealth("/front/image_raw", "image", "front", 9, 10.0, 0.1)
FINE = Snapshot(
    stamp_ns=5_000_000_007,
    state=TrackingState.TRACKING,
    backend="two_view",
    device="cpu",
    counts=MapCounts(9, 8, 3, 4, 1, 2),
    dropped=2,
    rejected=3,
    waiting=1,
    inputs=(IMAGES,),
    cameras={"front": Camera("front", 640, 480, 500.0, 4.0, 6)},
    stages={"track": {"count": 9, "p50_ms": 1.0, "p95_ms": 2.0, "max_ms": 3.0}},
    front_stages={"follow": {"count": 30, "p50_ms": 4.0, "p95_ms": 5.0, "max_ms": 6.0}},
    back_end_mb=1000.0,
    kept_mb=(512.0, 88.0),
    lag=0.25,
)


def judged(**changes):
    """Statuses by what they are of."""
    array = diagnostics_message(replace(FINE, **changes), FINE, 42, "/dust3r")
    assert (array.header.stamp.sec, array.header.stamp.nanosec) == (0, 42)
    return {status.name.removeprefix("/dust3r: "): status for status in array.status}


def values(status):
    return {item.key: item.value for item in status.values}


def test_all_is_well():
    statuses = judged()
    assert list(statuses) == ["mapping", "backend", "scale", "inputs", "tf", "calibration front"]
    assert {status.level for status in statuses.values()} == {DiagnosticStatus.OK}
    assert (statuses["mapping"].message, statuses["backend"].message) == ("tracking", "two_view on cpu")
    shown = values(statuses["mapping"])
    assert (shown["frames"], shown["dropped"], shown["maps"], shown["track p95 (ms)"]) == ("9", "2", "2", "2.0")
    assert (shown["front end: follow p95 (ms)"], shown["lag (s)"]) == ("5.0", "0.25")
    assert float(shown["memory (MiB)"]) > 1010
    assert (shown["keyframes in memory (MiB)"], shown["keyframes on disk (MiB)"]) == ("512", "88")
    assert values(statuses["inputs"])["/front/image_raw (Hz)"] == "10.0"
    assert values(statuses["calibration front"])["focal (px)"] == "500.0"
    assert "an arbitrary unit" in statuses["scale"].message


@pytest.mark.parametrize(
    ("changes", "which", "level", "text"),
    [
        ({"failed": 1, "message": "no memory"}, "mapping", DiagnosticStatus.ERROR, "no memory"),
        ({"lag": 5.25}, "mapping", DiagnosticStatus.WARN, "the map is 5.2 s behind the camera"),
        ({"problems": ("map.db: no space",)}, "mapping", DiagnosticStatus.ERROR, "no space"),
        ({"rejected": 5, "message": "empty"}, "mapping", DiagnosticStatus.WARN, "2 images refused: empty"),
        ({"state": TrackingState.LOST}, "mapping", DiagnosticStatus.WARN, "lost"),
        ({"dropped": 6}, "mapping", DiagnosticStatus.WARN, "4 images dropped"),
        ({"paused": True, "state": TrackingState.LOST}, "mapping", DiagnosticStatus.OK, "paused"),
        ({"contradictions": ("depth and odometry differ",)}, "scale", DiagnosticStatus.WARN, "depth and odometry"),
        ({"tf_problems": ("'odom' has a parent",)}, "tf", DiagnosticStatus.WARN, "'odom' has a parent"),
        (
            {"scale_state": "metric", "scale_sources": ("odometry", "depth")},
            "scale",
            DiagnosticStatus.OK,
            "odometry, d",
        ),
        ({"scale_state": "converging", "scale_sources": ("rig",)}, "scale", DiagnosticStatus.OK, "measured by rig"),
    ],
)
def test_what_is_wrong_is_said(changes, which, level, text):
    status = judged(**changes)[which]
    assert status.level == level
    assert text in status.message


def test_each_camera_that_is_not_found_is_named():
    states = {"front": TrackingState.LOST, "left": TrackingState.TRACKING, "right": TrackingState.BRIDGED}
    statuses = judged(states=states)
    assert statuses["mapping"].level == DiagnosticStatus.WARN
    assert statuses["mapping"].message.startswith("camera 'front' is lost; camera 'right' is not found in the map")
    assert values(statuses["calibration front"])["state"] == "lost"
    fine = judged(states=dict.fromkeys(states, TrackingState.TRACKING))["mapping"]
    assert (fine.level, fine.message) == (DiagnosticStatus.OK, "tracking")


def test_a_camera_that_fell_silent_does_not_speak_for_the_others(monkeypatch):
    """One is unplugged while it is tracking, the other one is in the dark: the robot has no pose."""
    now, states = [0.0], CameraStates()
    monkeypatch.setattr("dust3r_ros.node.status.time.monotonic", lambda: now[0])
    states.judge("front", 1, TrackingState.TRACKING)
    for now[0], together in ((1.0, TrackingState.TRACKING), (SILENT_S + 1, TrackingState.LOST)):
        states.judge("rear", int(now[0] * 1e9), TrackingState.LOST)
        assert states.together is together
    states.judge("front", 2, TrackingState.TRACKING)
    assert states.together is TrackingState.TRACKING


@pytest.mark.parametrize(
    ("inputs", "level", "text"),
    [
        ([replace(IMAGES, silent_s=None)], DiagnosticStatus.WARN, "no image on /front/image_raw yet"),
        ([replace(IMAGES, silent_s=SILENT_S + 1)], DiagnosticStatus.WARN, "no image on /front/image_raw for 4 s"),
        ([IMAGES, TopicHealth("/imu", "imu")], DiagnosticStatus.WARN, "no imu on /imu yet"),
        ([IMAGES, TopicHealth("/front/camera_info", "camera_info")], DiagnosticStatus.OK, "all inputs arrive"),
        ([replace(IMAGES, lost=7)], DiagnosticStatus.WARN, "7 images were lost in transport"),
        (
            [IMAGES, TopicHealth("/o", "odometry", "", 5, 1, 0.1, 2, "wrong frame")],
            DiagnosticStatus.WARN,
            "wrong frame",
        ),
        ([replace(IMAGES, bad=2, reason="wrong frame", well=True)], DiagnosticStatus.OK, "all inputs arrive"),
    ],
)
def test_every_input_is_watched(inputs, level, text):
    status = judged(inputs=tuple(inputs))["inputs"]
    assert status.level == level and status.message.startswith(text)


def test_what_images_lack_is_said():
    lacking = "mask of camera 'front' is 100x75, but its image is 200x150"
    status = judged(inputs=(IMAGES,), lacking=(lacking,))["inputs"]
    assert (status.level, status.message) == (DiagnosticStatus.WARN, lacking)


def test_a_calibration_that_the_images_contradict_warns():
    camera = Camera(
        "front", 640, 480, 520.0, 0.0, 9, fixed=True, given=520.0, given_std=2.0, measured=500.0, measured_std=4.0
    )
    status = judged(cameras={"front": camera})["calibration front"]
    assert status.level == DiagnosticStatus.WARN
    assert "500.0 +- 4.0 px" in status.message and "520.0 px" in status.message
    assert values(status)["disagreement (sigma)"] == "4.5"
    agrees = judged(cameras={"front": replace(camera, measured=512.0)})["calibration front"]
    assert (agrees.level, agrees.message) == (DiagnosticStatus.OK, "focal length 520.0 px, given")


def sent(snapshot):
    return deserialize_message(serialize_message(status_message(snapshot, "map")), MappingStatus)


def test_status_carries_the_snapshot():
    message = sent(FINE)
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (5, 7, "map")
    assert (message.frames, message.tracked, message.keyframes, message.pairs, message.lost) == (9, 8, 3, 4, 1)
    assert (message.dropped, message.rejected, message.waiting, message.state) == (2, 3, 1, "tracking")
    assert (message.maps, message.mode, message.device) == (2, "mapping", "cpu")
    assert (message.scale_state, message.metres_per_unit) == (MappingStatus.SCALE_UNKNOWN, 0.0)
    assert message.memory_mb > 10
    (camera,) = message.cameras
    assert (camera.name, camera.width, camera.focal, camera.support, camera.fixed) == ("front", 640, 500.0, 6, False)
    assert (camera.source, camera.cx, camera.cy, list(camera.d)) == ("estimated", 319.5, 239.5, [0.0] * 5)
    assert (camera.lens_matters, camera.extrinsics, camera.published_focal) == (False, "none", 0.0)
    assert sent(replace(FINE, paused=True)).state == "paused"
    lossy = replace(FINE, inputs=(replace(IMAGES, lost=7), replace(IMAGES, kind="mask", lost=2)))
    assert sent(lossy).lost_in_transport == 7


def test_a_map_of_unknown_scale_has_no_metres_per_unit_of_the_last_one():
    sequence, config = walk("orbit", frames=12), replace(SMALL, dense=False)
    session = Session(config, logging.getLogger("session"), on_time_jump="submap")
    for stamp_ns, image in zip(sequence.stamps_ns.tolist(), sequence.images, strict=True):
        session.process(Frame(stamp_ns, "camera", image))
    session.set_scale(4.0)
    now = session_snapshot(session, config, NodeConfig())
    assert (now.scale_state, now.metres_per_unit) == ("metric", pytest.approx(4.0))
    session.process(Frame(int(sequence.stamps_ns[0]), "camera", np.zeros_like(sequence.images[0])))
    now = session_snapshot(session, config, NodeConfig())
    assert (now.scale_state, now.metres_per_unit, now.metres_per_unit_std) == ("unknown", 0.0, 0.0)


def test_status_carries_scale_what_was_left_out_and_files():
    message = sent(
        replace(
            FINE,
            mode="localization",
            scale_state="metric",
            metres_per_unit=2.5,
            metres_per_unit_std=0.1,
            scale_sources=("odometry",),
            masked=0.25,
            moving=0.5,
            far=0.125,
            moving_regions=3,
            contradicted=0.375,
            incomplete=7,
            resets=2,
            revision=4,
            map_file="/a/map.db",
            manifest_file="/a/m.jsonl",
            problems=("p",),
            tf_problems=("q",),
        )
    )
    assert (message.mode, message.scale_state, list(message.scale_sources)) == ("localization", "metric", ["odometry"])
    assert message.metres_per_unit == 2.5 and message.metres_per_unit_std == pytest.approx(0.1)
    assert (message.masked, message.moving, message.far, message.moving_regions) == (0.25, 0.5, 0.125, 3)
    assert message.contradicted == 0.375
    assert (message.incomplete, message.resets, message.revision) == (7, 2, 4)
    assert (message.map_file, message.manifest_file, list(message.problems)) == ("/a/map.db", "/a/m.jsonl", ["p", "q"])


def test_a_map_to_localise_in_that_is_not_there_is_said():
    lacks = replace(FINE, mode="localization", counts=MapCounts(9), inputs=(replace(IMAGES, why="no route"),))
    text = "mode is localization but there is no map; set load_map or call ~/load_map"
    status = diagnostics_message(lacks, lacks, 42, "/dust3r").status[0]
    assert (status.level, status.message) == (DiagnosticStatus.WARN, text)
    assert sent(lacks).message == f"{text}; no image on /front/image_raw: no route"
    for has in (replace(lacks, counts=MapCounts(9, maps=1)), replace(lacks, mode="mapping")):
        assert text not in sent(has).message
        assert diagnostics_message(has, has, 42, "/dust3r").status[0].level == DiagnosticStatus.OK


def test_status_carries_latencies_of_both_ends_and_how_far_the_map_is_behind():
    message = sent(replace(FINE, backlog=4, depth_backlog=3, depth_lag=1.5))
    assert (message.lag, message.backlog, message.depth_backlog, message.depth_lag) == (0.25, 4, 3, 1.5)
    stages = [(stage.end, stage.name, stage.count, stage.p95_ms) for stage in message.stages]
    assert stages == [("front_end", "follow", 30, 5.0), ("back_end", "track", 9, 2.0)]
    assert message.memory_mb > 1010
    assert status_text(FINE) == "tracking, 3 keyframes\nmap 0.2 s behind"
    assert status_text(replace(FINE, depth_backlog=3, depth_lag=1.5)).endswith("map 0.2 s behind, depth 1.5 s")


def test_status_carries_lens_rig_and_what_was_published():
    camera = Camera(
        "left", 640, 480, 500.0, 4.0, 6, principal_offset=(3.0, 0.0), distortion=(-0.1, 0.0, 0.0, 0.0, 0.0), given=510
    )
    known = Calibration(640, 480, 500, 501, 320, 240, "rational_polynomial", (0.1,) * 8)
    place = RigCamera("front", pose(np.eye(3), [0.1, 0.0, 0.0]), 0.02, known=False)
    snapshot = replace(FINE, cameras={"left": camera}, published={"left": known}, rig={"left": place})
    (message,) = sent(replace(snapshot, sources={"left": "prior"})).cameras
    assert (message.cx, message.cy, list(message.d)) == (320, 240, [0.1] * 8)
    assert (message.source, message.published_focal) == ("prior", 510)
    assert message.lens_matters and message.lens_shift == pytest.approx(lens_shift(camera))
    assert (message.extrinsics, message.reference, message.extrinsics_std) == ("estimated", "front", 0.02)
    assert message.first_from_camera.position.x == pytest.approx(0.1)


def test_how_far_a_lens_moves_a_pixel():
    camera = Camera("c", 640, 480, 400.0, distortion=(-0.1, 0.0, 0.0, 0.0, 0.0))
    radius = np.hypot(320, 240)
    assert lens_shift(camera) == pytest.approx(0.1 * radius**3 / 400.0**2)
    assert lens_shift(replace(camera, distortion=())) == 0.0
    assert lens_shift(
        replace(camera, distortion=(0.0, 0.0, 0.0, 0.0, 0.0), principal_offset=(3.0, 4.0))
    ) == pytest.approx(5.0)
