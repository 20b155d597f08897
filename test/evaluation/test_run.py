"""A rendered scene through the mapper: the figures are right and none is made up."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from sequences import SMALL, cut, walk

pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")

from dust3r_ros.cli import eval as command
from dust3r_ros.evaluation.plots import write_plots
from dust3r_ros.evaluation.run import SceneRun, keyframe_depth, markdown, run_scene
from dust3r_ros.evaluation.scene import read_scene
from dust3r_ros.scenes.export import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "orbit"
    write_folder(cut(walk("orbit"), 14), path)
    return path


@pytest.fixture(scope="module")
def run(folder: Path) -> SceneRun:
    return run_scene(read_scene(folder), SMALL)


def test_the_figures_are_those_of_the_map(run: SceneRun) -> None:
    result, mapper = run.result, run.mapper
    assert result.frames == 14
    assert result.tracked == pytest.approx(100 * len(mapper.trajectory()) / 14)
    assert result.keyframes == len(mapper.keyframes)
    focal = mapper.cameras["camera"].focal
    assert result.focal_error == pytest.approx(100 * (focal / run.scene.focal - 1))
    assert abs(result.focal_error) < 15
    filled = [np.mean(keyframe_depth(k, SMALL.min_confidence) > 0) for k in mapper.keyframes]
    assert result.density == pytest.approx(100 * np.mean(filled))
    assert result.frames_per_second == pytest.approx(14 / result.seconds)
    assert [stamp for stamp, _ in run.focals] == [pose.stamp_ns for pose in run.scene.truth]


def test_a_rendered_scene_is_mapped_well(run: SceneRun) -> None:
    assert run.result.ate_percent < 5
    assert run.result.depth_rel < 15 and run.result.depth_delta > 80


def test_depth_is_scaled_by_the_trajectory(run: SceneRun) -> None:
    """The unit of the map is free; times the scale of the trajectory, its depth is in metres."""
    errors = run.errors
    keyframe = run.mapper.keyframes[0]
    truth = run.scene.depth(keyframe.stamp_ns)
    seen = keyframe.depth > 0
    native = cv2.resize(truth, keyframe.depth.shape[::-1], interpolation=cv2.INTER_NEAREST)
    assert np.median(native[seen]) == pytest.approx(errors.scale * np.median(keyframe.depth[seen]), rel=0.2)


def test_the_plots_are_written(run: SceneRun, tmp_path: Path) -> None:
    path = write_plots(tmp_path / "plots", run)
    assert path.name == "orbit.png"
    image = cv2.imread(str(path))
    assert min(image.shape[:2]) > 500 and image.std() > 20


def test_a_scene_that_cannot_be_mapped_is_a_row_with_a_note(folder: Path) -> None:
    run = run_scene(read_scene(folder), SMALL, max_frames=1)
    assert run.result.frames == 1
    assert run.result.ate is None and run.result.depth_rel is None
    assert "needed" in run.result.note
    row = markdown([run.result.to_json()])
    assert "| – |" in row and "- orbit: " in row


def test_the_command_prints_the_table_and_writes_it(folder: Path, tmp_path: Path, capsys) -> None:
    arguments = ["sequences", str(folder), "--out", str(tmp_path / "out"), "--max-frames", "9", "--quiet"]
    small = ("working_size=160", "tracking_size=240", "keyframe_motion_young=0.04")
    assert command.main([*arguments, *(word for value in small for word in ("--set", value))]) == 0
    shown = capsys.readouterr().out
    (result,) = json.loads((tmp_path / "out/sequences.json").read_text())
    assert result["scene"] == "orbit" and result["frames"] == 9
    assert shown in (tmp_path / "out/sequences.md").read_text()
    row = next(line for line in shown.splitlines() if line.startswith("| orbit"))
    assert f" {result['focal_error']:+.1f} " in row
    assert row.count("|") == shown.splitlines()[0].count("|")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sequences", "gone"], "gone"),
        (["sequences"], "DIR"),
        ([], "COMMAND"),
        (["sequences", ".", "--set", "a=1"], "'a'"),
    ],
)
def test_errors_are_one_line(arguments: list[str], said: str, capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = command.main(arguments)
    except SystemExit as end:
        code = end.code
    errors = capsys.readouterr().err.splitlines()
    assert code == 2 and len(errors) == 1 and said in errors[0]
