"""DTU: MVSNet's cameras, the authors' projection matrices, millimetres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from spots import check, damage, numbers, spots, write, write_image

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS

W, H = 160, 120
K = np.array([[289.2, 0, 82.3], [0, 288.3, 61.9], [0, 0, 1]])
SPOTS = spots(K, W, H, seed=14)  # in millimetres


def cam(spot) -> str:
    rows = ("extrinsic", *map(numbers, spot.c_T_w), "", "intrinsic", *map(numbers, K), "", "425.0 2.5")
    return "\n".join(rows) + "\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index, spot in enumerate(SPOTS):
        spot.write_image(tmp_path / f"scan10/images/{index:08d}.jpg")
        write(tmp_path / f"scan10/cams/{index:08d}_cam.txt", cam(spot))
        path = tmp_path / f"Depths_raw/scan10/depth_map_{index:04d}.pfm"
        path.parent.mkdir(parents=True, exist_ok=True)
        # PFM: rows from the bottom up, a negative scale says little endian.
        path.write_bytes(f"Pf\n{W} {H}\n-1.0\n".encode() + spot.depth()[::-1].astype("<f4").tobytes())
    (tmp_path / "Points/stl").mkdir(parents=True)
    (tmp_path / "Points/stl/stl010_total.ply").write_bytes(b"ply")
    return tmp_path


@pytest.fixture
def official(tmp_path: Path) -> Path:
    for index, spot in enumerate(SPOTS, start=1):
        spot.write_image(tmp_path / f"Rectified/scan10/rect_{index:03d}_3_r5000.png")
        spot.write_image(tmp_path / f"Rectified/scan10/rect_{index:03d}_4_r5000.png")
        sign = -1.0 if index == 2 else 1.0  # a projection matrix has no sign
        write(tmp_path / f"Calibration/cal18/pos_{index:03d}.txt", *map(numbers, sign * 3.5 * K @ spot.c_T_w[:3]))
    return tmp_path


def test_the_point_is_where_mvsnets_images_have_it(root: Path) -> None:
    (recording,) = DATASETS["dtu"].open(root)
    assert (recording.name, recording.metric, recording.ordered) == ("scan10", True, False)
    assert recording.truth == {"points": root / "Points/stl/stl010_total.ply"}
    for view, spot in zip(recording.views, SPOTS, strict=True):
        check(view, spot, unit=1e-3, depth_tolerance=1e-6)


def test_the_point_is_where_the_authors_images_have_it(official: Path) -> None:
    (recording,) = DATASETS["dtu"].open(official)
    assert len(recording.views) == 2  # one light of all
    for view, spot in zip(recording.views, SPOTS, strict=True):
        np.testing.assert_allclose(view.K, K, atol=1e-6)
        check(view, spot, with_depth=False, unit=1e-3)


def test_scans_come_by_number(root: Path) -> None:
    (root / "scan10").rename(root / "scan9")
    spot = SPOTS[0]
    spot.write_image(root / "scan10/images/00000000.jpg")
    write(root / "scan10/cams/00000000_cam.txt", cam(spot))
    assert [recording.name for recording in DATASETS["dtu"].open(root)] == ["scan9", "scan10"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("extrinsic", "extrinsics", "must hold 'extrinsic'"),
        ("intrinsic\n", "", "must hold 'extrinsic'"),
        ("289.2", "-289.2", "positive"),
        ("289.2", "wide", "not numbers"),
        ("extrinsic\n", "extrinsic\n7 ", "must hold 'extrinsic'"),
    ],
)
def test_broken_cameras_are_named(root: Path, old: str, new: str, said: str) -> None:
    file = root / "scan10/cams/00000001_cam.txt"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=said) as error:
        list(DATASETS["dtu"].open(root))
    assert "00000001_cam.txt" in str(error.value)


def test_missing_files_are_named(root: Path) -> None:
    (root / "scan10/images/00000001.jpg").unlink()
    with pytest.raises(InputError, match=r"images/00000001\.jpg"):
        list(DATASETS["dtu"].open(root))


def test_broken_projections_are_named(official: Path) -> None:
    file = official / "Calibration/cal18/pos_002.txt"
    for text, said in (("1 2 3", "3 numbers"), ("1 " * 12, "singular")):
        file.write_text(text)
        with pytest.raises(InputError, match=said) as error:
            list(DATASETS["dtu"].open(official))
        assert "pos_002.txt" in str(error.value)
    file.unlink()
    with pytest.raises(InputError, match=r"pos_002\.txt"):
        list(DATASETS["dtu"].open(official))


def test_depth_that_was_not_measured_is_none(root: Path) -> None:
    mask = np.full((H, W, 3), 255, np.uint8)
    u, v = SPOTS[0].pixel
    mask[v, u] = 10
    write_image(root / "Depths_raw/scan10/depth_visual_0000.png", mask)
    write_image(root / "Depths_raw/scan10/depth_visual_0001.png", mask[:-1])
    (recording,) = DATASETS["dtu"].open(root)
    assert not recording.views[0].depth().any()
    with pytest.raises(InputError, match=r"depth_visual_0001\.png"):
        recording.views[1].depth()


def test_a_broken_depth_map_is_named(root: Path) -> None:
    (root / "Depths_raw/scan10/depth_map_0000.pfm").write_bytes(b"Pf\n1 1\n")
    (recording,) = DATASETS["dtu"].open(root)
    with pytest.raises(InputError, match=r"depth_map_0000\.pfm"):
        recording.views[0].depth()


def test_damage_is_refused_by_name(root: Path) -> None:
    damage("dtu", root)


def test_damage_of_the_authors_layout_is_refused_by_name(official: Path) -> None:
    damage("dtu", official)
