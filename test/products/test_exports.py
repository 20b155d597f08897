"""One map, every format, by name: files and folders where they are asked for, sentences where not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from true_map import moved, room_walk, true_keyframes

from dust3r_ros.cloud.tracks import dense_tracks
from dust3r_ros.errors import ConfigError, GeometryError, OutputError
from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.occupancy import GridOptions
from dust3r_ros.products.exports import FORMATS, Exporter, ExportOptions
from dust3r_ros.products.ply import read_ply
from dust3r_ros.storage.saved_map import MapLandmarks
from dust3r_ros.types import Keyframe


@pytest.fixture(scope="module")
def keyframes() -> list[Keyframe]:
    return true_keyframes(room_walk("sweep", 12))[:5]


def test_every_format_is_written_to_a_folder_of_its_name(keyframes: list[Keyframe], tmp_path: Path) -> None:
    exporter = Exporter(keyframes, ExportOptions(points=500))
    said = {kind: exporter.write(tmp_path / kind, kind) for kind in FORMATS}
    assert FORMATS == ("ply", "tum", "colmap", "nerfstudio", "grid")
    for kind, name in (
        ("ply", "map.ply"), ("tum", "trajectory.txt"), ("colmap", "sparse/0/images.bin"),
        ("nerfstudio", "transforms.json"), ("grid", "map.yaml"), ("grid", "map.pgm"),
    ):  # fmt: skip
        assert (tmp_path / kind / name).is_file(), name
        assert str(tmp_path / kind) in said[kind]


def test_files_go_by_their_names(keyframes: list[Keyframe], tmp_path: Path) -> None:
    exporter = Exporter(keyframes)
    for kind, name in (("ply", "a.ply"), ("tum", "b.tum"), ("tum", "c.txt"), ("grid", "d.yaml")):
        assert str(tmp_path / name) in exporter.write(tmp_path / name, kind)
        assert (tmp_path / name).is_file()
    for kind, name in (("ply", "a.obj"), ("tum", "b.csv"), ("grid", "d.png")):
        with pytest.raises(ConfigError, match=name):
            exporter.write(tmp_path / name, kind)


def test_the_cloud_can_be_thinned_and_fused(keyframes: list[Keyframe], tmp_path: Path) -> None:
    def size(**options: object) -> int:
        Exporter(keyframes, ExportOptions(**options)).write(tmp_path / "a.ply", "ply")
        return len(read_ply(tmp_path / "a.ply"))

    every = size()
    assert every == 5 * 160 * 120
    assert size(voxel=0.1) < 0.2 * every
    assert 0 < size(fusion=True, voxel=0.05) < every


def test_no_point_is_no_model(keyframes: list[Keyframe], tmp_path: Path) -> None:
    for kind in ("ply", "colmap", "nerfstudio"):
        for fusion in (False, True):
            with pytest.raises(GeometryError, match=r"no point of confidence above 1e\+09 to export; lower min_conf"):
                Exporter(keyframes, ExportOptions(1e9, fusion)).write(tmp_path / "a", kind)
    blind = [replace(k, depth=np.zeros_like(k.depth)) for k in keyframes]
    with pytest.raises(GeometryError, match="neither depth nor landmarks"):
        Exporter(blind).write(tmp_path / "a.ply", "ply")
    assert list(tmp_path.iterdir()) == []


def test_landmarks_lead_the_model_and_are_the_cloud_of_a_map_without_depth(
    keyframes: list[Keyframe], tmp_path: Path
) -> None:
    found = dense_tracks(keyframes, 400)
    names = np.array([keyframe.index for keyframe in keyframes])
    landmarks = MapLandmarks(found.points, found.colors, names[found.view], found.point, found.pixels)
    Exporter(keyframes, ExportOptions(points=len(found) + 200), landmarks).write(tmp_path / "ns", "nerfstudio")
    points = read_ply(tmp_path / "ns/points.ply").points
    assert len(found) < len(points) <= len(found) + 200
    assert np.array_equal(points[: len(found)], found.points.astype(np.float32))
    few = Exporter(keyframes, ExportOptions(points=10), landmarks).write(tmp_path / "few", "colmap")
    assert "and 10 points" in few  # the maximum of all
    blind = [replace(k, depth=np.zeros_like(k.depth)) for k in keyframes]
    for fusion in (False, True):
        Exporter(blind, ExportOptions(fusion=fusion), landmarks).write(tmp_path / "a.ply", "ply")
        assert len(read_ply(tmp_path / "a.ply")) == len(found)
    with pytest.raises(GeometryError, match="no keyframe has depth"):
        Exporter(blind, landmarks=landmarks).write(tmp_path / "a.yaml", "grid")


def test_the_trajectory_is_read_by_others(keyframes: list[Keyframe], tmp_path: Path) -> None:
    Exporter(keyframes).write(tmp_path / "a.txt", "tum")
    for pose, keyframe in zip(read_tum(tmp_path / "a.txt"), keyframes, strict=True):
        assert pose.stamp_ns == keyframe.stamp_ns and np.allclose(pose.w_T_c, keyframe.w_T_c, atol=1e-8)
    evo = pytest.importorskip("evo.tools.file_interface", reason="evo (extra eval) is not installed")
    poses = evo.read_tum_trajectory_file(str(tmp_path / "a.txt"))
    assert poses.check()[0] and np.allclose(poses.poses_se3, [k.w_T_c for k in keyframes], atol=1e-8)


def test_the_cloud_is_read_by_open3d(keyframes: list[Keyframe], tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d", reason="Open3D is not installed", exc_type=ImportError)
    Exporter(keyframes).write(tmp_path / "a.ply", "ply")
    cloud, ours = open3d.io.read_point_cloud(str(tmp_path / "a.ply")), read_ply(tmp_path / "a.ply")
    assert np.allclose(np.asarray(cloud.points), ours.points)
    assert np.allclose(np.asarray(cloud.colors) * 255, ours.colors, atol=0.5)


def test_a_grid_that_would_be_too_large_names_a_resolution_that_fits(keyframes: list[Keyframe], tmp_path: Path) -> None:
    far = replace(keyframes[1], w_T_c=keyframes[1].w_T_c + np.outer([1, 0, 0, 0], [0, 0, 0, 3000.0]))
    options = GridOptions(resolution=0.1, camera_height=1.4)
    with pytest.raises(GeometryError, match=r"cells of 0\.1, at most 4000 x 4000.*a resolution of 0\.79 fits"):
        Exporter([*keyframes, replace(far, index=99)], ExportOptions(grid=options)).write(tmp_path / "a.yaml", "grid")
    assert list(tmp_path.iterdir()) == []


def test_a_grid_says_when_nav2_would_take_it_wrongly(keyframes: list[Keyframe], tmp_path: Path) -> None:
    """It reads metres, and takes z as up."""
    turn = Rotation.from_euler("y", 20, degrees=True).as_matrix()
    tilted = moved(keyframes, Similarity(1.0, turn, np.zeros(3)))
    for number, (some, metric, unit, parts) in enumerate((
        (keyframes, True, "m", []),
        (keyframes, False, "map units", ["no metric scale"]),
        (tilted, True, "m", ["tilted by 20 degrees in the map, so the grid is 6.0% too short"]),
    )):  # fmt: skip
        said: list[str] = []
        exporter = Exporter(some, ExportOptions(grid=GridOptions(0.1)), metric=metric, warn=said.append)
        assert f"cells of 0.1 {unit} in" in exporter.write(tmp_path / f"{number}.yaml", "grid")
        assert len(said) == len(parts) and all(map(str.__contains__, said, parts)), said


def test_what_cannot_be_is_said(keyframes: list[Keyframe], tmp_path: Path) -> None:
    exporter = Exporter(keyframes)
    with pytest.raises(ConfigError, match="'las'; known are ply, tum, colmap, nerfstudio, grid"):
        exporter.write(tmp_path / "a.las", "las")
    with pytest.raises(GeometryError, match="no keyframe"):
        Exporter([]).write(tmp_path / "a.ply", "ply")
    with pytest.raises(OutputError, match="nowhere"):
        exporter.write(tmp_path / "nowhere" / "a.ply", "ply")
    for options in ({"voxel": 0.0}, {"voxel": float("nan")}, {"points": 0}, {"min_confidence": float("nan")}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            ExportOptions(**options)
