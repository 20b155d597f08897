"""The mapper across resets, calibrations and stamps that jump."""

import logging

import numpy as np
import pytest

from dust3r_ros.backends import make_backend
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import InputError
from dust3r_ros.node.session import REORDERED_NS, KnownCamera, Session
from dust3r_ros.types import TrackingState


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return logging.getLogger("session")


def feed(session, sequence, first, last):
    for index in range(first, last):
        update = session.process(int(sequence.stamps_ns[index]), "camera", sequence.images[index])
    return update


def test_a_jump_back_resets_and_the_map_is_that_of_a_fresh_start(sequence, log, caplog):
    jumped, fresh = Session(MapperConfig(), "reset", log), Session(MapperConfig(), "reset", log)
    feed(jumped, sequence, 0, 12)
    again, expected = feed(jumped, sequence, 0, 12), feed(fresh, sequence, 0, 12)
    assert jumped.resets == 1 and fresh.resets == 0
    assert "jump back by 1.100 s" in caplog.text
    assert again.state == expected.state == TrackingState.TRACKING
    np.testing.assert_array_equal(
        [pose.w_T_c for pose in jumped.mapper.trajectory()], [pose.w_T_c for pose in fresh.mapper.trajectory()]
    )


def test_a_reset_keeps_the_backend_and_empties_it(sequence, log, monkeypatch):
    """Weights are read once."""
    made = []

    def counted(config):
        made.append(make_backend(config))
        return made[-1]

    monkeypatch.setattr("dust3r_ros.node.session.make_backend", counted)
    session = Session(MapperConfig(), "reset", log)
    feed(session, sequence, 0, 4)
    assert made[0].has(0)
    session.reset()
    assert len(made) == 1 and not made[0].has(0)


def test_a_change_of_maps_is_said(sequence, log, caplog):
    config = MapperConfig(focal=sequence.focal, lost_patience_s=1.0)
    session = Session(config, "reset", log)
    feed(session, sequence, 0, 8)
    assert session.mapper.counts.keyframes >= 2
    dark = np.zeros_like(sequence.images[0])
    for second in range(2, 5):
        session.process(int(sequence.stamps_ns[8]) + second * 10**9, "camera", dark)
    assert "'camera' is in another map now" in caplog.text


@pytest.mark.parametrize(("policy", "back"), [("ignore", 10 * REORDERED_NS), ("reset", REORDERED_NS), ("reset", 0)])
def test_frames_that_are_not_newer_are_refused_and_change_nothing(sequence, log, policy, back):
    """Frames that overtook each other on the network start no new map."""
    session = Session(MapperConfig(), policy, log)
    feed(session, sequence, 0, 5)
    before = session.mapper.counts
    with pytest.raises(InputError, match="stamp"):
        session.process(int(sequence.stamps_ns[4]) - back, "camera", sequence.images[4])
    assert (session.mapper.counts, session.resets) == (before, 0)
    feed(session, sequence, 5, 6)
    assert session.mapper.counts.frames == 6


def test_a_known_camera_keeps_its_focal_across_resets(sequence, log):
    session = Session(MapperConfig(), "reset", log)
    session.know("camera", KnownCamera(sequence.width, sequence.height, 123.0))
    for _ in range(2):
        update = feed(session, sequence, 0, 2)
        assert (update.cameras["camera"].focal, update.cameras["camera"].fixed) == (123.0, True)
        session.reset()


def test_a_calibration_just_after_the_first_image_starts_again_with_it(sequence, log):
    """Drivers publish both at once; which one arrives first is chance and must not decide."""
    session = Session(MapperConfig(), "reset", log)
    feed(session, sequence, 0, 2)
    session.know("camera", KnownCamera(sequence.width, sequence.height, 123.0))
    assert session.resets == 1
    assert feed(session, sequence, 2, 4).cameras["camera"].focal == 123.0
    session.know("camera", KnownCamera(sequence.width, sequence.height, 123.0))  # published with every image
    assert session.resets == 1


def test_a_calibration_that_comes_late_waits_for_a_reset(sequence, log, caplog):
    session = Session(MapperConfig(), "reset", log)
    update = feed(session, sequence, 0, 12)
    assert update.state is TrackingState.TRACKING
    session.know("camera", KnownCamera(sequence.width, sequence.height, 123.0))
    assert session.resets == 0 and "from the next reset on" in caplog.text
    assert not session.mapper.cameras["camera"].fixed
    session.reset()
    assert feed(session, sequence, 0, 1).cameras["camera"].focal == 123.0


def test_a_calibration_of_another_shape_is_told_and_not_used(sequence, log, caplog):
    session = Session(MapperConfig(), "reset", log)
    session.know("camera", KnownCamera(sequence.width, sequence.height // 2, 123.0))
    update = feed(session, sequence, 0, 2)
    assert not update.cameras["camera"].fixed
    assert "is estimated" in caplog.text


def test_a_calibration_of_a_larger_image_is_scaled(sequence, log):
    session = Session(MapperConfig(), "reset", log)
    session.know("camera", KnownCamera(2 * sequence.width, 2 * sequence.height, 246.0))
    assert feed(session, sequence, 0, 1).cameras["camera"].focal == pytest.approx(123.0)


def test_a_first_image_that_cannot_be_used_does_not_spoil_the_calibration(sequence, log):
    session = Session(MapperConfig(), "reset", log)
    session.know("camera", KnownCamera(sequence.width, sequence.height, 123.0))
    with pytest.raises(InputError):
        session.process(1, "camera", sequence.images[0].astype(float))
    assert feed(session, sequence, 0, 2).cameras["camera"].focal == 123.0
