"""Frames kept relative to keyframes."""

from __future__ import annotations

import numpy as np

from dust3r_ros.frame_log import FrameLog
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.types import Array


class Keyframes:
    """Keyframes that can be moved and made to grow."""

    def __init__(self, *x: float) -> None:
        self.poses: list[Array | None] = [at(value) for value in x]
        self.units = [1.0 for _ in x]

    def pose(self, index: int) -> Array | None:
        return self.poses[index]

    def unit(self, index: int) -> float:
        return self.units[index]


def at(x: float) -> Array:
    pose = np.eye(4)
    pose[0, 3] = x
    return pose


def found(x: float) -> PnpResult:
    return PnpResult(at(x), np.ones(1, bool), np.eye(6), 0.1, 100.0)


def lost(near: Array | None) -> None:
    """A frame that is not found again."""


def places(log: FrameLog) -> list[float]:
    return [float(pose.w_T_c[0, 3]) for pose in log.trajectory()]


def test_frames_move_and_grow_with_their_keyframe() -> None:
    keyframes = Keyframes(0.0, 1.0)
    log = FrameLog(keyframes)
    log.add_keyframe(1, "left", 0)
    log.add(2, "left", 0, found(0.5), lost)
    log.add_keyframe(3, "left", 1)
    assert places(log) == [0.0, 0.5, 1.0] and log.count() == 3 and log.cameras == {"left"}
    keyframes.poses[0] = at(10.0)
    keyframes.units[0] = 2.0
    assert places(log) == [10.0, 11.0, 1.0]


def test_frames_are_found_again() -> None:
    keyframes = Keyframes(0.0)
    log = FrameLog(keyframes)
    answers: list[PnpResult | None] = [None, found(3.0), None]
    guesses: list[Array | None] = []

    def again(near: Array | None) -> PnpResult | None:
        guesses.append(near)
        return answers.pop(0)

    log.add(1, "left", 0, None, again)
    log.find_again()
    assert places(log) == [] and guesses == [None]
    log.find_again()
    assert places(log) == [3.0]
    log.find_again()
    assert places(log) == [3.0], "what was known stays"
    np.testing.assert_array_equal(guesses[2], at(3.0))


def test_a_unit_that_is_not_known_changes_nothing() -> None:
    keyframes = Keyframes(0.0)
    keyframes.units[0] = float("nan")
    log = FrameLog(keyframes)
    log.add(1, "left", 0, found(0.5), lost)
    keyframes.units[0] = 3.0
    assert places(log) == [0.5]


def test_the_frames_of_another_map() -> None:
    keyframes = Keyframes(0.0, 5.0)
    log, other = FrameLog(keyframes), FrameLog(Keyframes(0.0))
    log.add_keyframe(2, "left", 0)
    other.add_keyframe(1, "right", 0)
    other.add(3, "right", 0, found(0.25), lost)
    log.absorb(other, 1)
    assert [(pose.stamp_ns, pose.camera) for pose in log.trajectory()] == [(1, "right"), (2, "left"), (3, "right")]
    assert places(log) == [5.0, 0.0, 5.25]
