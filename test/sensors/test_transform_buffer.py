"""The tree of frames: what it tells equals the motion that was put in; what it cannot know it says."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dust3r_ros.geometry.rigid import angle_deg, invert, pose
from dust3r_ros.sensors.transform_buffer import MAX_FRAMES, MAX_SAMPLES, TransformBuffer, Unavailable

S = 10**9
seeds = st.integers(0, 2**32 - 1)


def some_pose(rng: np.random.Generator) -> np.ndarray:
    return pose(Rotation.random(None, rng).as_matrix(), rng.normal(size=3))


def screw(t: float, rng_seed: int = 3) -> np.ndarray:
    """A motion of constant velocities, which interpolation has to give back exactly."""
    rng = np.random.default_rng(rng_seed)
    axis, velocity, start = rng.normal(size=3), rng.normal(size=3), some_pose(rng)
    return pose(start[:3, :3] @ Rotation.from_rotvec(t * axis).as_matrix(), start[:3, 3] + t * velocity)


def found(answer: np.ndarray | Unavailable) -> np.ndarray:
    assert not isinstance(answer, Unavailable), answer
    return answer


def why(answer: np.ndarray | Unavailable) -> Unavailable:
    assert isinstance(answer, Unavailable), answer
    return answer


@given(seeds, st.integers(2, 8))
def test_any_two_frames_of_a_random_tree_are_connected(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    buffer = TransformBuffer()
    r_T_n = {"f0": np.eye(4)}
    for index in range(1, count):
        parent = f"f{rng.integers(index)}"
        p_T_c = some_pose(rng)
        r_T_n[f"f{index}"] = r_T_n[parent] @ p_T_c
        assert buffer.add(parent, f"f{index}", 5 * S, p_T_c, static=bool(rng.integers(2))) == ""
    a, b = (f"f{rng.integers(count)}" for _ in range(2))
    np.testing.assert_allclose(found(buffer.lookup(a, b, 5 * S)), invert(r_T_n[a]) @ r_T_n[b], atol=1e-9)
    np.testing.assert_allclose(found(buffer.lookup(b, a, None)), invert(r_T_n[b]) @ r_T_n[a], atol=1e-9)


@given(st.floats(0.0, 2.0), seeds)
def test_between_samples_a_steady_motion_is_given_back(t: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    buffer = TransformBuffer()
    stamps = np.arange(0, 2 * S + 1, S // 10)
    for stamp in rng.permutation(stamps[-9:]).tolist():  # the newest of them in any order
        buffer.add("odom", "base", stamp, screw(stamp / S))
    for stamp in stamps.tolist():
        buffer.add("odom", "base", stamp, screw(stamp / S))
    stamp = int(t * S)
    np.testing.assert_allclose(found(buffer.lookup("odom", "base", stamp)), screw(stamp / S), atol=1e-9)


def test_a_camera_on_a_moving_robot() -> None:
    rng = np.random.default_rng(1)
    b_T_c = some_pose(rng)
    buffer = TransformBuffer()
    buffer.add("base", "camera", 0, b_T_c, static=True)
    for stamp in range(0, S, S // 20):
        buffer.add("odom", "base", stamp, screw(stamp / S))
    at = 123_456_789
    np.testing.assert_allclose(found(buffer.lookup("odom", "camera", at)), screw(at / S) @ b_T_c, atol=1e-9)
    assert np.array_equal(found(buffer.lookup("/base", "/camera", 10**18)), b_T_c)
    assert np.array_equal(found(buffer.fixed("base", "camera")), b_T_c)  # type: ignore[arg-type]
    assert buffer.fixed("odom", "camera") is None and buffer.fixed("odom", "nothing") is None
    assert (buffer.parent("/camera"), buffer.parent("odom"), buffer.parent("x")) == ("base", None, None)


def test_a_sample_is_given_back_bit_for_bit_and_cannot_be_written_to() -> None:
    buffer = TransformBuffer()
    p_T_c = screw(0.3)
    buffer.add("a", "b", 7, p_T_c)
    buffer.add("a", "b", 9, screw(0.4))
    answer = found(buffer.lookup("a", "b", 7))
    assert np.array_equal(answer, p_T_c)
    p_T_c[0, 3] = answer[0, 3] = 99.0
    assert found(buffer.lookup("a", "b", 7))[0, 3] != 99.0


def test_what_is_not_known_is_said() -> None:
    buffer = TransformBuffer(history_ns=2 * S)
    buffer.add("odom", "base", 10 * S, np.eye(4))
    buffer.add("odom", "base", 11 * S, np.eye(4))
    buffer.add("world", "arm", 10 * S, np.eye(4))
    answer = why(buffer.lookup("odom", "lidar", 10 * S))
    assert "'lidar'" in answer.reason and answer.later
    answer = why(buffer.lookup("odom", "arm", 10 * S))
    assert "not connected" in answer.reason and answer.later
    answer = why(buffer.lookup("odom", "base", 9_750_000_000))
    assert "'base' is 0.250 s younger" in answer.reason and not answer.later
    answer = why(buffer.lookup("odom", "base", 11_500_000_000, tolerance_ns=S // 10))
    assert "'base' is 0.500 s older" in answer.reason and answer.later
    assert np.array_equal(found(buffer.lookup("x", "x", 0)), np.eye(4))


def test_the_tolerance_reaches_the_nearest_sample_and_no_further() -> None:
    buffer = TransformBuffer()
    for second in (0, 1, 5):
        buffer.add("odom", "base", second * S, pose(np.eye(3), [second, 0, 0]))
    for at, tolerance, x in ((-9, 9, 0), (5 * S + 9, 9, 5), (S + 9, 9, 1), (5 * S - 9, 9, 5), (S // 2, 0, 0.5)):
        assert found(buffer.lookup("odom", "base", at, tolerance))[0, 3] == x
    for at in (-10, 5 * S + 10, S + 10, 5 * S - 10):
        assert isinstance(buffer.lookup("odom", "base", at, 9), Unavailable)
    assert "in a gap, is 1.000 s" in why(buffer.lookup("odom", "base", 2 * S, 9)).reason


def test_history_is_bounded_in_time_and_number() -> None:
    buffer = TransformBuffer(history_ns=S)
    for stamp in range(0, 5 * S, S // 10):
        buffer.add("odom", "base", stamp, np.eye(4))
    assert isinstance(buffer.lookup("odom", "base", 3 * S), Unavailable)
    found(buffer.lookup("odom", "base", 4 * S))
    for stamp in range(MAX_SAMPLES + 10):
        buffer.add("map", "odom", stamp, np.eye(4))
    assert isinstance(buffer.lookup("map", "odom", 9), Unavailable)
    found(buffer.lookup("map", "odom", 10))


def test_a_second_parent_wins_and_is_remarked_on() -> None:
    buffer = TransformBuffer()
    buffer.add("odom", "base", S, np.eye(4))
    assert "two parents, 'odom' and 'map'" in buffer.add("map", "base", S, screw(1.0))
    assert np.array_equal(found(buffer.lookup("map", "base", S)), screw(1.0))
    assert isinstance(buffer.lookup("odom", "base", S), Unavailable)
    assert buffer.add("map", "base", 2 * S, np.eye(4), static=True) == ""  # of another kind from now on
    assert np.array_equal(found(buffer.fixed("map", "base")), np.eye(4))  # type: ignore[arg-type]
    assert "the static one is kept" in buffer.add("odom", "base", 3 * S, np.eye(4))
    assert buffer.parent("base") == "map"


@pytest.mark.parametrize(
    ("parent", "child", "p_T_c", "reason"),
    [
        ("c", "a", np.eye(4), "loop"),
        ("b", "a", np.eye(4), "loop"),
        ("a", "a", np.eye(4), "to itself"),
        ("", "a", np.eye(4), "lacks a frame name"),
        ("a", "/", np.eye(4), "lacks a frame name"),
        ("a", "x", np.full((4, 4), np.nan), "not finite"),
        ("a", "x", np.eye(3), "(4, 4)"),
        ("a", "x", np.zeros((4, 4)), "not a rigid motion"),
        ("a", "x", np.diag([1.0, 1.0, -1.0, 1.0]), "not a rigid motion"),
        ("a", "x", np.diag([2.0, 2.0, 2.0, 1.0]), "not a rigid motion"),
    ],
)
def test_impossible_transforms_are_refused_and_change_nothing(parent, child, p_T_c, reason) -> None:
    buffer = TransformBuffer()
    buffer.add("a", "b", S, screw(0.1))
    buffer.add("b", "c", S, screw(0.2))
    assert reason in buffer.add(parent, child, S, p_T_c)
    np.testing.assert_array_equal(found(buffer.lookup("a", "c", S)), screw(0.1) @ screw(0.2))
    assert buffer.parent("x") is None and buffer.parent("a") is None


def test_time_that_jumps_back_clears_all_but_what_is_static() -> None:
    buffer = TransformBuffer()
    buffer.add("base", "camera", 0, screw(0.5), static=True)
    buffer.add("map", "odom", 100 * S, np.eye(4))
    buffer.add("odom", "base", 100 * S, np.eye(4))
    assert buffer.add("odom", "base", 100 * S - S // 2, np.eye(4)) == ""  # only late
    assert "jumps back by 90.000 s" in buffer.add("odom", "base", 10 * S, screw(1.0))
    assert isinstance(buffer.lookup("odom", "base", 100 * S), Unavailable)
    assert "since time jumped back" in why(buffer.lookup("map", "odom", 100 * S)).reason
    found(buffer.lookup("odom", "camera", 10 * S))
    buffer.clear()
    assert why(buffer.lookup("odom", "camera", 10 * S)).later
    found(buffer.lookup("base", "camera", 10 * S))


def test_no_more_frames_than_a_robot_has() -> None:
    buffer = TransformBuffer()
    for index in range(MAX_FRAMES):
        assert buffer.add("root", f"f{index}", 0, np.eye(4), static=True) == ""
    assert "refused" in buffer.add("root", "more", 0, np.eye(4))
    assert buffer.add("root", "f7", 0, np.eye(4), static=True) == ""


def test_one_thread_writes_while_another_reads() -> None:
    """Whatever the reader sees is a pose of the motion."""
    buffer, wrong, done = TransformBuffer(history_ns=S // 10), [], threading.Event()
    buffer.add("odom", "base", 0, screw(0.0))

    def read() -> None:
        while not done.is_set():
            answer = buffer.lookup("odom", "base", None)
            if isinstance(answer, Unavailable) or angle_deg(answer[:3, :3] @ answer[:3, :3].T) > 1e-3:
                wrong.append(answer)

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(1, 3000):
        buffer.add("odom", "base", index * 10**6, screw(index * 1e-3))
    done.set()
    reader.join()
    assert wrong == []
