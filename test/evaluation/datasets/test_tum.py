"""TUM RGB-D: values, association, cameras by name, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from spots import COLOR, check, damage, numbers, quaternion, spots, write

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS

K3 = np.array([[535.4, 0, 320.1], [0, 539.2, 247.6], [0, 0, 1]])
STAMPS = ("1341841278.842700", "1341841278.900000")
SPOTS = spots(K3, 640, 480, seed=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "rgbd_dataset_freiburg3_teddy"
    poses = []
    for stamp, spot in zip(STAMPS, SPOTS, strict=True):
        spot.write_image(folder / f"rgb/{stamp}.png")
        spot.write_depth(folder / f"depth/{stamp}.png", 5000)
        poses.append(f"{stamp} {numbers(spot.w_T_c[:3, 3])} {numbers(quaternion(spot.w_T_c[:3, :3]))}")
    write(folder / "rgb.txt", "# color images", "# file: 'x.bag'", *(f"{stamp} rgb/{stamp}.png" for stamp in STAMPS))
    # Depth comes a little later than its image; the first within 20 ms of it, the second too.
    write(folder / "depth.txt", f"1341841278.850000 depth/{STAMPS[0]}.png", f"1341841278.910000 depth/{STAMPS[1]}.png")
    write(folder / "groundtruth.txt", "# timestamp tx ty tz qx qy qz qw", *poses)
    return tmp_path


def test_the_point_is_where_the_images_have_it(root: Path) -> None:
    (recording,) = DATASETS["tum"].open(root)
    assert (recording.name, recording.dataset) == ("rgbd_dataset_freiburg3_teddy", "tum")
    assert recording.metric and recording.ordered and recording.split == ""
    assert [view.stamp_ns for view in recording.views] == [1341841278842700000, 1341841278900000000]
    for view, spot in zip(recording.views, SPOTS, strict=True):
        check(view, spot)
        assert tuple(view.image()[spot.pixel[1], spot.pixel[0]]) == COLOR
    assert recording.views[0].name == f"{recording.name}/rgb/{STAMPS[0]}.png"


def test_one_sequence_is_opened_by_its_own_folder(root: Path) -> None:
    (recording,) = DATASETS["tum"].open(root / "rgbd_dataset_freiburg3_teddy")
    assert len(recording.views) == 2


def test_a_sequence_opened_from_within_has_its_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "rgbd_dataset_freiburg3_teddy")
    (recording,) = DATASETS["tum"].open(".")
    assert recording.name == recording.scene == "rgbd_dataset_freiburg3_teddy"
    assert recording.views[0].name == f"{recording.name}/rgb/{STAMPS[0]}.png"


def test_poses_between_are_interpolated_and_gaps_left_open(root: Path) -> None:
    folder = root / "rgbd_dataset_freiburg3_teddy"
    write(
        folder / "groundtruth.txt",
        "1341841278.832700 0 0 0 0 0 0 1",
        "1341841278.862700 3 0 0 0 0 0 1",
        "1341841278.930000 9 9 9 0 0 0 1",
    )
    (recording,) = DATASETS["tum"].open(root)
    np.testing.assert_allclose(recording.views[0].w_T_c[:3, 3], [1, 0, 0], atol=1e-9)  # a third of the way
    assert recording.views[1].w_T_c is None  # 37 ms after one, 30 ms before the next


def test_depth_far_in_time_is_none(root: Path) -> None:
    folder = root / "rgbd_dataset_freiburg3_teddy"
    write(folder / "depth.txt", f"1341841278.863000 depth/{STAMPS[0]}.png")
    (recording,) = DATASETS["tum"].open(root)
    assert [view.depth() for view in recording.views] == [None, None]  # 20.3 and 37 ms off


@pytest.mark.parametrize(
    ("name", "fx", "k1"),
    [("rgbd_dataset_freiburg1_xyz", 517.3, 0.2624), ("rgbd_dataset_freiburg2_desk", 520.9, 0.2312)],
)
def test_lens_by_the_name_of_the_folder(root: Path, name: str, fx: float, k1: float) -> None:
    (root / "rgbd_dataset_freiburg3_teddy").rename(root / name)
    (recording,) = DATASETS["tum"].open(root)
    view = recording.views[0]
    assert view.K[0, 0] == fx and view.calibration.fx == fx
    assert view.calibration.coefficients[0] == k1 and view.calibration.model == "plumb_bob"
    assert (view.calibration.width, view.calibration.height) == (640, 480)


def test_a_renamed_folder_has_no_camera(root: Path) -> None:
    (root / "rgbd_dataset_freiburg3_teddy").rename(root / "mine")
    (recording,) = DATASETS["tum"].open(root)
    assert recording.views[0].K is None and recording.views[0].calibration is None


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("rgb.txt", "1.0\n", "rgb.txt' line 1"),
        ("rgb.txt", "soon rgb/a.png\n", "rgb.txt' holds 'soon'"),
        ("rgb.txt", "1.0 rgb/gone.png\n", "gone.png"),
        ("rgb.txt", "# nothing\n", "no image"),
        ("depth.txt", "1.0 depth/gone.png\n", "gone.png"),
        ("groundtruth.txt", "1.0 0 0 0 0 0 0\n", "groundtruth.txt' line 1"),
        ("groundtruth.txt", "1.0 0 0 0 0 0 0 0\n", "groundtruth.txt.*quaternion"),
        ("groundtruth.txt", "1.0 0 x 0 0 0 0 1\n", "groundtruth.txt.*not numbers"),
        ("groundtruth.txt", "#\n", "groundtruth.txt' holds no pose"),
    ],
)
def test_broken_files_are_named(root: Path, file: str, text: str, said: str) -> None:
    (root / "rgbd_dataset_freiburg3_teddy" / file).write_text(text)
    with pytest.raises(InputError, match=said):
        list(DATASETS["tum"].open(root))


def test_missing_truth_is_named(root: Path) -> None:
    (root / "rgbd_dataset_freiburg3_teddy/groundtruth.txt").unlink()
    with pytest.raises(InputError, match=r"groundtruth\.txt"):
        list(DATASETS["tum"].open(root))


def test_images_are_decoded_late_and_broken_ones_named(root: Path) -> None:
    folder = root / "rgbd_dataset_freiburg3_teddy"
    for kind in ("rgb", "depth"):
        file = folder / kind / f"{STAMPS[0]}.png"
        file.write_bytes(file.read_bytes()[:-20])
    (recording,) = DATASETS["tum"].open(root)
    for read in (recording.views[0].image, recording.views[0].depth):
        with pytest.raises(InputError, match=STAMPS[0]):
            read()


def test_damage_is_refused_by_name(root: Path) -> None:
    damage("tum", root)
