"""What a robot said at the stamps of its images."""

from __future__ import annotations

import numpy as np
from driving import way

from dust3r_ros.types import Array, Frame, StampedPose
from dust3r_ros.world.placement import RobotLog

IMAGE = np.zeros((2, 2, 3), np.uint8)


def frame(stamp: int, camera: str = "left", o_T_c: Array | None = None, up: Array | None = None) -> Frame:
    return Frame(stamp, camera, IMAGE, o_T_c=o_T_c, up=up)


def test_frames_are_matched_by_stamp_and_camera() -> None:
    log, poses = RobotLog(), way(np.random.default_rng(0), 4)
    log.add(frame(1, "left", poses[0]))
    log.add(frame(1, "right", poses[1], np.array([0.0, -2.0, 0.0])))
    log.add(frame(2, "left", None, np.array([0.0, -1.0, 0.0])))
    log.add(frame(3, "left"))
    trajectory = [StampedPose(stamp, camera, poses[3]) for stamp in (1, 2, 3, 4) for camera in ("left", "right")]
    found = log.match(trajectory)
    assert len(found.w_T_c) == 3 and len(log) == 3 and (2, "left") in log.frames
    np.testing.assert_array_equal(found.camera, [0, 1, 0])
    np.testing.assert_array_equal(found.o_T_c[:2], poses[:2])
    assert np.isnan(found.o_T_c[2]).all() and np.isnan(found.up[0]).all()
    np.testing.assert_array_equal(found.up[1:], [[0.0, -1.0, 0.0]] * 2)


def test_nothing_is_matched_with_nothing() -> None:
    found = RobotLog().match([])
    assert found.w_T_c.shape == found.o_T_c.shape == (0, 4, 4) and found.up.shape == (0, 3)


def test_a_long_day_is_kept_thinly_and_evenly() -> None:
    log = RobotLog()
    for stamp in range(60_000):
        log.add(frame(stamp, o_T_c=np.eye(4)))
    stamps = np.array(sorted(stamp for stamp, _ in log.frames))  # type: ignore[attr-defined]
    assert 900 < len(stamps) <= 2200
    np.testing.assert_array_equal(stamps[:64], np.arange(64))
    gaps = np.diff(stamps[64:])
    assert gaps.max() <= 2 * gaps[5:].min(), "as many of the morning as of the evening"


def test_what_is_no_pose_and_no_direction_is_refused() -> None:
    log = RobotLog()
    mirrored, bent, lost = np.diag([1.0, 1.0, -1.0, 1.0]), np.diag([1.0, 1.1, 1.0, 1.0]), np.full((4, 4), np.nan)
    for stamp, wrong in enumerate([mirrored, bent, lost, np.eye(3)]):
        log.add(frame(stamp, o_T_c=wrong))
    for stamp, wrong in enumerate([np.zeros(3), np.full(3, np.inf), np.ones(2)], start=10):
        log.add(frame(stamp, up=wrong))
    assert log.refused == 7 and len(log) == 0
