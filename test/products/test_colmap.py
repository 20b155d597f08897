"""COLMAP models are what COLMAP's own library reads, and mean what ours mean."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from true_map import room_walk, true_keyframes

from dust3r_ros.cloud.tracks import DenseTracks, dense_tracks
from dust3r_ros.errors import GeometryError, OutputError
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.products.colmap import image_name, write_colmap
from dust3r_ros.types import Keyframe


@pytest.fixture(scope="module")
def keyframes() -> list[Keyframe]:
    """Every third index, two cameras, one of them of two focal lengths."""
    walk = [replace(k, index=3 * k.index) for k in true_keyframes(room_walk("sweep", 12))[:6]]
    walk[4] = replace(walk[4], camera="/front/left")
    walk[5] = replace(walk[5], focal=walk[5].focal * 1.001)
    return walk


@pytest.fixture(scope="module")
def tracks(keyframes: list[Keyframe]) -> DenseTracks:
    return dense_tracks(keyframes, 1500)


@pytest.fixture(scope="module")
def model(keyframes: list[Keyframe], tracks: DenseTracks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("colmap") / "model"
    write_colmap(path, keyframes, tracks)
    return path


def test_pycolmap_reads_cameras_poses_points_and_tracks(
    model: Path, keyframes: list[Keyframe], tracks: DenseTracks
) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="COLMAP's library (pip install pycolmap) is not installed")
    read = pycolmap.Reconstruction(str(model / "sparse" / "0"))
    assert (len(read.cameras), len(read.images), len(read.points3D)) == (3, len(keyframes), len(tracks))
    for keyframe in keyframes:
        image = read.images[keyframe.index + 1]
        camera = read.cameras[image.camera_id]
        assert image.name == image_name(keyframe) and camera.model.name == "PINHOLE"
        height, width = keyframe.depth.shape
        assert (camera.width, camera.height) == (width, height)
        assert camera.params.tolist() == [keyframe.focal, keyframe.focal, width / 2, height / 2]
        pose = image.cam_from_world() if callable(image.cam_from_world) else image.cam_from_world
        assert np.allclose(pose.matrix(), invert(keyframe.w_T_c)[:3], atol=1e-12)
    assert read.compute_num_observations() == len(tracks.point)
    stored = {number: point.error for number, point in read.points3D.items()}
    read.update_point_3d_errors()
    for number, point in read.points3D.items():
        assert np.array_equal(point.xyz, tracks.points[number - 1])
        assert point.error == pytest.approx(stored[number], abs=1e-6) and point.error < 1.0
        assert point.color.tolist() == tracks.colors[number - 1].tolist()
        for element in point.track.elements:
            assert read.images[element.image_id].points2D[element.point2D_idx].point3D_id == number
    assert read.compute_mean_reprojection_error() < 0.5


def test_the_files_are_laid_out_as_documented(model: Path, keyframes: list[Keyframe], tracks: DenseTracks) -> None:
    """Read by hand, for machines without COLMAP's library; COLMAP counts pixels from the corner."""
    files = sorted(path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file())
    images = sorted(f"images/{image_name(keyframe)}" for keyframe in keyframes)
    assert files == sorted([*images, *(f"sparse/0/{name}.bin" for name in ("cameras", "images", "points3D"))])
    data = (model / "sparse/0/cameras.bin").read_bytes()
    assert struct.unpack_from("<QIiQQ4d", data) == (
        3, 1, 1, 160, 120, keyframes[0].focal, keyframes[0].focal, 80.0, 60.0
    )  # fmt: skip
    data = (model / "sparse/0/images.bin").read_bytes()
    count, number, *pose, camera = struct.unpack_from("<QI7dI", data)
    assert (count, number, camera) == (len(keyframes), 1, 1) and np.linalg.norm(pose[:4]) == pytest.approx(1.0)
    at = struct.calcsize("<QI7dI")
    name = data[at : data.index(b"\0", at)]
    assert name.decode() == image_name(keyframes[0])
    observations, x, y, point = struct.unpack_from("<QddQ", data, at + len(name) + 1)
    mine = tracks.view == 0
    assert observations == mine.sum() and point == tracks.point[mine][0] + 1
    assert (x, y) == tuple(tracks.pixels[mine][0] + 0.5)
    assert struct.unpack_from("<Q", (model / "sparse/0/points3D.bin").read_bytes()) == (len(tracks),)


def test_the_images_are_those_of_the_keyframes(model: Path, keyframes: list[Keyframe]) -> None:
    names = {image_name(keyframe) for keyframe in keyframes}
    assert len(names) == len(keyframes) and "front_left_000012.png" in names
    for keyframe in keyframes:
        read = cv2.imread(str(model / "images" / image_name(keyframe)))
        assert np.array_equal(read[..., ::-1], keyframe.image)


def test_a_map_without_points_is_still_a_model(keyframes: list[Keyframe], tmp_path: Path) -> None:
    write_colmap(tmp_path / "model", keyframes, dense_tracks([]))
    assert (tmp_path / "model/sparse/0/points3D.bin").read_bytes() == bytes(8)


def test_a_folder_in_the_way_and_an_empty_map_are_refused(keyframes: list[Keyframe], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_colmap(tmp_path / "model", keyframes, dense_tracks([]))
    with pytest.raises(GeometryError, match="no keyframe"):
        write_colmap(tmp_path / "other", [], dense_tracks([]))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
