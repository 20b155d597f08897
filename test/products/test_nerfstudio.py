"""transforms.json says with other axes and pixel origins what the keyframes say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from true_map import room_walk, true_keyframes, true_points

from dust3r_ros.cloud.cloud import map_cloud
from dust3r_ros.errors import GeometryError, OutputError
from dust3r_ros.products.nerfstudio import write_nerfstudio
from dust3r_ros.products.ply import read_ply
from dust3r_ros.types import Keyframe


@pytest.fixture(scope="module")
def keyframes() -> list[Keyframe]:
    return [replace(k, camera="front/left") for k in true_keyframes(room_walk("sweep", 12))[:3]]


def written(path: Path, keyframes: list[Keyframe]) -> dict:
    write_nerfstudio(path, keyframes, map_cloud(keyframes, stride=8))
    return json.loads((path / "transforms.json").read_text())


def points_of(about: dict, frame: dict, folder: Path) -> np.ndarray:
    """(N, 3) from a depth image by the documented conventions: corner pixels, OpenGL camera, z along -z."""
    view = {**about, **frame}
    steps = cv2.imread(str(folder / frame["depth_file_path"]), cv2.IMREAD_UNCHANGED)
    assert steps.dtype == np.uint16 and steps.shape == (view["h"], view["w"])
    v, u = np.nonzero(steps)
    z = steps[v, u] * about["depth_unit_scale_factor"]
    camera = np.stack([(u + 0.5 - view["cx"]) / view["fl_x"] * z, -(v + 0.5 - view["cy"]) / view["fl_y"] * z, -z, z**0])
    return (np.array(frame["transform_matrix"]) @ camera)[:3].T


def test_depth_of_every_frame_lies_in_the_room(keyframes: list[Keyframe], tmp_path: Path) -> None:
    about = written(tmp_path / "out", keyframes)
    assert about["camera_model"] == "OPENCV" and about["depth_unit_scale_factor"] == 1e-3
    assert [about[name] for name in ("w", "h", "cx", "cy")] == [160, 120, 80.0, 60.0]
    assert about["fl_x"] == about["fl_y"] == keyframes[0].focal and len(about["frames"]) == 3
    truth = true_points(room_walk("sweep", 12)).reshape(12, -1, 3)
    for frame, keyframe, points in zip(about["frames"], keyframes, truth, strict=False):
        assert np.abs(points_of(about, frame, tmp_path / "out") - points).max() < 1.5e-3
        image = cv2.imread(str(tmp_path / "out" / frame["file_path"]))
        assert np.array_equal(image[..., ::-1], keyframe.image)
        T = np.array(frame["transform_matrix"])
        assert np.linalg.det(T) == pytest.approx(1.0) and np.allclose(T[:3, 3], keyframe.w_T_c[:3, 3])
    assert np.array_equal(about["applied_transform"], np.eye(4)[:3])
    cloud = read_ply(tmp_path / "out" / about["ply_file_path"])
    assert np.array_equal(cloud.points, map_cloud(keyframes, stride=8).points)


def test_cameras_that_differ_are_reported_per_frame(keyframes: list[Keyframe], tmp_path: Path) -> None:
    other = replace(keyframes[1], camera="rear", focal=99.0)
    about = written(tmp_path / "out", [keyframes[0], other])
    assert "fl_x" not in about
    assert [frame["fl_x"] for frame in about["frames"]] == [keyframes[0].focal, 99.0]
    assert about["frames"][1]["file_path"] == "images/rear_000001.png"


@pytest.mark.parametrize(("scale", "unit"), [(1.0, 1e-3), (1000.0, 1e-1), (0.004, 1e-6), (10.0, 1e-3)])
def test_depth_of_any_unit_fits(keyframes: list[Keyframe], tmp_path: Path, scale: float, unit: float) -> None:
    scaled = [replace(k, depth=k.depth * np.float32(scale)) for k in keyframes]
    about = written(tmp_path / "out", scaled)
    assert about["depth_unit_scale_factor"] == pytest.approx(unit)
    steps = cv2.imread(str(tmp_path / "out" / about["frames"][0]["depth_file_path"]), cv2.IMREAD_UNCHANGED)
    assert np.abs(steps * unit / scale - keyframes[0].depth).max() < max(0.6 * unit / scale, 1e-6)


def test_unsure_and_absurd_depth_is_left_out(keyframes: list[Keyframe], tmp_path: Path) -> None:
    depth, confidence = keyframes[0].depth.copy(), keyframes[0].confidence.copy()
    depth[0, :4] = [np.nan, np.inf, -1, 1e6]
    confidence[1] = 1.4
    about = written(tmp_path / "out", [replace(keyframes[0], depth=depth, confidence=confidence), *keyframes[1:]])
    steps = cv2.imread(str(tmp_path / "out" / about["frames"][0]["depth_file_path"]), cv2.IMREAD_UNCHANGED)
    assert (steps[0, :4] == 0).all() and (steps[1] == 0).all() and (steps[2:] > 0).all()


def test_nothing_and_a_folder_in_the_way_are_refused(keyframes: list[Keyframe], tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="no keyframe"):
        written(tmp_path / "out", [])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(OutputError, match="exists already"):
        written(tmp_path / "out", keyframes)
    blind = [replace(k, depth=np.zeros_like(k.depth)) for k in keyframes]
    assert written(tmp_path / "blind", blind)["depth_unit_scale_factor"] == 1e-3
