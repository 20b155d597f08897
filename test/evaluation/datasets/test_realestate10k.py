"""RealEstate10K: intrinsics in widths and heights, world to camera, frames beside the list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from spots import check, damage, numbers, spots, write

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS

W, H = 128, 72
# The middle of the image, 0.5 of its width, is half a pixel left of the centre of pixel 64.
K = np.array([[0.9 * W, 0, 0.5 * W - 0.5], [0, 1.6 * H, 0.5 * H - 0.5], [0, 0, 1]])
SPOTS = spots(K, W, H, seed=9)
STAMPS = ("53453400", "53486767")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lines = []
    for stamp, spot, suffix in zip(STAMPS, SPOTS, ("jpg", "png"), strict=True):
        spot.write_image(tmp_path / f"test/000c3ab189999a83/{stamp}.{suffix}")
        lines.append(f"{stamp} 0.9 1.6 0.5 0.5 0 0 {numbers(spot.c_T_w[:3])}")
    write(tmp_path / "test/000c3ab189999a83.txt", "https://www.youtube.com/watch?v=x", *lines)
    write(tmp_path / "test/ffff.txt", "https://www.youtube.com/watch?v=y", lines[0])  # its video is gone
    return tmp_path


def test_the_point_is_where_the_images_have_it(root: Path) -> None:
    (recording,) = DATASETS["realestate10k"].open(root)
    assert (recording.name, recording.split) == ("000c3ab189999a83", "test")
    assert not recording.metric and recording.ordered
    assert [view.stamp_ns for view in recording.views] == [53453400000, 53486767000]
    for view, spot in zip(recording.views, SPOTS, strict=True):
        check(view, spot, with_depth=False)


def test_clips_directly_in_the_folder(root: Path) -> None:
    (recording,) = DATASETS["realestate10k"].open(root / "test")
    assert recording.split == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("https://", "", "first line"),
        (" 0.5 0.5 0 0", " 0.5 0.5 0", "line 2"),
        ("53486767", "53486768", "53486768"),
        ("53486767", "later", "later"),
        ("0.9 1.6", "-0.9 1.6", "positive"),
        (" 0.9 1.6", " wide 1.6", "not numbers"),
        ("0 0 -0.", "0 0 -9.", "not a rigid motion"),
    ],
)
def test_broken_lists_are_named(root: Path, old: str, new: str, said: str) -> None:
    file = root / "test/000c3ab189999a83.txt"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=said) as error:
        list(DATASETS["realestate10k"].open(root))
    assert "000c3ab189999a83" in str(error.value)


def test_a_frame_that_is_no_image_is_named(root: Path) -> None:
    (root / f"test/000c3ab189999a83/{STAMPS[0]}.jpg").write_text("an error page")
    with pytest.raises(InputError, match=STAMPS[0]):
        list(DATASETS["realestate10k"].open(root))


def test_damage_is_refused_by_name(root: Path) -> None:
    damage("realestate10k", root)
