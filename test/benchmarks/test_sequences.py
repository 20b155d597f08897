"""benchmarks/sequences.py: a row for every scene, also for one that fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dust3r_ros.scenes.export import write_folder
from dust3r_ros.scenes.sequence import render_sequence

pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/sequences.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_a_failed_scene_is_a_row_and_the_others_are_measured(tmp_path: Path) -> None:
    write_folder(render_sequence("orbit", 4, 160, 120, rate_hz=8.0, supersample=1), tmp_path / "data/orbit")
    (tmp_path / "data/broken").mkdir()
    (tmp_path / "data/broken/groundtruth.txt").write_text("0 0 0 0 0 0 0 1\n")
    page = tmp_path / "docs/results.md"
    few = ("--", "--max-frames", "3", "--focal", "132.8")
    done = run("--data", tmp_path / "data", "--out", page, "--plots", tmp_path / "plots", *few)
    assert done.returncode == 1, done.stderr
    text = page.read_text()
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert rows["orbit"].split("|")[2].strip() == "3"
    assert rows["broken"].split("|")[2].strip() == "–"
    assert "- broken: failed: " in text and "intrinsics.json" in text
    assert "--max-frames 3 --focal 132.8" in text
    assert str(tmp_path) not in text.replace(str(tmp_path / "data/broken"), "")
    assert (tmp_path / "plots/orbit.png").is_file() and (tmp_path / "plots/orbit/preview.png").is_file()


def test_a_scene_may_not_take_longer_than_the_timeout(tmp_path: Path) -> None:
    write_folder(render_sequence("orbit", 2, 160, 120, supersample=1), tmp_path / "data/orbit")
    done = run("--data", tmp_path / "data", "--out", "-", "--timeout", "0.05")
    assert done.returncode == 1 and "stopped after" in done.stdout


def test_no_data_is_one_line(tmp_path: Path) -> None:
    done = run("--data", tmp_path / "gone")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "gone" in done.stderr
