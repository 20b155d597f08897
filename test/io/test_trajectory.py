"""TUM files: exact stamps, poses to nine digits, readable by the usual tool."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.io.trajectory import (
    path_length,
    read_tum,
    stamp_from_text,
    stamp_to_text,
    write_trajectories,
    write_tum,
)
from dust3r_ros.types import StampedPose


@given(st.integers(0, 2**63 - 1))
def test_round_trip_is_exact(stamp_ns: int) -> None:
    assert stamp_from_text(stamp_to_text(stamp_ns)) == stamp_ns


def test_text_is_seconds() -> None:
    assert stamp_from_text("1341841278.842700") == 1341841278_842700000
    assert stamp_from_text("0.3333333339") == 333333333
    assert stamp_from_text("7") == 7_000_000_000
    assert stamp_from_text("1.5e3") == 1_500_000_000_000
    assert stamp_to_text(1_000_000_001) == "1.000000001"
    assert stamp_to_text(-1_500_000_000) == "-1.500000000"


@pytest.mark.parametrize("text", ["", "abc", "nan", "inf", "-1", "1e300", "1.2.3", "rgb/000.png"])
def test_what_is_no_stamp_is_none(text: str) -> None:
    assert stamp_from_text(text) is None


def some_poses(count: int = 40) -> list[StampedPose]:
    rng = np.random.default_rng(2)
    rotations = Rotation.random(count, random_state=3).as_matrix()
    stamps = 1_700_000_000_123_456_789 + np.arange(count) * 33_333_333
    positions = 5 * rng.normal(size=(count, 3))
    return [StampedPose(int(stamps[i]), "camera", pose(rotations[i], positions[i])) for i in range(count)]


def test_round_trip(tmp_path: Path) -> None:
    poses = some_poses()
    write_tum(tmp_path / "trajectory.txt", poses)
    back = read_tum(tmp_path / "trajectory.txt")
    assert [item.stamp_ns for item in back] == [item.stamp_ns for item in poses]
    assert np.allclose([item.w_T_c for item in back], [item.w_T_c for item in poses], atol=1e-7)


def test_lines_are_stamp_position_quaternion(tmp_path: Path) -> None:
    turned = pose(Rotation.from_euler("z", 90, degrees=True).as_matrix(), [1, -2, 3])
    write_tum(tmp_path / "t.txt", [StampedPose(1_700_000_000_000_000_001, "camera", turned)])
    lines = (tmp_path / "t.txt").read_text().splitlines()
    assert lines[0].startswith("#") and len(lines) == 2
    stamp, *numbers = lines[1].split()
    assert stamp == "1700000000.000000001"
    assert [float(n) for n in numbers] == pytest.approx([1, -2, 3, 0, 0, 0.5**0.5, 0.5**0.5], abs=1e-9)


def test_evo_reads_it(tmp_path: Path) -> None:
    file_interface = pytest.importorskip("evo.tools.file_interface", reason="evo is not installed")
    poses = some_poses()
    write_tum(tmp_path / "trajectory.txt", poses)
    trajectory = file_interface.read_tum_trajectory_file(tmp_path / "trajectory.txt")
    assert np.allclose(np.stack(trajectory.poses_se3), [item.w_T_c for item in poses], atol=1e-7)
    assert trajectory.check()[0]


def test_of_several_cameras_each_has_a_file_of_its_own(tmp_path: Path) -> None:
    poses = some_poses()
    write_trajectories(tmp_path / "one.txt", poses)
    assert [path.name for path in tmp_path.iterdir()] == ["one.txt"]
    both = [replace(item, camera="robot/left" if k % 2 else "right") for k, item in enumerate(poses)]
    write_trajectories(tmp_path / "trajectory.txt", both)
    assert len(read_tum(tmp_path / "trajectory.txt")) == len(poses)
    for name, first in (("robot_left", 1), ("right", 0)):
        found = read_tum(tmp_path / f"trajectory_{name}.txt")
        assert [item.stamp_ns for item in found] == [item.stamp_ns for item in poses[first::2]]


def test_cameras_whose_names_differ_by_a_slash_have_files_of_their_own(tmp_path: Path) -> None:
    alike = [replace(item, camera="front/left" if k % 2 else "front_left") for k, item in enumerate(some_poses())]
    write_trajectories(tmp_path / "trajectory.txt", alike)
    found = [read_tum(tmp_path / f"trajectory_front_left{end}.txt") for end in ("", "_2")]
    assert [[item.stamp_ns for item in part] for part in found] == [
        [item.stamp_ns for item in alike[first::2]] for first in (0, 1)
    ]


def test_an_empty_trajectory_is_a_header(tmp_path: Path) -> None:
    write_tum(tmp_path / "t.txt", [])
    assert read_tum(tmp_path / "t.txt") == []


@pytest.mark.parametrize(
    "line", ["1 2 3", "x 0 0 0 0 0 0 1", "1 0 0 0 0 0 0 0", "1 0 0 nan 0 0 0 1", "1 0 0 0 0 0 0 1 9", "1 a 0 0 0 0 0 1"]
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "t.txt").write_text(f"# header\n0 0 0 0 0 0 0 1\n{line}\n")
    with pytest.raises(InputError, match=r"t\.txt' line 3"):
        read_tum(tmp_path / "t.txt")


def test_a_line_of_nothing_but_commas_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(",\n")
    with pytest.raises(InputError, match="line 1"):
        read_tum(tmp_path / "a.txt")


def test_real_truth_is_read(shared: Path) -> None:
    poses = read_tum(shared / "data" / "7scenes_redkitchen" / "groundtruth.txt")
    assert len(poses) == 100 and poses[1].stamp_ns == 333_333_000


@pytest.mark.parametrize("stamp", ["1e999999999", "1e-999999999", "9" * 5000, "-1", "nan", "0e999999999"])
def test_stamps_beyond_all_clocks(stamp: str) -> None:
    assert stamp_from_text(stamp) in (None, 0)


@pytest.mark.parametrize(
    "pose", ["0 0 0 1e300 1e300 0 1", "0 0 0 7 0 0 1", "1e30 0 0 0 0 0 1", "0 0 nan 0 0 0 1", "0 0 0 0 0 0 0"]
)
def test_numbers_that_are_no_pose(tmp_path: Path, pose: str) -> None:
    (tmp_path / "t.txt").write_text(f"1 {pose}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"t\.txt' line 1"):
        read_tum(tmp_path / "t.txt")


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=7, max_size=7))
def test_what_is_read_is_rigid(tmp_path_factory: pytest.TempPathFactory, numbers: list[float]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text(f"1 {' '.join(map(str, numbers))}\n", encoding="utf-8")
    try:
        (read,) = read_tum(path)
    except InputError:
        return
    R = read.w_T_c[:3, :3]
    assert np.isfinite(read.w_T_c).all() and np.allclose(R @ R.T, np.eye(3), atol=1e-9)


def test_the_length_is_that_of_the_camera_with_most_poses() -> None:
    way = [StampedPose(t, "front", pose(np.eye(3), [float(t), 0, 0])) for t in range(4)]
    other = [StampedPose(t, "rear", pose(np.eye(3), [9.0 * t, 0, 0])) for t in range(2)]
    assert path_length([*way[:2], *other, *way[2:]]) == 3.0
    assert path_length(way[:1]) == path_length([]) == 0.0
