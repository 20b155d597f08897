"""BONN: the camera's pose from that of the marker, K, depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from spots import check, damage, numbers, quaternion, spots, write

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS

K = np.array([[542.822841, 0, 315.593520], [0, 542.576870, 237.756098], [0, 0, 1]])
SPOTS = spots(K, 640, 480, seed=2)
# As the data set's page prints them.
T_ROS = np.array([[-1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
T_M = np.array(
    [
        [1.0157, 0.1828, -0.2389, 0.0113],
        [0.0009, -0.8431, -0.6413, -0.0098],
        [-0.3009, 0.6147, -0.8085, 0.0111],
        [0, 0, 0, 1],
    ]
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder, rigid = tmp_path / "rgbd_bonn_balloon", T_M.copy()
    rigid[:3, :3] /= np.cbrt(np.linalg.det(T_M[:3, :3]))
    poses = []
    for index, spot in enumerate(SPOTS):
        spot.write_image(folder / f"rgb/{index}.png")
        spot.write_depth(folder / f"depth/{index}.png", 5000)
        marker = T_ROS @ spot.w_T_c @ np.linalg.inv(rigid) @ np.linalg.inv(T_ROS)
        poses.append(f"{index}.5 {numbers(marker[:3, 3])} {numbers(quaternion(marker[:3, :3]))}")
    write(folder / "rgb.txt", "0.5 rgb/0.png", "1.5 rgb/1.png")
    write(folder / "depth.txt", "0.5 depth/0.png", "1.5 depth/1.png")
    write(folder / "groundtruth.txt", *poses)
    return tmp_path


def test_the_point_is_where_the_images_have_it(root: Path) -> None:
    (recording,) = DATASETS["bonn"].open(root)
    assert (recording.name, recording.dataset, recording.metric) == ("rgbd_bonn_balloon", "bonn", True)
    for view, spot in zip(recording.views, SPOTS, strict=True):
        # The page's matrix has four digits: it is a rotation times a scale to some 1e-4.
        check(view, spot, tolerance=5e-3)
        assert view.calibration.coefficients == (0.039903, -0.099343, -0.000730, -0.000144, 0.0)
        assert np.linalg.det(view.w_T_c[:3, :3]) == pytest.approx(1.0, abs=1e-9)


def test_a_missing_image_is_named(root: Path) -> None:
    (root / "rgbd_bonn_balloon/rgb/1.png").unlink()
    with pytest.raises(InputError, match=r"1\.png"):
        list(DATASETS["bonn"].open(root))


def test_a_truncated_line_is_named(root: Path) -> None:
    write(root / "rgbd_bonn_balloon/groundtruth.txt", "0.5 0 0 0 0 0 0 1", "1.5 0 0")
    with pytest.raises(InputError, match=r"groundtruth\.txt' line 2"):
        list(DATASETS["bonn"].open(root))


def test_damage_is_refused_by_name(root: Path) -> None:
    damage("bonn", root)
