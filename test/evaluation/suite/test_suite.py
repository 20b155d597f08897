"""Every scene and system is a row, whatever becomes of it."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from pathlib import Path

import pytest

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import BackendError, InputError
from dust3r_ros.evaluation.report.published import COLMAP_METHODS
from dust3r_ros.evaluation.suite import peers, suite
from dust3r_ros.evaluation.suite.job import fingerprint, measure
from dust3r_ros.evaluation.suite.suite import (
    Plan,
    Task,
    _job,
    measured,
    measured_on,
    pictures_of,
    scenes_at,
    systems_of,
    tasks_of,
)
from dust3r_ros.fleet.cluster import Cluster
from dust3r_ros.fleet.recordings import DIED, MAPPED, Record

SMALL = ("--set", "working_size=160", "--set", "tracking_size=240", "--set", "keyframe_motion_young=0.04")

# Stands for pycolmap: all images but the last, where the truth has them; global mapping fails.
STUB = """
import json, sys
from pathlib import Path
from dust3r_ros.io.trajectory import read_tum
scene, out = Path(sys.argv[2]).parent, Path(sys.argv[3])
count = int(sys.argv[sys.argv.index("--max-frames") + 1])
names = sorted(p.name for p in (scene / "rgb").iterdir())[:count]
poses = {n: p.w_T_c[:3].ravel().tolist() for n, p in list(zip(names, read_tum(scene / "groundtruth.txt")))[:-1]}
method = {"models": 1, "poses": poses, "camera": {"focal": 120.0, "width": 120}, "seconds": 2.0,
          "processor_seconds": 3.0, "stages": {}, "peak_memory_mb": 5.0}
methods = {"incremental, exhaustive": method, "global, exhaustive": {"note": "failed: stopped after 7 s, in mapping"},
           "incremental, sequential": method}
out.write_text(json.dumps({"images": count, "version": "0", "methods": methods}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that runs the stub, whatever it is told to run."""
    folder = tmp_path_factory.mktemp("stub")
    root = Path(suite.__file__).resolve().parents[3]
    (folder / "stub.py").write_text(STUB)
    (folder / "python").write_text(
        f'#!/bin/sh\nPYTHONPATH="{root}" exec "{sys.executable}" "{folder / "stub.py"}" "$@"\n'
    )
    (folder / "python").chmod(stat.S_IRWXU)
    return folder / "python"


def test_ours_and_the_floor_are_measured_in_processes_of_their_own(walk_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(walk_folder, broken)
    (broken / "intrinsics.json").write_text("{}")
    plan = Plan(
        [broken, walk_folder], ["two_view", "opencv"], timeout=200, options=SMALL, pictures=tmp_path / "pictures"
    )
    said: list[str] = []
    rows = {(row["scene"], row["system"]): row for row in measured(plan, said.append)}
    assert len(rows) == 4 == len(said)
    assert all(
        "failed" in row["note"] and "intrinsics.json" in row["note"] for (s, _), row in rows.items() if s == "broken"
    )
    ours, floor = rows["walk", "two_view"], rows["walk", "opencv"]
    assert (ours["frames"], ours["tracked"], ours["unit"], ours["data"]) == (12, 100.0, "m", floor["data"])
    assert ours["ate_percent"] < 10 and ours["density"] > 10 and ours["accuracy"] < 5 and ours["peak_memory_mb"] > 50
    assert floor["ate_percent"] < 8 and floor["focal_error"] == pytest.approx(0, abs=1e-6) and floor["seconds"] > 0
    shown = pictures_of(tmp_path / "pictures", list(rows.values()))
    assert list(shown) == ["walk, two_view: trajectory, focal, depth", "walk, two_view: map"]
    json.dumps(list(rows.values()), allow_nan=False)


def test_without_dense_depth_there_is_none_to_judge(walk_folder: Path) -> None:
    config = MapperConfig(working_size=160, tracking_size=240, keyframe_motion_young=0.04)
    row = measure(walk_folder, "two_view, poses only", config, max_frames=8)
    assert row["frames"] == 8 == row["limit"] and row["density"] is None and row["depth_rel"] is None
    assert row["tracked"] > 50
    with pytest.raises(InputError, match="system 'x' is not known; known are two_view, dust3r, both, two_view, poses"):
        measure(walk_folder, "x", config)
    with pytest.raises(BackendError, match="needs weights"):
        measure(walk_folder, "both", config)


def test_time_that_is_used_up_is_said(walk_folder: Path) -> None:
    late = list(measured(Plan([walk_folder], ["two_view"], budget=0.0), str))
    assert late[0]["note"] == "not run: the budget of 0 s was used up" and "frames" not in late[0]
    slow = list(measured(Plan([walk_folder], ["two_view"], timeout=0.05), str))
    assert slow[0]["note"] == "failed: stopped after 0 s"


def test_on_a_cluster_what_was_finished_is_taken_and_the_rest_is_said(walk_folder: Path, tmp_path: Path) -> None:
    """What needs no cluster; test/cli/test_eval.py has one."""
    plan = Plan([walk_folder], ["two_view", "opencv"], pictures=tmp_path / "pictures")
    said: list[str] = []
    options = {"stopped": lambda: True, "say": said.append}
    first = measured_on(Cluster(), plan, tmp_path, {}, **options)  # type: ignore[arg-type]
    assert {row["note"] for row in first} == {"not run: interrupted"} and said == ["0 of 2 tasks are finished already"]
    job = _job(plan, Task(walk_folder, "opencv"), tmp_path, {}, 1)
    row = first[1] | {"note": "", "seconds": 2.0}
    (tmp_path / job.name).mkdir()
    Record(job.recording, job.request, MAPPED, figures={"rows": [row]}).write(job.folder)
    assert measured_on(Cluster(), plan, tmp_path, {}, **options) == [first[0], row]  # type: ignore[arg-type]
    again = measured_on(Cluster(), plan, tmp_path, {}, again=True, **options)  # type: ignore[arg-type]
    assert again == first == measured_on(Cluster(), plan, tmp_path, {"seed": 1}, **options)  # type: ignore[arg-type]
    Record(job.recording, job.request, DIED, "died 3 times").write(job.folder)
    assert measured_on(Cluster(), plan, tmp_path, {}, **options) == first, "it is tried again"  # type: ignore[arg-type]


def test_pycolmap_is_measured_against_the_same_truth(walk_folder: Path, python: Path) -> None:
    rows = list(measured(Plan([walk_folder], ["pycolmap"], pycolmap=python, timeout=100, max_frames=10), str))
    assert tuple(row["system"] for row in rows) == COLMAP_METHODS
    row = rows[0]
    assert (row["frames"], row["tracked"], row["limit"]) == (10, 90.0, 10) and row["data"] == fingerprint(walk_folder)
    assert row["ate"] < 1e-6 and row["focal_error"] == pytest.approx(0) and row["peak_memory_mb"] == 5.0
    assert row["processor_seconds"] == 3.0
    # A method that failed, and one that the budget did not allow
    assert rows[1]["note"] == "failed: stopped after 7 s, in mapping" and "ate" not in rows[1]
    assert rows[3]["note"].startswith("failed: stopped with what was left of the budget")
    absent = list(measured(Plan([walk_folder], ["pycolmap"]), str))
    assert [row["note"] for row in absent] == 4 * ["not run: pycolmap is not installed"]
    with pytest.raises(BackendError, match="stopped after"):
        peers.run_mappings(walk_folder, python, timeout=0.01, limit=1.0)


def test_scenes_that_are_not_there_are_said(walk_folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    assert scenes_at(tmp_path / "gone", None, [], said.append) == [] and "gone" in said[0]
    assert scenes_at(walk_folder.parent, None, ["wal"], said.append) == [walk_folder]
    assert scenes_at(walk_folder.parent, tmp_path, ["nothing"], said.append) == [] and len(said) == 1
    (tmp_path / "file").write_text("in the way")
    assert (
        scenes_at(None, tmp_path / "file", ["orbit"], said.append) == [] and "rendered_orbit is not measured" in said[1]
    )


def test_the_default_backend_is_measured_first_and_peers_last() -> None:
    assert systems_of(checkpoint=True, poses=True, opencv=True, pycolmap=True) == [
        "two_view", "dust3r", "two_view, poses only", "opencv", "pycolmap",
    ]  # fmt: skip
    assert systems_of(checkpoint=False, poses=False, opencv=False, pycolmap=False) == ["two_view"]


def test_time_runs_out_where_least_is_lost(walk_folder: Path, tmp_path: Path) -> None:
    """Peers come last, and of a peer the scenes with most frames."""
    short = Path(shutil.copytree(walk_folder, tmp_path / "short"))
    (short / "rgb.txt").write_text("\n".join((short / "rgb.txt").read_text().splitlines()[:6]) + "\n")
    plan = Plan([walk_folder, short], ["two_view", "two_view, poses only", "pycolmap"], protocols=True)
    asked = ("multiview_pose_pnp", "multiview_pose_alignment", "multi_view_depth", "reconstruction")
    assert [(task.path.name, task.system, task.protocols) for task in tasks_of(plan)] == [
        ("walk", "two_view", ()), ("short", "two_view", ()),
        ("walk", "two_view", asked), ("short", "two_view", asked),
        ("walk", "two_view, poses only", ()), ("short", "two_view, poses only", ()),
        ("short", "pycolmap", ()), ("walk", "pycolmap", ()),
    ]  # fmt: skip


def test_protocols_that_come_too_late_are_named_and_those_before_stay(walk_folder: Path) -> None:
    task = Task(walk_folder, "two_view", ("multiview_pose_pnp", "reconstruction"))
    done = {"system": "two_view", "protocol": "multiview_pose_pnp", "maa_30": 50.0}
    rows = task.lost("failed: stopped after 9 s", [done])
    assert rows[0] is done and len(rows) == 2
    assert (rows[1]["protocol"], rows[1]["scene"], rows[1]["note"]) == (
        "reconstruction", "walk", "failed: stopped after 9 s",
    )  # fmt: skip
    assert task.lost("", [done, done | {"protocol": "reconstruction"}])[2:] == []


def test_a_job_of_protocols_leaves_its_rows(walk_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "protocols_of", lambda path: ["multiview_pose_pnp", "magic"])
    plan = Plan([walk_folder], ["two_view"], timeout=200, max_frames=5, protocols=True, options=SMALL)
    said: list[str] = []
    rows = list(measured(plan, said.append))
    assert [row["protocol"] for row in rows] == ["sequence", "multiview_pose_pnp", "magic"]
    assert rows[1]["pairs"] == 10 and "'magic' is unknown" in rows[2]["note"] and len(said) == 2


def test_data_of_other_poses_is_other_data(walk_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(walk_folder, copy)
    assert fingerprint(copy) == fingerprint(walk_folder)
    with (copy / "groundtruth.txt").open("a") as file:
        file.write("9999999999.0 0 0 0 0 0 0 1\n")
    assert fingerprint(copy) != fingerprint(walk_folder)
