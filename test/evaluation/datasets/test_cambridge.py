"""Cambridge Landmarks: quaternions w first that turn the world into the camera, camera centres, focals by image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from spots import check, damage, numbers, quaternion, spots, write

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS

# VisualSFM's principal point is the image's middle: pixel (95.5, 53.5) of 192 x 108.
K = np.array([[167.0, 0, 95.5], [0, 167, 53.5], [0, 0, 1]])
SPOTS = spots(K, 192, 108, count=3, seed=7)
NAMES = ("seq2/frame00001.png", "seq2/frame00002.png", "seq1/frame00001.png")
HEADER = ("Visual Landmark Dataset V1", "ImageFile, Camera Position [X Y Z W P Q R]", "")


def line(name: str, spot) -> str:
    xyzw = quaternion(spot.c_T_w[:3, :3])
    return f"{name} {numbers([*spot.w_T_c[:3, 3], xyzw[3], *xyzw[:3]])}"


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    scene = tmp_path / "ShopFacade"
    cameras = []
    for name, spot in zip(NAMES, SPOTS, strict=True):
        spot.write_image(scene / name)
        xyzw = quaternion(spot.c_T_w[:3, :3])
        where = numbers([xyzw[3], *xyzw[:3], *spot.w_T_c[:3, 3]])
        cameras.append(f"{name.replace('.png', '.jpg')}\t167.0 {where} -0.01 0")
    lines = [line(name, spot) for name, spot in zip(NAMES, SPOTS, strict=True)]
    write(scene / "dataset_train.txt", *HEADER, *lines[:2])
    write(scene / "dataset_test.txt", *HEADER, lines[2])
    write(scene / "reconstruction.nvm", "NVM_V3 ", "", "3", *cameras, "", "1", "0 0 0 9 9 9 1 0 0 1.0 2.0")
    return scene


def test_the_point_is_where_the_images_have_it(scene: Path) -> None:
    train, test = DATASETS["cambridge"].open(scene.parent)
    assert [(train.name, train.split), (test.name, test.split)] == [
        ("ShopFacade/train", "train"), ("ShopFacade/test", "test"),
    ]  # fmt: skip
    assert train.scene == test.scene == "ShopFacade" and train.metric and not train.ordered
    for view, spot in zip((*train.views, *test.views), SPOTS, strict=True):
        check(view, spot, with_depth=False)
    assert test.views[0].name == "ShopFacade/seq1/frame00001.png"


def test_without_the_reconstruction_the_camera_is_unknown(scene: Path) -> None:
    (scene / "reconstruction.nvm").unlink()
    train, _ = DATASETS["cambridge"].open(scene)
    assert train.views[0].K is None
    np.testing.assert_allclose(train.views[0].w_T_c, SPOTS[0].w_T_c, atol=1e-9)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("dataset_test.txt", "Dataset V1", "Dataset V2", r"dataset_test\.txt.*V2"),
        ("dataset_train.txt", "seq2/frame00002.png", "seq2/gone.png", r"gone\.png"),
        ("dataset_train.txt", "seq2/frame00002.png ", "seq2/frame00002.png 1 ", r"dataset_train\.txt' line 5"),
        ("dataset_train.txt", "seq2/frame00002.png ", "seq2/frame00002.png x", r"dataset_train\.txt.*not numbers"),
        ("reconstruction.nvm", "NVM_V3", "NVM_V4", r"reconstruction\.nvm.*V4"),
        ("reconstruction.nvm", "\n3\n", "\n300\n", r"reconstruction\.nvm.*300 cameras"),
        ("reconstruction.nvm", "\n3\n", "\nmany\n", r"reconstruction\.nvm.*many"),
        ("reconstruction.nvm", "167.0", "wide", r"reconstruction\.nvm.*not numbers"),
    ],
)
def test_broken_files_are_named(scene: Path, file: str, old: str, new: str, said: str) -> None:
    text = (scene / file).read_text()
    assert old in text
    (scene / file).write_text(text.replace(old, new))
    with pytest.raises(InputError, match=said):
        list(DATASETS["cambridge"].open(scene))


def test_a_missing_list_is_named(scene: Path) -> None:
    (scene / "dataset_test.txt").unlink()
    with pytest.raises(InputError, match=r"dataset_test\.txt"):
        list(DATASETS["cambridge"].open(scene))


def test_damage_is_refused_by_name(scene: Path) -> None:
    damage("cambridge", scene)
