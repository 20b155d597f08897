"""Frames kept relative to keyframes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.pose import PnpResult
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.mapping.camera_stream import CameraStream
from dust3r_ros.mapping.frames import TrackedImage
from dust3r_ros.mapping.submap import LocatedFrame
from dust3r_ros.mapping.trajectory import FrameLog
from dust3r_ros.sparse.rolling_shutter import Motion
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array


class Keyframes:
    """Keyframes that can be moved and made to grow."""

    def __init__(self, *x: float) -> None:
        self.poses: list[Array | None] = [at(value) for value in x]
        self.units = [1.0 for _ in x]
        self.images = [(0, 0, "") for _ in x]
        self.off = 0.0
        self.answers: list[PnpResult | None] = []  # to who looks for frames
        self.asked: list[tuple[Array, Array | None]] = []
        self.exact: list[Array | None] = []  # answers by images

    def pose(self, index: int) -> Array | None:
        return self.poses[index]

    def unit(self, index: int) -> float:
        return self.units[index]

    def taken(self, index: int) -> tuple[int, int, str]:
        return self.images[index]

    def zooms(self) -> dict[tuple[str, int], tuple[np.ndarray, Array]]:
        return {}

    def unrolled(self, stream: CameraStream, w_T_c: Array, tracks: Tracks, motion: Motion) -> Tracks:
        return Tracks(tracks.ids, tracks.pixels - motion.step[:2])

    def drift(self, stream: CameraStream, w_T_c: Array, tracks: Tracks) -> Array:
        return self.off * np.ones_like(tracks.pixels)

    @property
    def finder(self) -> Keyframes:
        return self

    def locate(self, stream: CameraStream, tracks: Tracks, near: Array | None = None) -> PnpResult | None:
        self.asked.append((tracks.pixels, near))
        return self.answers.pop(0) if self.answers else None

    def exact_poses(self, frames: Sequence[LocatedFrame]) -> list[Array | None]:
        return [None if frame.gray is None else self.exact.pop(0) for frame in frames]


def at(x: float) -> Array:
    pose = np.eye(4)
    pose[0, 3] = x
    return pose


def found(x: float) -> PnpResult:
    return PnpResult(at(x), np.ones(1, bool), np.eye(6), 0.1, 100.0)


def seen(stamp_ns: int, anchored_ns: int = 0, session: int = 0) -> TrackedImage:
    return TrackedImage(stamp_ns, Tracks(np.arange(2), np.zeros((2, 2))), anchored_ns, session=session)


LEFT, RIGHT = (CameraStream(name, k, 64, 48, MapperConfig()) for k, name in enumerate(("left", "right")))


def places(log: FrameLog) -> list[float]:
    return [float(pose.w_T_c[0, 3]) for pose in log.trajectory()]


def test_frames_move_and_grow_with_their_keyframe() -> None:
    keyframes = Keyframes(0.0, 1.0)
    log = FrameLog(keyframes)
    log.add_keyframe(0, LEFT, seen(1))
    log.add(0, LEFT, seen(2), found(0.5))
    log.add_keyframe(1, LEFT, seen(3))
    assert places(log) == [0.0, 0.5, 1.0] and log.count() == 3
    keyframes.poses[0] = at(10.0)
    keyframes.units[0] = 2.0
    assert places(log) == [10.0, 11.0, 1.0]


def test_frames_are_found_again() -> None:
    keyframes = Keyframes(0.0)
    log, keyframes.answers = FrameLog(keyframes), [None, found(3.0), None]
    log.add(0, LEFT, seen(1), None)
    log.find_again()
    assert places(log) == [] and [near for _, near in keyframes.asked] == [None]
    log.find_again()
    assert places(log) == [3.0]
    log.find_again()
    assert places(log) == [3.0], "what was known stays"
    np.testing.assert_array_equal(keyframes.asked[2][1], at(3.0))


def test_frames_with_an_image_are_measured_in_it_at_last() -> None:
    keyframes = Keyframes(1.0)
    log = FrameLog(keyframes)
    for stamp_ns in range(1, 5):
        image = None if stamp_ns == 2 else np.zeros((48, 64), np.uint8)
        log.add(0, LEFT, replace(seen(stamp_ns), gray=image), None)
    keyframes.answers = [found(float(x)) for x in (2, 3, 4)]
    log.find_again()
    assert places(log) == [2.0, 3.0, 4.0], "not before"
    keyframes.answers, keyframes.exact = [found(float(x)) for x in (2, 3, 4)], [at(2.1), None]
    log.find_again(exactly=True)
    assert places(log) == pytest.approx([2.1, 3.0, 4.0]) and not keyframes.exact, "the last one is not found at all"


def test_frames_are_found_by_corners_without_what_a_rolling_shutter_did() -> None:
    """Each by its own motion, from the frames before and after it; keyframes alike, or that would pass for drift."""
    keyframes = Keyframes(0.0)
    log = FrameLog(keyframes)
    for second, x in enumerate((0.0, 1.0, 3.0)):
        log.add(0, LEFT, seen(second * 1_000_000_000), found(x))
    log.add(0, RIGHT, seen(1_000_000_000), found(1.0))
    log.find_again(motions=log.motions())
    assert [pixels[0, 0] for pixels, _ in keyframes.asked] == pytest.approx([-1.0, -1.5, -2.0, 0.0])
    keyframes.asked.clear()
    log.find_again()
    assert not any(pixels.any() for pixels, _ in keyframes.asked)


def test_frames_are_found_by_corners_without_the_drift_that_keyframes_of_their_camera_tell() -> None:
    keyframes = Keyframes(0.0, 1.0, 2.0)
    log, keyframes.off = FrameLog(keyframes), 0.5
    log.add_keyframe(0, LEFT, seen(100))
    for stamp_ns, camera in ((150, LEFT), (160, RIGHT), (175, LEFT)):
        log.add(0, camera, seen(stamp_ns, 100), None)
    log.add_keyframe(1, LEFT, seen(200))
    log.add(1, LEFT, seen(210, 100), None)
    log.find_again()
    assert [pixels[0, 0] for pixels, _ in keyframes.asked] == [-0.25, 0.0, -0.375, -0.5]
    keyframes.poses[1] = None
    log.find_again()
    assert [pixels[0, 0] for pixels, _ in keyframes.asked[4:]] == [0.0, 0.0, 0.0, 0.0]


def test_a_unit_that_is_not_known_changes_nothing() -> None:
    keyframes = Keyframes(0.0)
    keyframes.units[0] = float("nan")
    log = FrameLog(keyframes)
    log.add(0, LEFT, seen(1), found(0.5))
    keyframes.units[0] = 3.0
    assert places(log) == [0.5]


def test_the_frames_of_another_map() -> None:
    keyframes = Keyframes(0.0, 5.0)
    log, other = FrameLog(keyframes), FrameLog(Keyframes(0.0))
    log.add_keyframe(0, LEFT, seen(2))
    other.add_keyframe(0, RIGHT, seen(1))
    other.add(0, RIGHT, seen(3), found(0.25))
    log.absorb(other, 1, np.arange(9))
    assert [(pose.stamp_ns, pose.camera) for pose in log.trajectory()] == [(1, "right"), (2, "left"), (3, "right")]
    assert places(log) == [5.0, 0.0, 5.25]


def test_whether_the_frames_of_another_map_are_all_here_with_a_pose() -> None:
    log, other = FrameLog(Keyframes(0.0, 5.0)), FrameLog(Keyframes(0.0))
    log.add_keyframe(0, LEFT, seen(1))
    log.add(0, LEFT, seen(2), found(0.5))
    log.add(0, LEFT, seen(3), None)
    other.add_keyframe(0, LEFT, seen(2))
    assert log.show(other) and not other.show(log)
    other.add(0, LEFT, seen(3), found(0.5))
    assert not log.show(other), "one has no pose here"
    log.add_keyframe(1, LEFT, seen(3))
    assert log.show(other)
    other.add_keyframe(0, RIGHT, seen(1))
    assert not log.show(other), "nor is that of another camera"


def test_frames_of_both_maps_are_found_again() -> None:
    """By corners as the landmarks are called by now, and without their drift."""
    keyframes = Keyframes(0.0, 5.0)
    log, other = FrameLog(keyframes), FrameLog(Keyframes(0.0))
    log.add_keyframe(0, LEFT, seen(1))
    log.add(0, LEFT, seen(2), found(0.5))
    other.add_keyframe(0, LEFT, seen(3))
    other.add(0, LEFT, seen(2), found(0.7))  # it is here
    other.add(0, LEFT, seen(4), found(0.25))
    log.absorb(other, 1, np.arange(10, 19))
    assert set(np.concatenate(log.landmark_ids()).tolist()) == {0, 1, 10, 11}
    keyframes.answers = [found(0.6), found(5.5)]
    log.find_again()
    assert places(log) == [0.0, 0.6, 5.0, 5.5]


def test_another_unit_for_frames_of_keyframes_that_see_nothing_too() -> None:
    keyframes = Keyframes(1.0, 2.0, 3.0)
    log = FrameLog(keyframes)
    keyframes.units[1] = float("nan")
    for index in range(3):
        log.add(index, LEFT, seen(index), found(1.5 + index))
    log.add(2, LEFT, seen(3), None)
    keyframes.units[2] = float("nan")  # lost what it saw since
    for index in range(3):
        keyframes.poses[index] = at(10.0 * (1 + index))
        keyframes.units[index] *= 10.0
    log.rescale(10.0)
    assert places(log) == [15.0, 25.0, 35.0] and log.count() == 3
    keyframes.units[0] *= 2.0
    assert places(log) == [20.0, 25.0, 35.0], "and they grow on with their keyframe"


def test_frames_of_earlier_sessions_come_first() -> None:
    keyframes = Keyframes(0.0, 5.0)
    before = FrameLog(keyframes)
    before.add_keyframe(0, LEFT, seen(70))
    before.add(1, LEFT, seen(80), found(6.0))
    log = FrameLog(keyframes)
    log.restore(frame for _, frame in before.since(0, -1))
    assert log.count() == 2
    log.add(0, RIGHT, seen(3, session=1), found(0.25))  # the clock began anew
    assert [pose.stamp_ns for pose in log.trajectory()] == [70, 80, 3] and places(log) == [0.0, 6.0, 0.25]


def test_frames_of_two_clocks_have_nothing_to_do_with_each_other() -> None:
    """A bag that is played again: stamps repeat, or lie between those of the first time."""
    keyframes, second = Keyframes(0.0, 5.0), 1_000_000_000
    log, other = FrameLog(keyframes), FrameLog(Keyframes(0.0))
    for at_s in range(3):
        log.add(0, LEFT, seen(at_s * second), found(float(at_s)))
        other.add(0, LEFT, seen(at_s * second, session=1), found(2.0 * at_s))
        other.add(0, RIGHT, seen(at_s * second + 1, session=1), found(0.0))
    log.absorb(other, 1, np.arange(2))
    assert places(log) == [0.0, 1.0, 2.0, 5.0, 5.0, 7.0, 5.0, 9.0, 5.0], "none is missing"
    motions = log.motions()
    steps = [motion and motion.step[0] for motion in (motions.at("left", second, session) for session in range(3))]
    assert steps == [pytest.approx(1.0), pytest.approx(2.0), None]
    assert log.has(second, "left", 1) and not log.has(second, "right", 0) and not log.has(second, "left", 2)
    assert [place[0, 3] for session in (0, 1) if (place := log.near(2 * second, "left", session)) is not None] == [2, 9]
    only = [(second, "left"), (2 * second, "left")]
    assert [pose.w_T_c[0, 3] for pose in log.trajectory(only, range(1, 2))] == [7.0, 9.0]


def test_a_camera_lost_just_now_is_not_far_away() -> None:
    """It moves by 0.1 a frame, at 10 frames a second, through what is a unit away."""
    log, frame = FrameLog(Keyframes(0.0)), 100_000_000
    assert log.may_be(frame, "left", at(9.0)), "nothing is known of it"
    for number in range(10):
        log.add(0, LEFT, seen(number * frame), found(0.1 * number))
        log.add(0, RIGHT, seen(number * frame), found(5.0))
    log.add(0, LEFT, seen(10 * frame), None)

    def far(frames: int) -> tuple[bool, ...]:
        return tuple(log.may_be((9 + frames) * frame, "left", at(0.9 + x)) for x in (0.1, -0.3, 0.7, -1.5, 2.5))

    assert far(1) == (True, True, False, False, False)
    assert far(3) == (True, True, True, False, False)
    assert far(10) == (True, True, True, True, True)
    assert log.may_be(10 * frame, "right", at(5.05)) and not log.may_be(10 * frame, "right", at(5.3)), "it stood still"
    assert log.may_be(10 * frame, "left", at(9.0), session=1), "by another clock"


@pytest.mark.parametrize(("each", "frames", "most"), [(0.0, 3, 28.0), (5.0, 3, 73.0), (0.0, 10, 110.0)])
def test_a_camera_lost_just_now_has_not_turned_around(each: float, frames: int, most: float) -> None:
    """It turns by so many degrees a frame, at 10 frames a second."""
    log, frame = FrameLog(Keyframes(0.0)), 100_000_000

    def turned(degrees: float) -> PnpResult:
        result = found(0.0)
        w_T_c = pose(Rotation.from_euler("y", degrees, degrees=True).as_matrix(), result.w_T_c[:3, 3])
        return replace(result, w_T_c=w_T_c)

    for number in range(10):
        log.add(0, LEFT, seen(number * frame), turned(each * number))
    for sign in (-1, 1):
        assert log.may_be((9 + frames) * frame, "left", turned(9 * each + sign * (most - 2.0)).w_T_c)
        assert not log.may_be((9 + frames) * frame, "left", turned(9 * each + sign * (most + 2.0)).w_T_c)


def test_what_corners_drift_until_another_clock_is_another_matter() -> None:
    keyframes = Keyframes(0.0, 1.0)
    log, keyframes.off = FrameLog(keyframes), 0.5
    log.add_keyframe(0, LEFT, seen(100))
    log.add(0, LEFT, seen(150, 100), None)
    log.add_keyframe(1, LEFT, seen(20, session=1))
    log.add(1, LEFT, seen(160, 20, session=1), None)
    log.find_again()
    assert [pixels[0, 0] for pixels, _ in keyframes.asked] == [0.0, 0.0], "no keyframe of its clock comes after either"


def test_what_changed_of_frames_that_were_written_is_reported() -> None:
    keyframes = Keyframes(0.0)
    log, keyframes.answers = FrameLog(keyframes), [found(0.7)]
    log.add_keyframe(0, LEFT, seen(1))
    log.add(0, LEFT, seen(2), found(0.5))
    rewritten = log.rewritten
    log.add(0, LEFT, seen(3), found(0.6))
    assert log.rewritten == rewritten and [place for place, _ in log.since(2, rewritten)] == [2]
    log.find_again()
    assert log.rewritten > rewritten
    [(place, frame), new] = log.since(2, rewritten)
    assert (place, frame.stamp_ns, new[0]) == (1, 2, 2) and frame.keyframe_T_frame[0, 3] == 0.7
    rewritten = log.rewritten
    log.rescale(2.0)
    assert [place for place, _ in log.since(3, rewritten)] == [0, 1, 2]
    assert list(log.since(3, log.rewritten)) == []


def test_a_keyframe_without_a_pose_has_no_place_yet() -> None:
    keyframes = Keyframes(0.0, 1.0)
    log = FrameLog(keyframes)
    log.add_keyframe(0, LEFT, seen(1))
    log.add_keyframe(1, LEFT, seen(2))
    keyframes.poses[0] = None
    assert places(log) == [1.0] and log.count() == 1
    keyframes.poses[0] = at(0.5)
    assert places(log) == [0.5, 1.0] and log.count() == 2


def test_a_long_path_is_thinned_and_keeps_its_newest_pose() -> None:
    log = FrameLog(Keyframes(0.0))
    for frame in range(10_001):
        log.keep(0, LEFT, seen(frame), at(0.1 * frame), 1.0)
        if frame % 10 == 0:
            log.keep(0, RIGHT, seen(frame), at(0.0), 1.0)
    path = log.path("left", 2000)
    stamps = [pose.stamp_ns for pose in path]
    assert len(stamps) <= 2000 and stamps[-1] == 10_000 and len(set(np.diff(stamps))) == 1
    assert {pose.camera for pose in path} == {"left"} and path[-1].w_T_c[0, 3] == 1000.0
    assert log.count() == len(log.trajectory()) == 10_001 + 1001
    assert log.path("nobody", 2000) == [] == FrameLog(Keyframes()).path("camera", 2000)


def test_a_day_of_frames_is_put_away_and_only_what_changed_is_read() -> None:
    """All but the first blocks; frames that change are found wherever they are."""
    keyframes, away = Keyframes(0.0, 5.0), list[np.ndarray]()

    def put_away(block: np.ndarray) -> np.ndarray:
        away.append(block)
        return block

    log, frames = FrameLog(keyframes, put_away=put_away), 45_000
    corners, place = seen(0), at(1.0)
    for _ in range(frames):
        log.keep(0, LEFT, corners, place, 1.0)
    assert 0 < sum(map(len, away)) < frames and len(log) == log.count() == frames
    written = log.rewritten
    assert [place for place, _ in log.since(frames, written)] == []
    log.find_again()  # in vain
    keyframes.answers = [found(3.0)]
    log.find_again()
    keyframes.answers = [found(4.0)]
    log.find_again(newest=200)
    places = [place for place, _ in log.since(frames, written)]
    assert places == [frames - 1000, frames - 200], "the oldest that can be located again, and the oldest of the newest"
    log.rescale(2.0)
    keyframes.units = [2.0, 2.0]
    assert len(list(log.since(frames, written))) == frames and log.trajectory()[-1].w_T_c[0, 3] == 2.0


def test_keyframes_are_forgotten_when_no_frame_lies_beside_them() -> None:
    """They would hold their landmarks for ever, though frames of an hour ago are not located again."""
    log = FrameLog(Keyframes(0.0))
    for keyframe in range(50):
        stamp_ns = 100 * keyframe
        log.add_keyframe(0, LEFT, TrackedImage(stamp_ns, Tracks(np.array([keyframe]), np.zeros((1, 2))), stamp_ns))
        for later in range(1, 100):
            corner = Tracks(np.array([1000]), np.zeros((1, 2)))
            log.keep(0, LEFT, TrackedImage(stamp_ns + later, corner, 0), at(1.0), 1.0)
    held = sorted({int(one) for ids in log.landmark_ids() for one in ids} - {1000})
    assert held == list(range(38, 50)), "those of 1000 frames, and the one before, when the last one came"


def test_fewer_frames_are_kept_where_they_have_many_corners() -> None:
    """A camera that stays in a mapped place sees four times as many: memory would grow for minutes."""
    log, many = FrameLog(Keyframes(0.0)), 5000
    corners = Tracks(np.arange(many), np.zeros((many, 2)))
    log.add_keyframe(0, LEFT, TrackedImage(0, corners, 0))
    for stamp_ns in range(1, 300):
        log.keep(0, LEFT, TrackedImage(stamp_ns, corners, stamp_ns), at(1.0), 1.0)
    assert 130 * many < sum(map(len, log.landmark_ids())) < 150 * many


def test_what_is_found_by_little_lies_on_the_path_in_the_end() -> None:
    keyframes = Keyframes(0.0, 3.0)
    log, step_ns = FrameLog(keyframes), 66_666_667
    keyframes.images = [(0, 0, "left"), (0, 30 * step_ns, "left")]
    log.add_keyframe(0, LEFT, seen(0))
    for k in range(1, 30):
        log.add(0, LEFT, seen(k * step_ns), found(0.1 * k))
    log.add_keyframe(1, LEFT, seen(30 * step_ns))
    log.keep(0, LEFT, seen(100 * step_ns), at(7.0), 1.0)  # long after all others, and not found
    sure, vague = 1e-8 * np.eye(6), 0.04 * np.eye(6)
    answers = [replace(found(0.1 * k), covariance=sure) for k in range(1, 30)]
    answers[10], answers[20] = replace(found(1.6), covariance=vague), None
    keyframes.answers = [*answers, None]
    log.find_again(exactly=True)
    np.testing.assert_allclose(places(log), [*(0.1 * np.arange(31)), 7.0], atol=0.01)


def test_a_frame_just_where_its_keyframe_is_lies_on_the_path_too() -> None:
    keyframes = Keyframes(0.0, 3.0)
    keyframes.images = [(0, 0, "left"), (0, 30 * 10**8, "left")]
    log = FrameLog(keyframes)
    log.add_keyframe(0, LEFT, seen(0))
    for k in range(1, 30):
        log.keep(0, LEFT, seen(k * 10**8), at(0.0 if k == 20 else 0.1 * k), 1.0)
    log.add_keyframe(1, LEFT, seen(30 * 10**8))
    sure = [replace(found(0.1 * k), covariance=1e-8 * np.eye(6)) for k in range(1, 30)]
    keyframes.answers = [*sure[:19], None, *sure[20:]]
    log.find_again(exactly=True)
    np.testing.assert_allclose(places(log), 0.1 * np.arange(31), atol=0.01)


def test_a_path_of_kept_images_is_as_they_show_it() -> None:
    keyframes = Keyframes(0.0)
    log = FrameLog(keyframes)
    for k in range(8):
        log.add(0, LEFT, replace(seen(k * 10**8), gray=np.zeros((48, 64), np.uint8)), None)
    keyframes.answers, keyframes.exact = [found(0.0)] * 8, [at(float(k % 2)) for k in range(8)]
    log.find_again(exactly=True)
    assert places(log) == [float(k % 2) for k in range(8)]
