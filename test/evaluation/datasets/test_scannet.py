"""ScanNet: exported scenes, depth in the colour image, lost frames, split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from spots import check, damage, numbers, spots, write, write_png16

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS

K = np.array([[116.0, 0, 64], [0, 117, 48], [0, 0, 1]])
SPOTS = spots(K, 128, 96, count=2, seed=6)
SCENE = "scene0707_00"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    scene = tmp_path / "scans" / SCENE
    # Out of the order of their names: 2 before 10.
    for index, spot in zip((2, 10), SPOTS, strict=True):
        spot.write_image(scene / f"color/{index}.jpg")
        spot.write_depth(scene / f"depth/{index}.png", 1000)
        write(scene / f"pose/{index}.txt", *map(numbers, spot.w_T_c))
    intrinsic = np.eye(4)
    intrinsic[:3, :3] = K
    for which in ("color", "depth"):
        write(scene / f"intrinsic/intrinsic_{which}.txt", *map(numbers, intrinsic))
    write(tmp_path / "scannetv2_test.txt", SCENE)
    return tmp_path


def test_the_point_is_where_the_images_have_it(root: Path) -> None:
    (recording,) = DATASETS["scannet"].open(root)
    assert (recording.name, recording.split, recording.scene) == (SCENE, "test", "scene0707")
    assert [view.stamp_ns for view in recording.views] == [66666666, 333333333]
    for view, spot in zip(recording.views, SPOTS, strict=True):
        check(view, spot)


def test_depth_of_a_smaller_camera_comes_into_the_colour_image(root: Path) -> None:
    scene = root / "scans" / SCENE
    half = np.array([[58.0, 0, 32, 0], [0, 58.5, 24, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    write(scene / "intrinsic/intrinsic_depth.txt", *map(numbers, half))
    depth = np.zeros((48, 64), np.uint16)
    depth[30, 40] = 1500
    write_png16(scene / "depth/2.png", depth)
    (recording,) = DATASETS["scannet"].open(root)
    found = recording.views[0].depth()
    assert found.shape == (96, 128)
    v, u = np.nonzero(found)
    # Half-way pixels round to even ones, so the patch around (80, 60) is 2 to 3 pixels wide.
    assert found[60, 80] == 1.5 and set(found[v, u]) == {1.5}
    assert np.abs(u - 80).max() <= 1 and np.abs(v - 60).max() <= 1 and len(u) in (1, 2, 4, 6, 9)


def test_a_lost_frame_has_no_pose(root: Path) -> None:
    write(root / "scans" / SCENE / "pose/2.txt", *["-inf -inf -inf -inf"] * 4)
    (recording,) = DATASETS["scannet"].open(root / "scans" / SCENE)
    assert [view.w_T_c is None for view in recording.views] == [True, False]
    assert recording.split == ""  # the list lies elsewhere


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("pose/10.txt", "1 0 0 0\n", r"pose/10\.txt' holds 4 numbers"),
        ("intrinsic/intrinsic_color.txt", "1 0\n0 1\n", r"intrinsic_color\.txt"),
        ("intrinsic/intrinsic_color.txt", "0 " * 16, r"intrinsic_color\.txt.*positive"),
        ("color/x.jpg", "", r"x\.jpg"),
        ("color/11.jpg", "", r"pose/11\.txt"),
    ],
)
def test_broken_files_are_named(root: Path, file: str, text: str, said: str) -> None:
    (root / "scans" / SCENE / file).write_text(text)
    with pytest.raises(InputError, match=said):
        list(DATASETS["scannet"].open(root))


@pytest.mark.parametrize("name", ["intrinsic/intrinsic_depth.txt", "depth/10.png", "pose/10.txt"])
def test_missing_files_are_named(root: Path, name: str) -> None:
    (root / "scans" / SCENE / name).unlink()
    with pytest.raises(InputError, match=name):
        list(DATASETS["scannet"].open(root))


def test_damage_is_refused_by_name(root: Path) -> None:
    damage("scannet", root)
