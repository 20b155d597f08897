"""7-Scenes: split, nominal intrinsics of two cameras, depth in the colour image."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from spots import check, damage, numbers, spots, write, write_png16

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS

K = np.array([[525.0, 0, 320], [0, 525, 240], [0, 0, 1]])
SPOTS = spots(K, 640, 480, count=3, seed=4)


def frame(folder: Path, index: int, spot) -> None:
    stem = folder / f"frame-{index:06d}"
    spot.write_image(stem.with_name(stem.name + ".color.png"))
    spot.write_depth(stem.with_name(stem.name + ".depth.proj.png"), 1000)
    write(stem.with_name(stem.name + ".pose.txt"), *(numbers(row).replace(" ", "\t ") for row in spot.w_T_c))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    scene = tmp_path / "chess"
    frame(scene / "seq-01", 0, SPOTS[0])
    frame(scene / "seq-01", 1, SPOTS[1])
    frame(scene / "seq-03", 0, SPOTS[2])
    (scene / "seq-01.zip").write_bytes(b"as downloaded")
    write(scene / "TrainSplit.txt", "sequence1")
    write(scene / "TestSplit.txt", "sequence3")
    return tmp_path


def test_the_point_is_where_the_images_have_it(root: Path) -> None:
    first, second = DATASETS["7scenes"].open(root)
    assert [(first.name, first.split), (second.name, second.split)] == [
        ("chess/seq-01", "train"),
        ("chess/seq-03", "test"),
    ]
    assert first.scene == second.scene == "chess" and first.dataset == "7scenes"
    assert [view.stamp_ns for view in first.views] == [0, 33333333]
    for view, spot in zip((*first.views, *second.views), SPOTS, strict=True):
        check(view, spot)


def test_raw_depth_is_brought_into_the_colour_image(root: Path) -> None:
    folder = root / "chess/seq-03"
    (folder / "frame-000000.depth.proj.png").unlink()
    raw = np.zeros((480, 640), np.uint16)
    raw[240, 320 + 117], raw[240 + 39, 320] = 2500, 1250  # at slopes 0.2 and 1/15 in the depth camera
    raw[0, 0], raw[240, 320] = 700, 65535  # out of the colour image; none
    write_png16(folder / "frame-000000.depth.png", raw)
    *_, second = DATASETS["7scenes"].open(root)
    depth = second.views[0].depth()
    assert depth.shape == (480, 640)
    assert depth[240, 320 + 105] == 2.5  # 0.2 * 525
    assert depth[240 + 35, 320] == 1.25
    assert depth[240, 320] == 0
    assert set(np.unique(depth)) <= {np.float32(value) for value in (0, 0.7, 1.25, 2.5)}


def test_one_sequence_does_without_the_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened by its own folder; its scene would have to be complete."""
    shutil.rmtree(root / "chess/seq-03")
    with pytest.raises(InputError, match=r"chess' lacks seq-03.*one sequence"):
        list(DATASETS["7scenes"].open(root))
    monkeypatch.chdir(root / "chess/seq-01")
    for path in (root / "chess/seq-01", "."):
        (one,) = DATASETS["7scenes"].open(path)
        assert (one.name, one.split, one.scene, len(one.views)) == ("chess/seq-01", "train", "chess", 2)


def test_a_lost_frame_has_no_pose(root: Path) -> None:
    write(root / "chess/seq-03/frame-000000.pose.txt", *["-1.#IND nan nan nan".replace("-1.#IND", "nan")] * 4)
    *_, second = DATASETS["7scenes"].open(root)
    assert second.views[0].w_T_c is None


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("TrainSplit.txt", "seventh\n", r"TrainSplit\.txt"),
        ("TestSplit.txt", "sequence3\nsequence4\n", "seq-04"),
        ("TestSplit.txt", "", "seq-03.*neither"),
        ("seq-01/frame-000001.pose.txt", "1 0 0 0\n0 1 0 0\n0 0 1\n", r"frame-000001\.pose\.txt.*11 numbers"),
        (
            "seq-01/frame-000001.pose.txt",
            "1 0 0 0\n0 2 0 0\n0 0 1 0\n0 0 0 1",
            r"frame-000001\.pose\.txt.*not a rigid motion",
        ),
    ],
)
def test_broken_files_are_named(root: Path, file: str, text: str, said: str) -> None:
    (root / "chess" / file).write_text(text)
    with pytest.raises(InputError, match=said):
        list(DATASETS["7scenes"].open(root))


@pytest.mark.parametrize(
    "name", ["TestSplit.txt", "seq-01/frame-000001.pose.txt", "seq-01/frame-000001.depth.proj.png"]
)
def test_missing_files_are_named(root: Path, name: str) -> None:
    (root / "chess" / name).unlink()
    with pytest.raises(InputError, match=Path(name).name.split(".")[0]):
        list(DATASETS["7scenes"].open(root))


def test_damage_is_refused_by_name(root: Path) -> None:
    damage("7scenes", root)
