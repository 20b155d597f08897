"""pycolmap's four methods on a rendered walk, each an outcome of its own."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dust3r_ros.evaluation.report.published import COLMAP_METHODS
from dust3r_ros.evaluation.suite.peers import SCRIPT, measure_pycolmap
from dust3r_ros.scenes.export import write_folder
from dust3r_ros.scenes.sequence import render_sequence


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter of the way round a table: 12 images of 240 x 180 pixels."""
    path = tmp_path_factory.mktemp("ring") / "ring"
    write_folder(render_sequence("orbit", 12, 240, 180, rate_hz=6.0, supersample=1), path)
    return path


def mapped(images: Path, out: Path, *options: str, python: str = sys.executable) -> dict[str, Any]:
    command = [python, str(SCRIPT), str(images), str(out), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def needs_pycolmap() -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is the peer")
    if not hasattr(pycolmap, "global_mapping"):
        pytest.skip(f"pycolmap {pycolmap.__version__} has no global mapping")


def test_four_methods_map_the_same_images(ring: Path) -> None:
    needs_pycolmap()
    rows = measure_pycolmap(ring, Path(sys.executable), timeout=300)
    assert tuple(row["system"] for row in rows) == COLMAP_METHODS
    for row in rows:
        assert not row["note"] and row["tracked"] >= 90 and row["ate_percent"] < 1 and abs(row["focal_error"]) < 10, row
        assert row["processor_seconds"] > 0 and 20 < row["peak_memory_mb"] < 2000
    assert len({row["focal_error"] for row in rows}) > 1  # they are not the same run
    assert {row["frames"] for row in rows} == {12} and len({row["data"] for row in rows}) == 1


def test_time_that_is_used_up_and_a_stage_that_dies_are_outcomes(ring: Path, tmp_path: Path) -> None:
    late = mapped(ring / "rgb", tmp_path / "late.json", "--limit", "0.0")
    assert {method["note"] for method in late["methods"].values()} == {"failed: stopped after 0 s, in features"}
    # A package of that name, whose matching kills the process
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "pycolmap.py").write_text(
        "import os, types\n__version__ = '9'\nset_random_seed = int\n"
        "CameraMode = types.SimpleNamespace(SINGLE=1)\nDevice = types.SimpleNamespace(cpu=1)\n"
        "ImageReaderOptions = dict\n"
        "def extract_features(database, *_, **__): database.write_text('')\n"
        "def match_exhaustive(*_, **__): os.kill(os.getpid(), 9)\n"
        "def match_sequential(*_, **__): raise RuntimeError('no luck')\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{fake}" exec "{sys.executable}" "$@"\n')
    python.chmod(stat.S_IRWXU)
    dead = mapped(ring / "rgb", tmp_path / "dead.json", python=str(python))["methods"]
    assert dead["global, exhaustive"]["note"] == "failed: ended by signal 9 (Killed), in matching"
    assert dead["incremental, sequential"]["note"] == "failed: no luck, in matching"
    assert set(dead) == {name.removeprefix("pycolmap ") for name in COLMAP_METHODS}
    # Matches that are too many are not tried; those that are not are made all the same
    many = mapped(ring / "rgb", tmp_path / "many.json", "--exhaustive", "11", python=str(python))["methods"]
    assert many["global, exhaustive"]["note"] == "not run: 12 images; exhaustive matching is for at most 11"
    assert many["global, sequential"]["note"] == "failed: no luck, in matching"


def test_without_pycolmap_the_outcome_names_it(ring: Path, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # without anything that is installed
    bare.chmod(stat.S_IRWXU)
    rows = measure_pycolmap(ring, bare, timeout=60)
    assert {row["note"] for row in rows} == {"failed: No module named 'pycolmap', in features"}
