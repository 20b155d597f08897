"""The rendered worlds: what they are said to be, the same every time, made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import GeometryError
from dust3r_ros.evaluation.errors import trajectory_errors
from dust3r_ros.evaluation.scene import read_scene
from dust3r_ros.evaluation.suite import worlds
from dust3r_ros.evaluation.suite.worlds import cloud_figures, covered, extent_of, true_cloud
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.scenes.sequence import RenderedSequence
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


def test_points_in_the_air_count_though_fusion_would_remove_them(run: Any) -> None:
    """Figures are of the cloud that users get, not of a better one."""
    ghosts = []
    for number, keyframe in enumerate(run.mapper.keyframes):
        depth = keyframe.depth.copy()
        depth[: len(depth) // 2] *= 0.5 if number % 4 == 0 else 1.0
        ghosts.append(replace(keyframe, depth=depth))
    raw = with_keyframes(run, ghosts)
    fused = SimpleNamespace(**{**vars(raw), "config": replace(run.config, fusion=True)})
    assert cloud_figures(raw)["accuracy_90"] > 4 * cloud_figures(fused)["accuracy_90"]


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


def test_the_street_has_a_sky_and_is_wide() -> None:
    street = worlds.street(frames=2, width=120)
    sky = street.depths == 0
    assert 0.02 < sky.mean() < 0.6 and sky[:, 0].mean() > sky[:, -1].mean()
    assert np.all(street.images[sky].astype(int) >= 90)  # bright and blue, not what was not rendered
    seen = street.depths[~sky]
    assert np.quantile(seen, 0.05) < 8 and seen.max() > 10


def test_somebody_walks_through_the_room() -> None:
    """Where two frames look at the same still thing, depth agrees; not where the person stands."""
    walk = worlds.passer_by(frames=4, width=120)
    empty = worlds.room(24)
    shown = []
    for pose, depth in zip(walk.w_T_c, walk.depths, strict=True):
        still = empty.render(pose, walk.width, walk.height, walk.focal, 1).depth
        shown.append(depth < still - 1e-3)
        assert np.array_equal(depth[~shown[-1]], still[~shown[-1]])
    assert np.mean([mask.any() for mask in shown]) >= 0.5 and np.mean(shown) < 0.25
    places = []
    for pose, depth, mask in zip(walk.w_T_c, walk.depths, shown, strict=True):
        if mask.any():
            rows, columns = np.nonzero(mask)
            ray = np.array([(columns.mean() - 59.5) / walk.focal, (rows.mean() - 44.5) / walk.focal, 1.0])
            places.append((invert(invert(pose)) @ [*(np.median(depth[mask]) * ray), 1.0])[:3])
    assert np.linalg.norm(places[0] - places[-1]) > 0.8


@pytest.mark.parametrize("make", [worlds.orbit, worlds.hallway])
def test_paths_are_long_enough_to_map(make: Callable[..., RenderedSequence]) -> None:
    sequence = make(frames=2, width=60)
    assert np.all(sequence.depths > 0) and sequence.images.std() > 10
    assert np.linalg.norm(sequence.w_T_c[1, :3, 3] - sequence.w_T_c[0, :3, 3]) > 0.05


def test_a_world_is_rendered_once_and_a_broken_one_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def small(frames: int = 2) -> RenderedSequence:
        made.append(frames)
        return worlds.orbit(frames=frames, width=40)

    monkeypatch.setitem(worlds.WORLDS, "rendered_orbit", small)
    path = worlds.write_world("rendered_orbit", tmp_path)
    before = (path / "groundtruth.txt").read_bytes()
    assert worlds.write_world("rendered_orbit", tmp_path) == path and made == [2]
    (path / "intrinsics.json").unlink()
    worlds.write_world("rendered_orbit", tmp_path)
    assert made == [2, 2] and (path / "groundtruth.txt").read_bytes() == before
    assert read_scene(path).name == "rendered_orbit" and len(read_scene(path).truth) == 2
