"""dust3r-export as a user meets it: a saved map in, files of other programs out, errors in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from sequences import SMALL, walk
from true_map import room_walk, true_keyframes

from dust3r_ros.cli.export import main
from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.products.ply import read_ply
from dust3r_ros.storage.saved_map import load_map, save_map
from dust3r_ros.types import Camera, Keyframe

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Finished:
    keyframes: tuple[Keyframe, ...]
    cameras: dict[str, Camera]
    edges: list[tuple[int, int, float]]


def run(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dust3r_ros.cli.export", *map(str, arguments)],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command in this process, in ``tmp_path``: to start one costs more than most of what it does."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        try:
            code = main([*map(str, arguments)])
        except SystemExit as end:
            code = int(end.code or 0)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sequence = room_walk("sweep", 12)
    cameras = {"camera": Camera("camera", 320, 240, 2 * sequence.focal, 1.0, 9)}
    path = tmp_path_factory.mktemp("map") / "map.db"
    save_map(path, Finished(tuple(true_keyframes(sequence)[:5]), cameras, [(0, 1, 1.0)]), {"min_confidence": 2.0})
    return path


def test_everything_at_once(saved: Path, tmp_path: Path, called) -> None:
    done = run(
        saved, "--ply", "a.ply", "--tum", "a.txt", "--colmap", "col", "--nerfstudio", "ns", "--grid", "a.yaml",
        "--resolution", 0.1, "--min-height", 0.15, "--max-height", 1.5, "--points", 300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5 and "5 images" in done.stdout and "0.1 map units in a.yaml" in done.stdout
    assert "warning: the map has no metric scale" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pgm", "a.ply", "a.txt", "a.yaml", "col", "ns"]
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["resolution"] == 0.1
    assert len(read_ply(tmp_path / "a.ply")) == 5 * 160 * 120
    again = called(saved, "--ply", "b.ply", "--colmap", "col2", "--points", 300, "--quiet")
    assert again.returncode == 0 and again.stdout == ""
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    for name in ("cameras", "images", "points3D"):
        first, second = (tmp_path / folder / f"sparse/0/{name}.bin" for folder in ("col", "col2"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["MAP"], 2, ["--ply", "--grid"]),
        (["gone.db", "--ply", "a.ply"], 2, ["gone.db", "does not exist"]),
        (["text.db", "--ply", "a.ply"], 2, ["text.db"]),
        (["empty.db", "--ply", "a.ply"], 2, ["empty.db", "no keyframe"]),
        (["MAP", "--grid", "a.yaml", "--resolution", "0"], 2, ["resolution", "0.0"]),
        (["gone.db", "--grid", "a.yaml", "--min-height", "2", "--max-height", "1"], 2, ["min_height", "2.0", "1.0"]),
        (["MAP", "--grid", "a.png"], 2, ["a.png", "yaml"]),
        (["MAP", "--ply", "a.ply", "--voxel", "-1"], 2, ["voxel", "-1"]),
        (["MAP", "--points", "0", "--ply", "a.ply"], 2, ["--points"]),
        (["gone.db", "--ply", "a.ply", "--min-confidence", "nan"], 2, ["min_confidence", "nan"]),
        (["MAP", "--ply", "a.ply", "--min-confidence", "1e9"], 1, ["no point", "1e+09"]),
        (["MAP", "--colmap", "full"], 1, ["full", "exists already"]),
        (["MAP", "--tum", "nowhere/a.txt"], 1, ["nowhere/a.txt"]),
        (["MAP", "--ply", "a.ply", "--wrong"], 2, ["--wrong"]),
    ],
)
def test_errors_are_one_line_that_names_the_thing(saved: Path, tmp_path: Path, called, arguments, code, parts) -> None:
    (tmp_path / "text.db").write_text("no map")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").touch()
    save_map(tmp_path / "empty.db", Finished((), {}, []))
    done = called(*[saved if item == "MAP" else item for item in arguments])
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("dust3r-export: error: "), done.stderr
    for part in parts:
        assert part in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.db", "full", "text.db"]


def test_the_grid_of_a_metric_map_is_in_metres(saved: Path, tmp_path: Path, called) -> None:
    contents = load_map(saved)
    finished = Finished(contents.keyframes, dict(contents.cameras), [])
    save_map(tmp_path / "metric.db", finished, {"world": {"metric": True}})
    done = called("metric.db", "--grid", "a.yaml", "--resolution", 0.1)
    assert (done.returncode, done.stderr) == (0, "") and "cells of 0.1 m in a.yaml" in done.stdout


def test_of_several_maps_the_largest_is_exported_and_that_is_said(tmp_path: Path, called) -> None:
    """A camera that was lost has begun another one, and the process was killed just then."""
    mapper = Mapper(replace(SMALL, dense=False, focal=walk("orbit").focal))
    for stamp, image in enumerate(walk("orbit").images[:24]):
        mapper.process(stamp, "camera", image)
    largest = len(mapper.keyframes)
    mapper.begin_anew()
    for stamp, image in enumerate(walk("corridor").images[:12]):
        mapper.process(stamp, "camera", image)
    assert 0 < len(mapper.keyframes) < largest and mapper.counts.maps == 2
    save_map(tmp_path / "two.db", mapper)
    done = called("two.db", "--tum", "a.txt")
    assert done.returncode == 0 and "2 maps" in done.stderr
    assert len(read_tum(tmp_path / "a.txt")) == largest


def test_the_map_is_only_read(saved: Path, tmp_path: Path, called) -> None:
    before = saved.read_bytes()
    assert called(saved, "--tum", tmp_path / "a.txt").returncode == 0
    assert saved.read_bytes() == before and os.listdir(saved.parent) == ["map.db"]
    assert len(load_map(saved).keyframes) == 5


def test_help_and_version_answer_without_heavy_imports() -> None:
    script = (
        "import sys\nfrom dust3r_ros.cli import export\n"
        "try: export.main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "print(sorted({'torch', 'cv2', 'rclpy', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--nerfstudio" in done.stdout and done.stdout.splitlines()[-1] == "[]"
    assert run("--version").stdout.startswith("dust3r_ros ")
