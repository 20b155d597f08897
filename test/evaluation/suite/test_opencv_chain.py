"""The floor: a chain of two-view poses finds the way it should, and loses no frame in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dust3r_ros.evaluation.errors import trajectory_errors
from dust3r_ros.evaluation.scene import read_scene
from dust3r_ros.evaluation.suite.opencv_chain import chain
from dust3r_ros.io.image_sources import open_source
from dust3r_ros.types import Frame


def test_a_walk_is_found_roughly_and_the_focal_is_the_long_edge(walk_folder: Path) -> None:
    scene = read_scene(walk_folder)
    found = chain(open_source(walk_folder))
    assert (found.frames, found.focal, found.width) == (12, 240.0, 240)
    assert len(found.poses) >= 11
    errors = trajectory_errors(scene.truth, found.poses)
    assert errors.ate_percent < 8
    steps = np.linalg.norm(np.diff([pose.w_T_c[:3, 3] for pose in found.poses], axis=0), axis=1)
    assert np.all(steps > 0)


def test_the_same_frames_give_the_same_poses(walk_folder: Path) -> None:
    first, second = (chain(open_source(walk_folder)).poses for _ in range(2))
    assert all(np.array_equal(a.w_T_c, b.w_T_c) for a, b in zip(first, second, strict=True))


def test_frames_without_anything_on_them_get_no_pose() -> None:
    frames = [Frame(k, "camera", np.full((60, 80, 3), 128, np.uint8)) for k in range(3)]
    found = chain(frames)
    assert found.frames == 3 and found.poses == []
