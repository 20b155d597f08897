"""Scene folders: what is read, what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.scene import find_scenes, read_scene


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "attic"
    (path / "depth").mkdir(parents=True)
    values = {"fx": 100.0, "fy": 102.0, "width": 6, "height": 4, "depth_scale": 500.0, "pose_scale": "arbitrary"}
    (path / "intrinsics.json").write_text(json.dumps(values))
    (path / "groundtruth.txt").write_text("# t x y z q\n0.1 1 2 3 0 0 0 1\n0.2 2 2 3 0 0 0 1\n")
    (path / "depth.txt").write_text("# stamp file\n0.100001 depth/0.png\n")
    depth = np.zeros((4, 6), np.uint16)
    depth[1, 2] = 1500
    cv2.imwrite(str(path / "depth/0.png"), depth)
    return path


def test_a_scene_is_read(folder: Path) -> None:
    scene = read_scene(folder)
    assert (scene.name, scene.focal, scene.width, scene.height, scene.metric) == ("attic", 101.0, 6, 4, False)
    np.testing.assert_array_equal(scene.K, [[100, 0, 2.5], [0, 102, 1.5], [0, 0, 1]])
    assert [pose.stamp_ns for pose in scene.truth] == [100_000_000, 200_000_000]
    assert scene.truth[0].w_T_c[:3, 3].tolist() == [1, 2, 3]
    depth = scene.depth(100_000_000)
    assert depth.dtype == np.float32
    assert depth[1, 2] == 3.0 and depth.sum() == 3.0  # 1500 / 500
    assert scene.depth(200_000_000) is None  # the nearest is 0.1 s away


def test_the_true_pose_of_an_image_is_the_nearest_in_time(folder: Path) -> None:
    scene = read_scene(folder)
    for stamp_ns, x in ((100_000_000, 1), (110_000_000, 1), (191_000_000, 2)):
        assert scene.pose(stamp_ns)[0, 3] == x
    assert scene.pose(110_000_001) is None and scene.pose(150_000_000) is None, "more than 10 ms away"


def test_a_scene_without_depth_has_none(folder: Path) -> None:
    (folder / "depth.txt").unlink()
    assert read_scene(folder).depth(100_000_000) is None


@pytest.mark.parametrize("name", ["groundtruth.txt", "intrinsics.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        read_scene(folder)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("intrinsics.json", "{", "intrinsics.json"),
        ("intrinsics.json", "[]", "intrinsics.json"),
        ("intrinsics.json", '{"fx": 0, "fy": 1, "width": 1, "height": 1}', "not positive"),
        ("intrinsics.json", '{"fx": "wide", "fy": 1, "width": 1, "height": 1}', "wide"),
        ("groundtruth.txt", "# nothing\n", "no pose"),
        ("groundtruth.txt", "0.1 1 2\n", "line 1"),
        ("depth.txt", "0.1\n", "line 1"),
        ("depth.txt", "now depth/0.png\n", "now"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, name: str, text: str, said: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_scene(folder)


def test_a_damaged_depth_image_is_named(folder: Path) -> None:
    (folder / "depth/0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"depth/0\.png"):
        read_scene(folder).depth(100_000_000)


def test_scenes_are_found_by_folder_and_by_parent(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "cellar"
    other.mkdir()
    (other / "groundtruth.txt").write_text("")
    (tmp_path / "notes").mkdir()
    assert find_scenes([folder]) == [folder]
    assert find_scenes([tmp_path]) == [folder, other]
    with pytest.raises(InputError, match="notes"):
        find_scenes([tmp_path / "notes"])
    with pytest.raises(InputError, match="gone"):
        find_scenes([tmp_path / "gone"])


def test_every_scene_beside_the_checkout_is_read(shared: Path) -> None:
    scenes = [read_scene(path) for path in find_scenes([shared / "data"])]
    assert len(scenes) >= 5
    for scene in scenes:
        listed = [line for line in (scene.path / "rgb.txt").read_text().splitlines() if not line.startswith("#")]
        assert len(scene.truth) == len(listed)
        assert 0.3 < scene.focal / max(scene.width, scene.height) < 3
        if scene.depth_files:
            depth = scene.depth(scene.truth[0].stamp_ns)
            assert depth is not None and depth.shape == (scene.height, scene.width)
            assert 0.1 < np.median(depth[depth > 0]) < 10
    assert any(scene.depth_files for scene in scenes) and not all(scene.metric for scene in scenes)
