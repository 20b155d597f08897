"""ICL-NUIM: y up and fy < 0 on disk, an optical frame in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from spots import check, damage, numbers, quaternion, spots, write

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS

K_FILES = np.array([[481.20, 0, 319.50], [0, -480.00, 239.50], [0, 0, 1]])
K = np.abs(K_FILES)
SPOTS = spots(K, 640, 480, seed=3)
NAME = "living_room_traj0_frei_png"


def flipped(T: np.ndarray) -> np.ndarray:
    """The same pose between frames with y turned over on both sides."""
    S = np.diag([1.0, -1, 1, 1])
    return S @ T @ S


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / NAME
    poses = []
    for index, spot in enumerate(SPOTS, start=1):
        spot.write_image(folder / f"rgb/{index}.png")
        spot.write_depth(folder / f"depth/{index}.png", 5000)
        T = flipped(spot.w_T_c)
        poses.append(f"{index} {numbers(T[:3, 3])} {numbers(quaternion(T[:3, :3]))}")
    write(folder / "associations.txt", "1 depth/1.png 1 rgb/1.png", "2 depth/2.png 2 rgb/2.png")
    write(folder / "livingRoom0.gt.freiburg", *poses)
    return tmp_path


def test_the_point_is_where_the_images_have_it(root: Path) -> None:
    (recording,) = DATASETS["icl-nuim"].open(root)
    assert (recording.name, recording.dataset) == (NAME, "icl-nuim")
    assert [view.stamp_ns for view in recording.views] == [33333333, 66666666]
    for view, spot in zip(recording.views, SPOTS, strict=True):
        check(view, spot)


def test_the_tree_projects_with_the_intrinsics_of_the_files() -> None:
    """The tree above is in the files' own convention: the mirrored point, fy = -480."""
    for spot in SPOTS:
        in_camera = np.linalg.inv(flipped(spot.w_T_c)) @ [0.3, 1.1, 2.4, 1]
        projected = K_FILES @ in_camera[:3]
        np.testing.assert_allclose(projected[:2] / projected[2], spot.pixel, atol=1e-6)


def test_an_image_without_a_line_has_no_pose(root: Path) -> None:
    file = root / NAME / "livingRoom0.gt.freiburg"
    file.write_text(file.read_text().splitlines()[1] + "\n")
    (recording,) = DATASETS["icl-nuim"].open(root)
    assert [view.w_T_c is None for view in recording.views] == [True, False]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("associations.txt", "1 depth/1.png 1\n", r"associations\.txt' line 1"),
        ("associations.txt", "1 depth/1.png 2 rgb/2.png\n", r"associations\.txt' pairs"),
        ("associations.txt", "3 depth/3.png 3 rgb/3.png\n", r"3\.png"),
        ("livingRoom0.gt.freiburg", "1 0 0 0 0 0 0\n", "freiburg' line 1"),
        ("livingRoom1.gt.freiburg", "1 0 0 0 0 0 0 1\n", "2 files"),
    ],
)
def test_broken_files_are_named(root: Path, file: str, text: str, said: str) -> None:
    (root / NAME / file).write_text(text)
    with pytest.raises(InputError, match=said):
        list(DATASETS["icl-nuim"].open(root))


def test_damage_is_refused_by_name(root: Path) -> None:
    damage("icl-nuim", root)
