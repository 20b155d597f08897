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


def test_another_unit_for_frames_of_keyframes_that_see_nothing_too() -> None:
    keyframes = Keyframes(1.0, 2.0, 3.0)
    log = FrameLog(keyframes)
    keyframes.units[1] = float("nan")
    for index in range(3):
        log.add(index, "left", index, found(1.5 + index), lost)
    log.add(3, "left", 2, None, lost)
    keyframes.units[2] = float("nan")  # lost what it saw since
    for index in range(3):
        keyframes.poses[index] = at(10.0 * (1 + index))
        keyframes.units[index] *= 10.0
    log.rescale(10.0)
    assert places(log) == [15.0, 25.0, 35.0] and log.count() == 3
    keyframes.units[0] *= 2.0
    assert places(log) == [20.0, 25.0, 35.0], "and they grow on with their keyframe"


def test_frames_of_earlier_sessions_come_first_and_count_no_cameras() -> None:
    keyframes = Keyframes(0.0, 5.0)
    before = FrameLog(keyframes)
    before.add_keyframe(70, "left", 0)
    before.add(80, "left", 1, found(6.0), lost)
    log = FrameLog(keyframes, session=1)
    log.restore(before.frames)
    assert log.cameras == set() and log.count() == 2
    log.add(3, "right", 0, found(0.25), lost)  # the clock began anew
    assert [pose.stamp_ns for pose in log.trajectory()] == [70, 80, 3] and places(log) == [0.0, 6.0, 0.25]
    assert log.cameras == {"right"}


def test_what_changed_of_frames_that_were_written_is_told() -> None:
    log = FrameLog(Keyframes(0.0))
    log.add_keyframe(1, "left", 0)
    log.add(2, "left", 0, found(0.5), lambda _: found(0.7))
    kept, rewritten = list(log.frames), log.rewritten
    log.add(3, "left", 0, found(0.6), lost)
    assert log.rewritten == rewritten and all(a is b for a, b in zip(kept, log.frames, strict=False))
    log.find_again()
    assert log.rewritten > rewritten and log.frames[0] is kept[0] and log.frames[1] is not kept[1]
    rewritten = log.rewritten
    log.rescale(2.0)
    assert log.rewritten > rewritten


def test_a_keyframe_without_a_pose_has_no_place_yet() -> None:
    keyframes = Keyframes(0.0, 1.0)
    log = FrameLog(keyframes)
    log.add_keyframe(1, "left", 0)
    log.add_keyframe(2, "left", 1)
    keyframes.poses[0] = None
    assert places(log) == [1.0] and log.count() == 1
    keyframes.poses[0] = at(0.5)
    assert places(log) == [0.5, 1.0] and log.count() == 2
