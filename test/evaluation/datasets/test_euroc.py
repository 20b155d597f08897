"""EuRoC: body poses times T_BS, the lens, nanosecond stamps."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from spots import POINT, damage, numbers, quaternion, spots, write, write_image

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS
from dust3r_ros.geometry.rigid import invert, pose, transform

K = np.array([[458.654, 0, 367.215], [0, 457.296, 248.375], [0, 0, 1]])
LENS = (-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05)
B_T_C = pose(Rotation.from_euler("xyz", [5, -8, 88], degrees=True).as_matrix(), [-0.02, -0.065, 0.01])
STAMPS = (1403636579763555584, 1403636579813555456)
SPOTS = spots(K, 752, 480, seed=5)
SENSOR = f"""#Default camera sensor
sensor_type: camera
comment: VI-Sensor cam0 (MT9M034)
T_BS:
  cols: 4
  rows: 4
  data: [{numbers(B_T_C).replace(" ", ", ")}]
rate_hz: 20
resolution: [752, 480]
camera_model: pinhole
intrinsics: [458.654, 457.296, 367.215, 248.375] #fu, fv, cu, cv
distortion_model: radial-tangential
distortion_coefficients: [{", ".join(map(str, LENS))}]
"""


def seen(spot) -> np.ndarray:
    """Where the lens shows the point."""
    in_camera = transform(spot.c_T_w, POINT)[None]
    return cv2.projectPoints(in_camera, np.zeros(3), np.zeros(3), K, np.array(LENS))[0].ravel()


@pytest.fixture
def mav(tmp_path: Path) -> Path:
    mav = tmp_path / "machine_hall/MH_01_easy/mav0"
    truth, images = [], []
    for stamp, spot in zip(STAMPS, SPOTS, strict=True):
        u, v = np.rint(seen(spot)).astype(int)
        write_image(mav / f"cam0/data/{stamp}.png", spot.image((u, v)))
        images.append(f"{stamp},{stamp}.png")
        body = spot.w_T_c @ np.linalg.inv(B_T_C)
        xyzw = quaternion(body[:3, :3])
        line = numbers([*body[:3, 3], xyzw[3], *xyzw[:3], *[0.0] * 9])
        truth.append(f"{stamp},{line.replace(' ', ',')}")
    write(mav / "cam0/data.csv", "#timestamp [ns],filename", *images)
    write(mav / "cam0/sensor.yaml", SENSOR)
    write(mav / "state_groundtruth_estimate0/data.csv", "#timestamp, p_RS_R_x [m], ...", *truth)
    return mav


def test_the_point_is_where_the_images_have_it(mav: Path) -> None:
    (recording,) = DATASETS["euroc"].open(mav.parents[2])
    assert (recording.name, recording.dataset) == ("MH_01_easy", "euroc")
    assert tuple(view.stamp_ns for view in recording.views) == STAMPS
    for view, spot in zip(recording.views, SPOTS, strict=True):
        np.testing.assert_allclose(view.w_T_c, spot.w_T_c, atol=1e-9)
        found = view.calibration
        assert (found.width, found.height, found.model, found.coefficients) == (752, 480, "plumb_bob", LENS)
        in_camera = transform(invert(view.w_T_c), POINT)
        pixel = cv2.projectPoints(in_camera[None], np.zeros(3), np.zeros(3), view.K, np.array(found.coefficients))[0]
        np.testing.assert_allclose(pixel.ravel(), seen(spot), atol=1e-6)
        v, u = np.unravel_index(view.image()[..., 0].argmax(), (480, 752))
        assert np.abs(pixel.ravel() - [u, v]).max() <= 0.5
        assert view.depth() is None


def test_the_folder_of_the_sequence_itself(mav: Path) -> None:
    (recording,) = DATASETS["euroc"].open(mav.parent)
    assert recording.name == "MH_01_easy"


def test_images_before_the_truth_begins_have_no_pose(mav: Path) -> None:
    file = mav / "state_groundtruth_estimate0/data.csv"
    file.write_text("\n".join(file.read_text().splitlines()[2:]) + "\n")
    (recording,) = DATASETS["euroc"].open(mav.parent)
    assert [view.w_T_c is None for view in recording.views] == [True, False]


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("cam0/sensor.yaml", "radial-tangential", "omni-strange", r"sensor\.yaml.*omni-strange"),
        ("cam0/sensor.yaml", "camera_model: pinhole", "camera_model: omni", r"sensor\.yaml.*omni"),
        ("cam0/sensor.yaml", "[752, 480]", "[752]", r"sensor\.yaml"),
        ("cam0/sensor.yaml", "T_BS:", "T_SB:", r"sensor\.yaml.*T_BS"),
        ("cam0/sensor.yaml", "[458.654", "[-458.654", r"sensor\.yaml.*positive"),
        ("cam0/data.csv", f"{STAMPS[1]},", "", r"data\.csv' line 3"),
        ("cam0/data.csv", f",{STAMPS[1]}.png", ",gone.png", r"gone\.png"),
        ("cam0/data.csv", f"{STAMPS[1]},", "1.5,", r"data\.csv' holds '1\.5'"),
        ("state_groundtruth_estimate0/data.csv", ",0.0,0.0,0.0", "", r"estimate0/data\.csv' line 2"),
    ],
)
def test_broken_files_are_named(mav: Path, file: str, old: str, new: str, said: str) -> None:
    text = (mav / file).read_text()
    assert old in text
    (mav / file).write_text(text.replace(old, new))
    with pytest.raises(InputError, match=said):
        list(DATASETS["euroc"].open(mav.parent))


@pytest.mark.parametrize("name", ["cam0/sensor.yaml", "cam0/data.csv", "state_groundtruth_estimate0/data.csv"])
def test_missing_files_are_named(mav: Path, name: str) -> None:
    (mav / name).unlink()
    with pytest.raises(InputError, match=name):
        list(DATASETS["euroc"].open(mav.parent))


def test_damage_is_refused_by_name(mav: Path) -> None:
    damage("euroc", mav.parent)
