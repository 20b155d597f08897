"""Clouds against truth: a true map is right, one that is moved or cut is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError
from dust3r_ros.evaluation.scene import read_scene
from dust3r_ros.evaluation.suite.cloud_truth import cloud_figures, covered, extent_of, true_cloud
from dust3r_ros.evaluation.trajectory import trajectory_errors
from dust3r_ros.types import Camera, Keyframe, StampedPose

SCALE = 0.25


def true_run(folder: Path) -> Any:
    """A map of true keyframes in units of its own."""
    scene = read_scene(folder)
    keyframes, poses = [], []
    for index, pose in enumerate(scene.truth):
        w_T_c = pose.w_T_c.copy()
        w_T_c[:3, 3] *= SCALE
        depth = SCALE * scene.depth(pose.stamp_ns)
        confidence = np.where(depth > 0, 5.0, 1.0).astype(np.float32)
        image = np.zeros((*depth.shape, 3), np.uint8)
        keyframes.append(
            Keyframe(index, 1, pose.stamp_ns, "camera", w_T_c, scene.focal, image, depth.astype(np.float32), confidence)
        )
        poses.append(StampedPose(pose.stamp_ns, "camera", w_T_c))
    camera = Camera("camera", scene.width, scene.height, scene.focal)
    mapper = SimpleNamespace(keyframes=keyframes, cameras={"camera": camera})
    errors = trajectory_errors(scene.truth, poses)
    return SimpleNamespace(scene=scene, mapper=mapper, errors=errors, config=MapperConfig())


def with_keyframes(run: Any, keyframes: list[Keyframe]) -> Any:
    mapper = SimpleNamespace(keyframes=keyframes, cameras=run.mapper.cameras)
    return SimpleNamespace(**{**vars(run), "mapper": mapper})


@pytest.fixture(scope="module")
def run(walk_folder: Path) -> Any:
    return true_run(walk_folder)


def test_a_true_map_is_accurate_and_complete(run: Any) -> None:
    found = cloud_figures(run)
    assert found["accuracy"] < 0.25 and found["accuracy_90"] < 0.6
    assert found["completeness"] < 0.4 and found["completeness_90"] < 1.5
    assert 3 < found["extent"] < 12


def test_depth_that_is_too_long_is_inaccurate_and_holes_are_incomplete(run: Any) -> None:
    good = cloud_figures(run)
    longer = [replace(k, depth=(1.1 * k.depth).astype(np.float32)) for k in run.mapper.keyframes]
    assert cloud_figures(with_keyframes(run, longer))["accuracy"] > 5 * good["accuracy"]
    holes = []
    for keyframe in run.mapper.keyframes:
        confidence = keyframe.confidence.copy()
        confidence[:, : confidence.shape[1] // 2] = 1.0
        holes.append(replace(keyframe, confidence=confidence))
    cut = cloud_figures(with_keyframes(run, holes))
    assert covered(run) == 100.0 and covered(with_keyframes(run, holes)) == pytest.approx(50.0)
    assert cut["completeness_90"] > 3 * good["completeness_90"] and cut["accuracy_90"] < 1.0


def test_a_wrong_focal_does_not_bend_the_truth(run: Any) -> None:
    """The truth is made of true rays: it is the same whatever focal the map found."""
    camera = run.mapper.cameras["camera"]
    wrong = [replace(k, focal=1.2 * k.focal) for k in run.mapper.keyframes]
    mapper = SimpleNamespace(keyframes=wrong, cameras={"camera": replace(camera, focal=1.2 * camera.focal)})
    bent = true_cloud(SimpleNamespace(**{**vars(run), "mapper": mapper}))
    assert np.allclose(bent.points, true_cloud(run).points, atol=1e-4)


def test_nothing_to_measure_is_no_figure(run: Any) -> None:
    assert cloud_figures(SimpleNamespace(**{**vars(run), "errors": None})) == {}
    assert cloud_figures(with_keyframes(run, [])) == {}
    blind = replace(run.scene, depth_files={})
    assert cloud_figures(SimpleNamespace(**{**vars(run), "scene": blind})) == {}
    assert covered(SimpleNamespace(**{**vars(run), "scene": blind})) is None
    with pytest.raises(GeometryError, match="no extent"):
        extent_of(np.ones((5, 3)))
