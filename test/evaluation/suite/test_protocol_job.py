"""The literature's protocols on the suite's scenes: which, on which frames, and what of the published scene that is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.scene import read_scene
from dust3r_ros.evaluation.suite.job import measure_protocol, protocols_of, recording_of, source_of

CONFIG = MapperConfig(working_size=160, tracking_size=240)


@pytest.fixture(scope="module")
def kitchen(walk_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The walk under the name of a published scene."""
    return Path(shutil.copytree(walk_folder, tmp_path_factory.mktemp("data") / "7scenes_redkitchen"))


def test_a_scene_becomes_a_recording_with_what_is_known(walk_folder: Path) -> None:
    scene = read_scene(walk_folder)
    recording = recording_of(walk_folder, scene, max_frames=5)
    assert (recording.name, recording.dataset, recording.metric, len(recording.views)) == ("walk", "recorded", True, 5)
    for view, pose in zip(recording.views, scene.truth[:5], strict=True):
        assert view.stamp_ns == pose.stamp_ns
        np.testing.assert_array_equal(view.w_T_c, pose.w_T_c)
        np.testing.assert_allclose(view.K, [[240, 0, 119.5], [0, 240, 89.5], [0, 0, 1]])
        assert view.image().shape == (180, 240, 3)
        np.testing.assert_array_equal(view.depth(), scene.depth(pose.stamp_ns))


def test_an_image_without_pose_or_depth_has_none(walk_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(walk_folder, tmp_path / "walk"))
    for name in ("groundtruth.txt", "depth.txt"):
        lines = (copy / name).read_text().splitlines()
        (copy / name).write_text("\n".join(lines[:-1]) + "\n")
    recording = recording_of(copy, read_scene(copy))
    assert recording.views[-1].w_T_c is None and recording.views[-1].depth() is None
    assert recording.views[-2].w_T_c is not None and recording.views[-2].depth() is not None
    data = json.loads((copy / "intrinsics.json").read_text())
    (copy / "intrinsics.json").write_text(json.dumps(data | {"cx": "left"}))
    with pytest.raises(InputError, match=r"intrinsics\.json"):
        recording_of(copy, read_scene(copy))


def test_what_the_truth_allows_is_asked(kitchen: Path, walk_folder: Path, tmp_path: Path) -> None:
    poses, depth = ["multiview_pose_pnp", "multiview_pose_alignment"], ["multi_view_depth", "reconstruction"]
    assert protocols_of(kitchen) == [*poses, *depth, "localisation", "localisation_in_map"]
    tum = Path(shutil.copytree(walk_folder, tmp_path / "tum_fr3_walk"))
    assert protocols_of(tum) == [*poses, *depth]  # of which the literature asks no places
    (tum / "depth.txt").unlink()
    assert protocols_of(tum) == poses
    assert protocols_of(tmp_path / "gone") == []
    assert source_of("7scenes_redkitchen") == ("7scenes", "redkitchen")
    assert source_of("kitti_01") is None and source_of("tum") is None and source_of("rendered_orbit") is None


def test_a_published_scene_is_named_and_so_is_what_was_taken_of_it(kitchen: Path) -> None:
    (row,) = measure_protocol(kitchen, "localisation", CONFIG)
    assert (row["dataset"], row["scene"], row["protocol"], row["system"]) == (
        "recorded", "7scenes_redkitchen", "localisation", "two_view",
    )  # fmt: skip
    assert row["of"] == "7scenes/redkitchen"
    assert row["subset"] == "6 frames as database, the 6 between them as queries"
    assert row["queries"] == 6 and row["position_cm"] < 5 and row["rotation_deg"] < 1
    (row,) = measure_protocol(kitchen, "multiview_pose_pnp", CONFIG, max_frames=4)
    assert row["pairs"] == 6 and row["limit"] == 4 and row["subset"] == "4 frames"


def test_a_rendered_scene_is_no_subset_of_anything(walk_folder: Path) -> None:
    (row,) = measure_protocol(walk_folder, "multiview_pose_alignment", CONFIG)
    assert "subset" not in row and "of" not in row and row["rra_15"] > 90
