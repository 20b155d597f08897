"""benchmarks/live.py: figures from known runs, what the page says of them, and a short real run."""

from __future__ import annotations

import importlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from dust3r_ros.errors import OutputError
from dust3r_ros.geometry.rigid import pose
from dust3r_ros.node.tools.verdict import Got, Sent
from dust3r_ros.types import StampedPose

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
MS = 1_000_000


def _module(name: str) -> Iterator[ModuleType]:
    path = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module(name)
    sys.path[:] = path


@pytest.fixture(scope="module")
def figures() -> Iterator[ModuleType]:
    yield from _module("live_figures")


@pytest.fixture(scope="module")
def page() -> Iterator[ModuleType]:
    yield from _module("live_page")


@pytest.fixture(scope="module")
def kill() -> Iterator[ModuleType]:
    yield from _module("live_kill")


@pytest.fixture(scope="module")
def replayed() -> Iterator[ModuleType]:
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
    yield from _module("live_replay")


@pytest.fixture(scope="module")
def cases() -> Iterator[ModuleType]:
    yield from _module("live_cases")


def place(k: int) -> np.ndarray:
    return pose(np.eye(3), [0.02 * k, 0.1 * np.sin(0.3 * k), 0.001 * k * k])


def sent(count: int = 40) -> list[Sent]:
    return [Sent(("/c", 10**9 + k * 50 * MS), k * 100 * MS, 7 + k * 50 * MS) for k in range(count)]


def got(images: list[Sent], late_ms: float = 15.0) -> list[Got]:
    return [Got(item.key, item.at + int(late_ms * MS), place(item.recorded // (100 * MS))) for item in images]


def test_timing_of_a_run_without_a_fault(figures: ModuleType) -> None:
    images = sent()
    found = figures.timings(images, got(images), images[2].at)
    assert found["share"] == 100.0 and found["gap"] == pytest.approx(0.05)
    assert [found[f"latency_{name}"] for name in ("p50", "p95", "max")] == pytest.approx([15.0] * 3)
    assert found["first"] == pytest.approx(-0.085)
    assert [row["met"] for row in json.loads(json.dumps(figures.rows(found, figures.OF_LOCALIZATION)))] == [
        True
    ] * 5 + [None]


def test_images_without_a_pose_count_from_the_first_pose_on(figures: ModuleType) -> None:
    """Ten come too early, then every second has one, and the last ten have none: the end of the run is a gap."""
    images = sent()
    found = figures.timings(images, got(images[10:30:2]), images[0].at)
    assert found["share"] == pytest.approx(100 * 10 / 30)
    assert found["gap"] == pytest.approx((images[-1].at - images[28].at) * 1e-9 - 0.015)
    assert found["first"] == pytest.approx(0.515)


def test_of_an_image_with_two_poses_the_first_counts(figures: ModuleType) -> None:
    images = sent()
    again = [Got(item.key, item.at + 900 * MS, place(0)) for item in images]
    found = figures.timings(images, again + got(images), images[0].at)
    assert found["latency_max"] == pytest.approx(15.0)
    poses = figures.in_recorded_time(images, again + got(images))
    np.testing.assert_array_equal(poses[5].w_T_c, place(5))
    assert poses[5].stamp_ns == 500 * MS


def test_a_run_without_poses_has_no_figures(figures: ModuleType) -> None:
    assert set(figures.timings(sent(), [], 0).values()) == {None}


def test_when_the_camera_begins_to_move(figures: ModuleType) -> None:
    images = sent()
    truth = {item.recorded: StampedPose(item.recorded, "c", place(max(0, k - 5))) for k, item in enumerate(images)}
    assert figures.moving_since(images, truth) == images[6].at


def test_errors_are_of_the_images_that_both_have(figures: ModuleType) -> None:
    pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")
    truth = {k: StampedPose(k, "c", place(k)) for k in range(40)}
    rng = np.random.default_rng(0)

    def noisy(size: float, stamps: range) -> list[StampedPose]:
        poses = [2.0 * place(k)[:3, 3] + size * rng.standard_normal(3) for k in stamps]
        return [StampedPose(k, "c", pose(np.eye(3), at)) for k, at in zip(stamps, poses, strict=True)]

    live, offline = figures.against_offline(truth, noisy(0.04, range(10, 40)), noisy(0.02, range(30)))
    assert 1.2 < live / offline < 3.0
    assert figures.against_offline(truth, noisy(0.01, range(15)), noisy(0.01, range(30))) is None


def test_clouds_are_counted_from_their_images(figures: ModuleType) -> None:
    images = sent()
    tiles = [(images[3].key[1], images[3].at + 800 * MS), (images[3].key[1], images[3].at + 5000 * MS), (12345, 1)]
    assert figures.clouds(images, tiles) == pytest.approx(0.8)
    assert figures.clouds(images, []) is None


def _case(figures: ModuleType, **values: float) -> dict:
    counts = dict.fromkeys(("frames", "tracked", "keyframes", "lost", "dropped", "lost_in_transport", "rejected"), 0)
    return {
        "name": "walk-30", "title": "a walk", "figures": figures.rows(values, figures.OF_MAPPING), "images": 40,
        "poses": 12, "seconds": 2.0, "offline_seconds": 9.0,
        "counts": {**counts, "frames": 14, "tracked": 12, "dropped": 26},
        "stages": {"refine": {"p50_ms": 5.0, "p95_ms": 600.0, "max_ms": 900.0}},
    }  # fmt: skip


def test_the_table_says_what_is_missed(figures: ModuleType, page: ModuleType) -> None:
    text = page.table([_case(figures, share=99.5, latency_p50=31.0, gap=0.1)])
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert rows["images with a pose, of those after the first pose"].endswith("| ≥ 99 % | 99.5 % |")
    assert rows["image published to pose received, p50"].endswith("| 31 ms, **missed** |")
    assert rows["longest gap between poses"].endswith("| 0.1 s |")
    assert rows["error of the poses as published against offline's"].endswith("| none, **missed** |")
    skipped = page.table([{"name": "kitchen-30", "title": "", "skipped": "its data is not in data/"}])
    assert skipped.strip() == "kitchen-30: skipped: its data is not in data/."


def test_the_page_gets_table_and_what_limits(figures: ModuleType, page: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "live.md"
    path.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    about = {"version": "1", "processor": "", "machine": "x86_64", "python": "3.12", "others_cores": 0.1}
    report = {"cases": [_case(figures)], "cores": 2, "reliability": "best_effort", "about": about}
    page.into_page(path, report)
    text = path.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "26 were dropped; 2 reached the mapper and got none" in text
    assert "refine 600 ms (at most 900)" in text and "2 cores of x86_64" in text
    with pytest.raises(OutputError, match="has no place for the table"):
        page.into_page(tmp_path / "none.md", report)


def _file(path: Path, stamps: range, value: str = "1") -> Path:
    """A map file with keyframes of these stamps, as far as it is asked for."""
    base = sqlite3.connect(path)
    base.executescript(
        "CREATE TABLE keyframes (number INTEGER, stamp_ns INTEGER, camera TEXT, w_T_c BLOB);"
        "CREATE TABLE frames (stamp_ns INTEGER, camera TEXT, keyframe_T_frame BLOB);"
        "INSERT INTO frames VALUES (1, 'camera', x'00'), (50, 'camera', NULL);"
        "CREATE TABLE state (name TEXT, value TEXT); CREATE TABLE settings (name TEXT, value TEXT);"
        f"INSERT INTO state VALUES ('lineage', '{path}'), ('session', '{value}');"
        f"INSERT INTO settings VALUES ('made', '{path}');"
    )
    base.executemany("INSERT INTO keyframes VALUES (?, ?, 'camera', x'00')", enumerate(stamps))
    base.execute("INSERT INTO keyframes VALUES (99, 99, 'camera', NULL)")
    base.commit()
    base.close()
    return path


def test_figures_of_a_run_that_was_killed(kill: ModuleType, tmp_path: Path) -> None:
    """Killed at 1 s and 4 s; a pose each 0.1 s, but for 0.4 s after the first and 2 s, in which it is lost, later."""
    every = [k * 100 * MS for k in range(80) if not 10 < k < 14 and not 45 < k < 65]
    heard = SimpleNamespace(
        poses=[("/c", at, at, place(0)) for at in every],
        statuses=[(4_550 * MS, SimpleNamespace(state="lost")), (6_500 * MS, SimpleNamespace(state="tracking"))],
    )
    killer = kill.Killer(_file(tmp_path / "map.db", range(2, 9)), 2)
    killer.continued = 2
    killer.kills += [
        kill.Kill(1000 * MS, frozenset(range(3)), frozenset(range(4)), frozenset(range(6))),
        kill.Kill(4000 * MS, frozenset(range(1, 10)), frozenset(range(2, 7)), frozenset(range(1, 8))),
    ]
    found = killer.figures(heard, 8000 * MS)
    assert found["silence"] == pytest.approx(0.4) and found["continued"] == 2
    assert found["gone"] == 1 + 2, (
        "one that was saved is not there at the second kill, two of those reported never were"
    )
    assert kill.saved(tmp_path / "map.db") == (set(range(2, 9)), {1, *range(2, 9)})
    assert kill.Killer(tmp_path / "map.db", 2).figures(heard, 8000 * MS) == {
        "silence": None, "continued": 0, "gone": None,
    }  # fmt: skip


def test_a_replay_is_compared_byte_for_byte(replayed: ModuleType, tmp_path: Path) -> None:
    for name, value in (("first", "1"), ("same", "1"), ("other", "2")):
        (tmp_path / name).mkdir()
        _file(tmp_path / name / "map.db", range(3), value)
        for file in ("trajectory.txt", "keyframes.txt", "cameras.yaml", "map.ply"):
            (tmp_path / name / file).write_text(file)
    assert replayed.differences(tmp_path / "first", tmp_path / "same") == []
    (tmp_path / "other" / "map.ply").write_text("moved")
    assert replayed.differences(tmp_path / "first", tmp_path / "other") == ["map.ply", "map.db: state"]


def test_cases_are_chosen_by_name(cases: ModuleType) -> None:
    assert cases.selected("") == cases.CASES
    assert [case.name for case in cases.selected("walk-30,kitchen-15")] == ["walk-30", "kitchen-15"]
    with pytest.raises(ValueError, match="no case 'walk'"):
        cases.selected("walk")
    assert {case.recording for case in cases.CASES} == set(cases.RECORDINGS)


def test_a_recording_is_made_once_and_of_absent_data_none(cases: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    assert cases.prepare("kitchen", tmp_path, tmp_path / "nothing") is None
    made = cases.prepare("pair", tmp_path, tmp_path, shortened=2)
    assert made.topics == ("/left/image_raw", "/right/image_raw") and made.images == 4
    left, right, after, _ = sorted(made.truth)
    assert right - left == pytest.approx((after - left) / 2, abs=2), "half a period later"
    written = (made.bag / "metadata.yaml").stat().st_mtime_ns
    again = cases.prepare("pair", tmp_path, tmp_path, shortened=2)
    assert (again.bag, again.topics, again.images) == (made.bag, made.topics, 4) and set(again.truth) == set(made.truth)
    assert (made.bag / "metadata.yaml").stat().st_mtime_ns == written


def test_a_wrong_case_is_one_line() -> None:
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
    command = [sys.executable, str(FOLDER / "live.py"), "--cases", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "there is no case 'nothing'" in done.stderr


@pytest.mark.long
def test_a_short_run_of_real_processes(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
    out = tmp_path / "live.json"
    command = [sys.executable, str(FOLDER / "live.py"), "--cases", "walk-30", "--frames", "60", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    (case,) = json.loads(out.read_text())["cases"]
    assert "failed" not in case, done.stdout + done.stderr
    values = {row["key"]: row["value"] for row in case["figures"]}
    assert case["images"] == 60 and case["poses"] > 0
    assert 0 < values["latency_p50"] <= values["latency_p95"] <= values["latency_max"]
    assert 0 < values["cores"] <= 2.1 and values["share"] > 0
    assert values["replay"] == 0, case["replay_differs"]
    assert "images with a pose" in done.stdout
