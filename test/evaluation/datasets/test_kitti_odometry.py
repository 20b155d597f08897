"""KITTI odometry: poses of another camera, projection matrices, lidar depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from spots import POINT, check, damage, numbers, spots, write

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS
from dust3r_ros.geometry.rigid import invert, pose, transform

W, H = 124, 38
K = np.array([[71.8, 0, 60.7], [0, 71.8, 18.5], [0, 0, 1]])
SPOTS = spots(K, W, H, seed=11)
CAM2_T_0 = pose(np.eye(3), [0.0598, -0.0004, 0.0027])
CAM0_T_LIDAR = pose(Rotation.from_euler("xyz", [-90, 1, -90], degrees=True).as_matrix(), [-0.012, -0.054, -0.292])


def projection(cam_T_0: np.ndarray) -> str:
    return numbers(K @ cam_T_0[:3])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder, poses = tmp_path / "sequences/03", []
    lidar_T_cam2 = invert(CAM2_T_0 @ CAM0_T_LIDAR)
    for index, spot in enumerate(SPOTS):
        spot.write_image(folder / f"image_2/{index:06d}.png")
        poses.append(numbers((spot.w_T_c @ CAM2_T_0)[:3]))
        point = transform(spot.c_T_w, POINT)
        # The point, what is behind it, what is behind the camera, what is beside the image.
        cloud = transform(lidar_T_cam2, np.array([point, point * 1.5, -point, [90.0, 0, 1]]))
        (folder / "velodyne").mkdir(exist_ok=True)
        np.column_stack([cloud, np.ones(4)]).astype(np.float32).tofile(folder / f"velodyne/{index:06d}.bin")
    write(folder / "times.txt", "0.000000e+00", "1.037875e-01")
    write(
        folder / "calib.txt", f"P0: {projection(np.eye(4))}", f"P2: {projection(CAM2_T_0)}",
        f"Tr: {numbers(CAM0_T_LIDAR[:3])}",
    )  # fmt: skip
    write(tmp_path / "poses/03.txt", *poses)
    return tmp_path


def test_the_point_is_where_the_images_have_it(root: Path) -> None:
    (recording,) = DATASETS["kitti-odometry"].open(root)
    assert (recording.name, recording.dataset, recording.metric, recording.ordered) == (
        "03",
        "kitti-odometry",
        True,
        True,
    )
    assert [view.stamp_ns for view in recording.views] == [0, 103_787_500]
    for view, spot in zip(recording.views, SPOTS, strict=True):
        assert view.camera == "image_2"
        check(view, spot, depth_tolerance=1e-6)


def test_grey_images_are_those_of_the_poses_camera(root: Path) -> None:
    (root / "sequences/03/image_2").rename(root / "sequences/03/image_0")
    (recording,) = DATASETS["kitti-odometry"].open(root)
    for view, spot in zip(recording.views, SPOTS, strict=True):
        assert view.camera == "image_0"
        np.testing.assert_allclose(view.w_T_c, spot.w_T_c @ CAM2_T_0, atol=1e-9)


def test_without_poses_and_scans(root: Path) -> None:
    (root / "poses/03.txt").unlink()
    for scan in (root / "sequences/03/velodyne").iterdir():
        scan.unlink()
    (recording,) = DATASETS["kitti-odometry"].open(root)
    assert all(view.w_T_c is None and view.depth() is None for view in recording.views)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("sequences/03/times.txt", "0.0\n", r"times\.txt' has 1 stamps for 2 images"),
        ("sequences/03/times.txt", "0.0\nlater\n", r"times\.txt' holds 'later'"),
        ("poses/03.txt", "1 0 0 0 0 1 0 0 0 0 1 0\n", r"poses/03\.txt' has 1 poses"),
        ("poses/03.txt", "1 0 0 0 0 1 0 0 0 0 1\n", r"poses/03\.txt' line 1"),
        ("sequences/03/calib.txt", "P0: 1 2 3\n", r"calib\.txt' line 1"),
        ("sequences/03/calib.txt", f"P0: {numbers(np.eye(4)[:3])}\n", r"calib\.txt'.*must hold P2"),
        ("sequences/03/calib.txt", f"P2: {numbers(np.zeros(12))}\n", r"calib\.txt'.*positive"),
    ],
)
def test_broken_files_are_named(root: Path, file: str, text: str, said: str) -> None:
    (root / file).write_text(text)
    with pytest.raises(InputError, match=said):
        list(DATASETS["kitti-odometry"].open(root))


def test_a_truncated_scan_is_named(root: Path) -> None:
    (root / "sequences/03/velodyne/000000.bin").write_bytes(b"\0" * 20)
    (recording,) = DATASETS["kitti-odometry"].open(root)
    with pytest.raises(InputError, match=r"000000\.bin"):
        recording.views[0].depth()


def test_damage_is_refused_by_name(root: Path) -> None:
    damage("kitti-odometry", root)
