"""KITTI depth selection: three folders whose names belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from spots import check, damage, numbers, spots, write

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS

K = np.array([[72.1, 0, 59.6], [0, 72.1, 14.9], [0, 0, 1]])
SPOTS = spots(K, 122, 36, seed=12)
DRIVES = (("2011_09_26_drive_0002", "0000000005_image_02"), ("2011_09_26_drive_0005", "0000000017_image_03"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "depth_selection/val_selection_cropped"
    for (drive, rest), spot in zip(DRIVES, SPOTS, strict=True):
        spot.write_image(folder / f"image/{drive}_sync_image_{rest}.png")
        spot.write_depth(folder / f"groundtruth_depth/{drive}_sync_groundtruth_depth_{rest}.png", 256)
        write(folder / f"intrinsics/{drive}_sync_image_{rest}.txt", numbers(K))
    return folder


def test_the_point_is_where_the_images_have_it(folder: Path) -> None:
    for path in (folder, folder.parent, folder.parents[1]):
        (recording,) = DATASETS["kitti-depth"].open(path)
        assert (recording.split, recording.ordered, recording.metric) == ("val", False, True)
        assert [view.camera for view in recording.views] == ["image_02", "image_03"]
        for view, spot in zip(recording.views, SPOTS, strict=True):
            assert view.w_T_c is None
            check(view, spot)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "groundtruth_depth/2011_09_26_drive_0005_sync_groundtruth_depth_0000000017_image_03.png",
            "2 images and 1 depth",
        ),
        ("intrinsics/2011_09_26_drive_0005_sync_image_0000000017_image_03.txt", r"0000000017_image_03\.txt"),
    ],
)
def test_missing_files_are_named(folder: Path, name: str, said: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=said):
        list(DATASETS["kitti-depth"].open(folder))


def test_broken_files_are_named(folder: Path) -> None:
    file = folder / "intrinsics/2011_09_26_drive_0005_sync_image_0000000017_image_03.txt"
    file.write_text("72.1 0 59.6 0 72.1")
    with pytest.raises(InputError, match=r"0000000017_image_03.*5 numbers"):
        list(DATASETS["kitti-depth"].open(folder))
    depth = folder / "groundtruth_depth/2011_09_26_drive_0005_sync_groundtruth_depth_0000000017_image_03.png"
    depth.rename(depth.with_name("2011_09_26_drive_0005_sync_groundtruth_depth_0000000018_image_03.png"))
    write(file, numbers(K))
    with pytest.raises(InputError, match="groundtruth_depth_0000000017_image_03"):
        list(DATASETS["kitti-depth"].open(folder))
    (folder / "image/2011_09_26_drive_0005_sync_image_0000000017_image_03.png").rename(folder / "image/5.png")
    with pytest.raises(InputError, match=r"5\.png.*named like"):
        list(DATASETS["kitti-depth"].open(folder))


def test_damage_is_refused_by_name(folder: Path) -> None:
    damage("kitti-depth", folder)
