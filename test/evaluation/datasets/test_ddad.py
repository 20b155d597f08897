"""DDAD: DGP's JSON, poses of sensors, lidar depth of a sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from spots import POINT, check, damage, quaternion, spots, write

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets import DATASETS
from dust3r_ros.geometry.rigid import invert, pose, transform

W, H = 194, 122
K = np.array([[218.0, 0, 96.8], [0, 218.5, 60.6], [0, 0, 1]])
SPOTS = spots(K, W, H, seed=13)
STAMPS = ("2019-04-12T16:43:05.123456Z", "2019-04-12T16:43:05.223456789Z")
W_T_LIDAR = pose(Rotation.from_euler("z", 30, degrees=True).as_matrix(), [0.0, 1.5, 1.9])


def posed(T: np.ndarray) -> dict[str, Any]:
    """As protobuf writes it: numbers that are 0 are left out."""
    values = dict(zip(("qx", "qy", "qz", "qw"), map(float, quaternion(T[:3, :3])), strict=True))
    place = dict(zip("xyz", map(float, T[:3, 3]), strict=True))
    return {
        "translation": {name: value for name, value in place.items() if value},
        "rotation": {name: value for name, value in values.items() if value},
    }


def datum(key: str, name: str, stamp: str, **value: Any) -> dict[str, Any]:
    return {"id": {"log": "x", "timestamp": stamp, "name": name, "index": "0"}, "key": key, "datum": value}


def contents(root: Path) -> dict[str, Any]:
    data, samples = [], []
    for index, (stamp, spot) in enumerate(zip(STAMPS, SPOTS, strict=True)):
        image = {"filename": f"rgb/CAMERA_01/{index}.png", "height": H, "width": W, "pose": posed(spot.w_T_c)}
        cloud = {"filename": f"point_cloud/LIDAR/{index}.npz", "point_format": ["X", "Y", "Z", "INTENSITY"],
                 "pose": posed(W_T_LIDAR)}  # fmt: skip
        other = {**image, "filename": f"rgb/CAMERA_05/{index}.png"}
        data += [
            datum(f"l{index}", "LIDAR", stamp, point_cloud=cloud),
            datum(f"c{index}", "CAMERA_01", stamp, image=image),
            datum(f"o{index}", "CAMERA_05", stamp, image=other),
        ]
        samples.append(
            {"id": {"timestamp": stamp}, "datum_keys": [f"{k}{index}" for k in "lco"], "calibration_key": "k"}
        )
    return {"name": "scene", "data": data, "samples": samples}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    scene = tmp_path / "000150"
    for index, spot in enumerate(SPOTS):
        spot.write_image(scene / f"rgb/CAMERA_01/{index}.png")
        point = transform(spot.c_T_w, POINT)
        seen = transform(invert(W_T_LIDAR) @ spot.w_T_c, np.array([point, 2 * point, -point]))
        (scene / "point_cloud/LIDAR").mkdir(parents=True, exist_ok=True)
        np.savez_compressed(scene / f"point_cloud/LIDAR/{index}.npz", data=np.column_stack([seen, np.ones(3)]))
    fields = ("fx", "fy", "cx", "cy")
    front = dict(zip(fields, K[[0, 1, 0, 1], [0, 1, 2, 2]], strict=True))
    entries = [dict.fromkeys(fields, 1.0), front, {}]
    write(
        scene / "calibration/k.json", json.dumps({"names": ["LIDAR", "CAMERA_01", "CAMERA_05"], "intrinsics": entries})
    )
    write(scene / "scene_ab.json", json.dumps(contents(tmp_path)))
    write(
        tmp_path / "ddad.json",
        json.dumps({"metadata": {}, "scene_splits": {"1": {"filenames": ["000150/scene_ab.json"]}}}),
    )
    return tmp_path


def test_the_point_is_where_the_images_have_it(root: Path) -> None:
    (recording,) = DATASETS["ddad"].open(root)
    assert (recording.name, recording.split, recording.metric) == ("000150", "val", True)
    assert [view.stamp_ns for view in recording.views] == [1555087385123456000, 1555087385223456789]
    for view, spot in zip(recording.views, SPOTS, strict=True):
        assert view.camera == "CAMERA_01"
        check(view, spot, depth_tolerance=1e-6)


def change(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("ddad.json", "scene_splits", "scenes", r"ddad\.json"),
        ("ddad.json", '"1"', '"7"', r"ddad\.json.*'7'"),
        ("ddad.json", "scene_ab", "scene_cd", r"scene_cd\.json"),
        ("ddad.json", '["000150/scene_ab.json"]', "5", r"ddad\.json.*list files"),
        ("000150/scene_ab.json", '"key": "c1"', '"key": "c9"', r"scene_ab\.json.*c1"),
        ("000150/scene_ab.json", '"CAMERA_01"', '"CAMERA_02"', r"scene_ab\.json.*CAMERA_01"),
        ("000150/scene_ab.json", '"samples"', '"simples"', r"scene_ab\.json.*samples"),
        ("000150/scene_ab.json", "05.123456Z", "05", r"scene_ab\.json.*stamp"),
        ("000150/scene_ab.json", '"qw"', '"qq"', r"scene_ab\.json.*quaternion"),
        ("000150/scene_ab.json", "rgb/CAMERA_01/1.png", "gone.png", r"gone\.png"),
        ("000150/scene_ab.json", "LIDAR/1.npz", "LIDAR/gone.npz", r"gone\.npz"),
        ("000150/scene_ab.json", "}", "", r"scene_ab\.json' is not JSON"),
        ("000150/calibration/k.json", '"CAMERA_01"', '"CAMERA_02"', r"k\.json.*CAMERA_01"),
        ("000150/calibration/k.json", '"fx": 218.0', '"fx": 0', r"k\.json.*positive"),
    ],
)
def test_broken_files_are_named(root: Path, file: str, old: str, new: str, said: str) -> None:
    change(root, file, old, new)
    with pytest.raises(InputError, match=said):
        list(DATASETS["ddad"].open(root))


def test_a_broken_scan_is_named(root: Path) -> None:
    scan = root / "000150/point_cloud/LIDAR/0.npz"
    for content in (scan.read_bytes()[:60], b""):
        scan.write_bytes(content)
        (recording,) = DATASETS["ddad"].open(root)
        with pytest.raises(InputError, match=r"0\.npz"):
            recording.views[0].depth()


def test_damage_is_refused_by_name(root: Path) -> None:
    damage("ddad", root)
