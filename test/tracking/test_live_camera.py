"""The first poses are told once the focal is more than a guess, or when they have waited long enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sequences import walk
from snapshots import snapshot

from dust3r_ros.config import MapperConfig
from dust3r_ros.tracking.live_camera import LiveCamera
from dust3r_ros.types import Frame, MapUpdate, TrackingState


@pytest.fixture(scope="module")
def sequence():
    return walk("orbit", frames=100, rate_hz=30.0)


def begun(sequence, **known):
    """A camera that has seen its first image, and what a map knows around it."""
    camera = LiveCamera(MapperConfig(tracking_size=240), bridge_s=0.0, focal_wait_s=2.7)
    assert track(camera, sequence, 0).state is None
    camera.take(snapshot(sequence, 0, **known))
    return camera


def track(camera, sequence, index):
    found = camera.track(Frame(int(sequence.stamps_ns[index]), "camera", sequence.images[index]), None, False)
    camera.front.pick_up()
    return found


def test_a_pose_that_hangs_on_a_guess_is_kept_but_not_told(sequence):
    camera = begun(sequence, guessing_since=int(sequence.stamps_ns[0]))
    found = track(camera, sequence, 1)
    assert found.state is TrackingState.INITIALISING and found.w_T_c is None
    assert found.tracked.followed is not None, "for the path, later"
    update = MapUpdate(int(sequence.stamps_ns[1]), "camera", TrackingState.TRACKING, np.eye(4), np.eye(6))
    assert camera.shown(update).state is TrackingState.INITIALISING and camera.shown(update).w_T_c is None
    lost = replace(update, state=TrackingState.LOST)
    assert camera.shown(lost) is lost


def test_it_is_reported_once_the_focal_is_known_and_from_then_on(sequence):
    camera = begun(sequence, guessing_since=int(sequence.stamps_ns[0]))
    track(camera, sequence, 1)
    camera.take(snapshot(sequence, 1))
    assert track(camera, sequence, 2).state is TrackingState.TRACKING
    camera.take(snapshot(sequence, 2, guessing_since=int(sequence.stamps_ns[0])))
    assert track(camera, sequence, 3).state is TrackingState.TRACKING
    camera.forget()
    assert camera.held


def test_it_waits_no_longer_than_a_robot_can(sequence):
    camera = begun(sequence, guessing_since=int(sequence.stamps_ns[0]))
    states = [track(camera, sequence, index).state for index in range(1, 90)]
    shown = states.index(TrackingState.TRACKING)
    assert set(states[:shown]) == {TrackingState.INITIALISING} and set(states[shown:]) == {TrackingState.TRACKING}
    assert 2.0 < (sequence.stamps_ns[shown + 1] - sequence.stamps_ns[0]) * 1e-9 < 2.8


def test_it_waits_longer_for_a_first_calibration_that_is_late(sequence):
    """A focal that nothing was found of yet may be off by a fifth."""
    presumed = {"guessing_since": int(sequence.stamps_ns[0]), "presumed": True}
    camera = begun(sequence, **presumed)
    states = [track(camera, sequence, index).state for index in range(1, 90)]
    assert set(states) == {TrackingState.INITIALISING}
    camera.take(snapshot(sequence, 89, guessing_since=int(sequence.stamps_ns[0])))
    assert track(camera, sequence, 90).state is TrackingState.TRACKING, "calibrated"
    camera = begun(sequence, **presumed)
    assert track(camera, sequence, 89).state is TrackingState.INITIALISING
    camera.take(snapshot(sequence, 88, guessing_since=int(sequence.stamps_ns[0])))
    assert not camera.held, "calibrated when no more images came"
    camera = begun(sequence, **presumed | {"guessing_since": int(sequence.stamps_ns[0] - 5e9)})
    assert [track(camera, sequence, index).state for index in (1, 15)] == [
        TrackingState.INITIALISING,
        TrackingState.TRACKING,
    ], "but not for ever"
