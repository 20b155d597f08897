"""benchmarks/sfm.py: the same frames to both programs, ratios, targets; no comparison without pycolmap."""

from __future__ import annotations

import argparse
import json
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dust3r_ros.evaluation.scene import read_scene
from dust3r_ros.evaluation.suite.peers import stamps_by_name
from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.scenes.export import write_folder
from dust3r_ros.scenes.sequence import render_sequence
from scripts import script

pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

# Stands for pycolmap: the poses in groundtruth.txt, scaled and moved, of all frames but the last.
STUB = """
import json, sys
from pathlib import Path
import numpy as np
from dust3r_ros.io.trajectory import read_tum
scene, out = Path(sys.argv[2]).parent, Path(sys.argv[3])
count = int(sys.argv[sys.argv.index("--max-frames") + 1])
names = sorted(p.name for p in (scene / "rgb").iterdir())[:count]
poses = {}
for name, pose in list(zip(names, read_tum(scene / "groundtruth.txt")))[:-1]:
    matrix = np.array(pose.w_T_c[:3])
    matrix[:, 3] = 3.0 * matrix[:, 3] + 1.0
    poses[name] = matrix.ravel().tolist()
camera = {"focal": 120.0, "width": 160}
out.write_text(json.dumps({"images": count, "models": 1, "poses": poses, "camera": camera, "seconds": 2.0,
                           "stages": {"map": 1.0}, "version": "0"}))
"""


@pytest.fixture(scope="module")
def sfm() -> ModuleType:
    return script(FOLDER / "sfm.py", "sfm_benchmark")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_folder(render_sequence("orbit", 5, 160, 120, rate_hz=8.0, supersample=1), folder / "lund_door")
    return folder


def test_their_model_is_measured_against_the_same_truth(sfm: ModuleType, data: Path, tmp_path: Path) -> None:
    (tmp_path / "stub.py").write_text(STUB)
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH="{FOLDER.parent}" exec "{sys.executable}" "{tmp_path / "stub.py"}" "$@"\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    scene = read_scene(data / "lund_door")
    options = argparse.Namespace(max_frames=None, timeout=60.0)
    figures = sfm.theirs(scene, python, options)
    assert (figures["frames"], figures["registered"]) == (5, 4) and not figures["note"]
    assert figures["ate"] < 1e-6 and figures["focal_error"] == pytest.approx(100 * (120.0 / scene.focal - 1))
    assert list(stamps_by_name(scene.path).values()) == [
        pose.stamp_ns for pose in read_tum(data / "lund_door/groundtruth.txt")
    ]
    options.max_frames = 3
    few = sfm.theirs(scene, python, options)
    assert few["frames"] == 3 and few["ate"] is None and "2 poses" in few["note"]
    options.timeout = 0.01
    assert "stopped after" in sfm.theirs(scene, python, options)["note"]


def test_targets_are_met_missed_or_unknown(sfm: ModuleType) -> None:
    ours = {"frames": 9, "registered": 9, "ate": 0.1, "focal_error": -2.0, "seconds": 1.0}
    theirs = {"frames": 9, "registered": 8, "ate": 0.2, "focal_error": 1.0, "seconds": 20.0}
    found = sfm.compare("lund_door", ours, theirs)
    assert found["ratios"] == {"ate": 0.5, "focal_error": 2.0, "seconds": 0.05}
    assert found["met"] == {"ate": True, "focal_error": False, "seconds": True}
    assert sfm.compare("kitti_01", ours | {"registered": 8}, theirs)["met"] == {"seconds": True, "complete": False}
    alone = sfm.compare("lund_door", ours, {"note": "no comparison"})
    assert set(alone["met"].values()) == {None}
    failed = sfm.compare("kitti_01", {"note": "failed"}, theirs)
    assert failed["met"] == {"seconds": None, "complete": False}
    dense = ours | {"seconds": 3.0}
    rows = [{"scene": "lund_door", "ours": ours, "dense": dense, "theirs": theirs, **found, "truth": "COLMAP"},
            {"scene": "b", "ours": ours, "dense": dense, "theirs": {"note": "no comparison"}, **alone}]  # fmt: skip
    judged = [(row["target"], row["met"]) for row in sfm.judged(rows[0])]
    assert judged == [("<= 1", True), ("<= 1", False), ("<= 0.1", True)]
    assert "0.05 x (1.0 / 20.0)" in sfm.judged(rows[0])[2]["measured"] and "3.0 s" in sfm.judged(rows[0])[2]["note"]
    assert {row["met"] for row in sfm.judged(rows[1])} == {None} and "no comparison" in sfm.judged(rows[1])[0]["note"]
    lost = {"scene": "kitti_01", "ours": {"note": "failed"}, "dense": {"note": "failed"}, "theirs": theirs, **failed}
    assert [row["met"] for row in sfm.judged(lost)] == [False, None]
    text = sfm.table(rows)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert len({len(row) for row in rows}) == 1 and rows[2][-1] == "focal error" and rows[3][-1] == "–"
    assert "- b, theirs: no comparison" in text and "- lund_door: truth from COLMAP" in text


def test_without_pycolmap_our_half_is_measured_and_the_table_says_why(data: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file, not an environment")
    out = tmp_path / "results/sfm.json"
    command = [sys.executable, str(FOLDER / "sfm.py"), "--data", str(data), "--environment", str(taken)]
    command += ["--out", str(out), "--", "--focal", "132.8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "no comparison" in done.stderr and str(taken) in done.stderr
    result = json.loads(out.read_text())
    (row,) = result["rows"]
    assert (
        row["ours"]["frames"] == row["dense"]["frames"] == 5
        and row["ours"]["density"] == 0.0
        and "no comparison" in row["theirs"]["note"]
        and "no comparison" in result["pycolmap"]
    )
    assert "no comparison" in out.with_suffix(".md").read_text() and out.with_suffix(".png").is_file()


def test_no_data_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "sfm.py"), "--data", str(tmp_path / "gone")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "gone" in done.stderr
