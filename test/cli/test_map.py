"""dust3r-map as a user meets it: a process, its files, its exit code and what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from sequences import cut, walk
from small_recordings import write_video
from threads import unlimited

from dust3r_ros.cli.map import main
from dust3r_ros.io.camera_yaml import write_cameras
from dust3r_ros.io.files import FileLock
from dust3r_ros.scenes.export import write_bag, write_folder
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.session import pieces
from dust3r_ros.types import Camera

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    "cameras.yaml",
    "keyframes.txt",
    "map.db",
    "map.ply",
    "preview.png",
    "report.html",
    "summary.json",
    "trajectory.txt",
]
SAME = ("trajectory.txt", "keyframes.txt", "map.ply", "cameras.yaml")
FAST = ["--set", "working_size=160", "--set", "tracking_size=240", "--set", "keyframe_motion_young=0.03"]
SPARSE = [*FAST, "--focal", "199.2", "--set", "dense=false"]  # where the map is not the subject


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "dust3r_ros.cli.map", *map(str, arguments)]


def run(
    *arguments: object, cwd: Path = ROOT, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    environment = {**environment, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return cut(walk("orbit"), 14)


@pytest.fixture(scope="module")
def folder(sequence: RenderedSequence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "orbit"
    write_folder(sequence, path)
    return path


@pytest.fixture(scope="module")
def mapped(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("out") / "new" / "results"
    done = run(folder, "--out", out, "--record", out.parents[1] / "run.jsonl", *FAST, environment=unlimited())
    assert done.returncode == 0, done.stderr
    return out, done


def test_a_folder_becomes_every_file_of_the_contract(mapped, sequence: RenderedSequence) -> None:
    out, done = mapped
    assert sorted(path.name for path in out.iterdir()) == FILES
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames"] == len(sequence)
    assert 2 <= summary["keyframes"] <= summary["tracked"] <= summary["frames"]
    assert summary["pairs"] >= summary["keyframes"] - 1
    assert summary["focal"]["camera"] == pytest.approx(sequence.focal, rel=0.15)
    assert summary["seed"] == 0 and summary["version"] and summary["peak_memory_mb"] > 10
    assert summary["configuration"]["working_size"] == 160
    for stage in summary["stages"].values():
        assert 0 <= stage["p50_ms"] <= stage["p95_ms"] <= stage["max_ms"]
    assert {"track", "predict"} <= set(summary["stages"])
    assert str(out / "preview.png") in done.stdout
    assert f"{summary['points']:,} points" in done.stdout
    assert "Traceback" not in done.stderr


def test_other_programs_read_the_files(mapped, sequence: RenderedSequence) -> None:
    plyfile = pytest.importorskip("plyfile", reason="the independent PLY reader is not installed")
    out, _ = mapped
    summary = json.loads((out / "summary.json").read_text())
    trajectory = np.loadtxt(out / "trajectory.txt", ndmin=2)
    keyframes = np.loadtxt(out / "keyframes.txt", ndmin=2)
    assert len(trajectory) == summary["tracked"] and len(keyframes) == summary["keyframes"]
    assert np.allclose(np.linalg.norm(trajectory[:, 4:], axis=1), 1.0)
    assert np.isin(np.round(trajectory[:, 0], 4), np.round(sequence.stamps_ns * 1e-9, 4)).all()
    vertices = plyfile.PlyData.read(str(out / "map.ply"))["vertex"]
    assert len(vertices) == summary["points"] > 1000
    assert [item.name for item in vertices.properties] == ["x", "y", "z", "red", "green", "blue", "confidence"]
    assert np.isfinite(vertices["x"]).all() and vertices["confidence"].min() > 1.0
    calibration = yaml.safe_load((out / "cameras.yaml").read_text())
    assert (calibration["image_width"], calibration["image_height"]) == (240, 176)
    assert calibration["camera_matrix"]["data"][0] == pytest.approx(summary["focal"]["camera"], abs=1e-2)
    with sqlite3.connect(out / "map.db") as base:
        assert base.execute("pragma integrity_check").fetchone() == ("ok",)
    assert cv2.imread(str(out / "preview.png")).shape[1] == 1200
    assert "<html" in (out / "report.html").read_text()


def test_the_map_is_near_the_truth(mapped, sequence: RenderedSequence) -> None:
    pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")
    from dust3r_ros.evaluation.errors import trajectory_errors
    from dust3r_ros.io.trajectory import read_tum
    from dust3r_ros.types import StampedPose

    truth = [StampedPose(int(t), "camera", w_T_c) for t, w_T_c in zip(sequence.stamps_ns, sequence.w_T_c, strict=True)]
    assert trajectory_errors(truth, read_tum(mapped[0] / "trajectory.txt")).ate_percent < 5.0


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in this process: to start one costs more than a short map."""
    code = main([str(argument) for argument in arguments])
    return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())


def test_a_calibration_file_is_used(
    folder: Path, sequence: RenderedSequence, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under whatever name the file has it, and not at all if it is none."""
    camera = Camera("narrow", sequence.width, sequence.height, sequence.focal)
    write_cameras(tmp_path / "one.yaml", [camera])
    common = folder, "--quiet", *FAST, "--set", "dense=false", "--max-frames", 8
    done = called(capsys, *common, "--out", tmp_path / "out", "--camera-info", tmp_path / "one.yaml")
    assert done.returncode == 0, done.stderr
    shown = json.loads((tmp_path / "out/summary.json").read_text())["cameras"]["camera"]
    assert shown["fixed"] and shown["focal"] == pytest.approx(sequence.focal)
    named = *common, "--camera", "front", "--camera-info", tmp_path / "one.yaml"
    assert called(capsys, *named, "--out", tmp_path / "named").returncode == 0
    shown = json.loads((tmp_path / "named/summary.json").read_text())["cameras"]["front"]
    assert shown["fixed"] and shown["focal"] == pytest.approx(sequence.focal)
    write_cameras(tmp_path / "two.yaml", [camera, replace(camera, name="wide")])
    done = called(capsys, *common, "--out", tmp_path / "none", "--camera-info", tmp_path / "two.yaml")
    assert done.returncode == 2 and "the cameras narrow, wide, the recording has camera" in done.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("wrong", [1.0, 1.5])
def test_a_given_focal_that_images_contradict_is_said(
    folder: Path, sequence: RenderedSequence, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: float
) -> None:
    write_cameras(tmp_path / "one.yaml", [Camera("it", sequence.width, sequence.height, wrong * sequence.focal)])
    common = folder, "--quiet", *FAST, "--set", "dense=false", "--camera-info", tmp_path / "one.yaml"
    done = called(capsys, *common, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert ("px were given: if they are wrong" in done.stderr) == (wrong > 1.0), done.stderr


def test_a_video_is_mapped(
    sequence: RenderedSequence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "walk.avi", sequence.images, rate=8.0)
    done = called(capsys, "walk.avi", "--out", "out", "--camera", "phone", "--max-frames", 9, *SPARSE)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["frames"] == 9 and list(summary["focal"]) == ["phone"]
    assert summary["source"] == "walk.avi"


def test_a_bag_is_mapped_and_needs_its_topic_when_it_has_two(
    sequence: RenderedSequence, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rosbags", reason="rosbags is not installed")
    bag, short = tmp_path / "bag", cut(sequence, 9)
    write_bag({"/left/image_raw": short, "/right/image_raw": short}, bag)
    done = called(capsys, bag, "--out", tmp_path / "out", "--max-frames", 3)
    assert_error(done, 2, "/left/image_raw", "/right/image_raw")
    done = called(capsys, bag, "--out", tmp_path / "out", "--topic", "/left/image_raw", *SPARSE)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["frames"] == len(short) and list(summary["focal"]) == ["left"]


def test_a_still_camera_gives_valid_files_and_says_why_there_is_no_map(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "still").mkdir()
    image = (folder / "rgb/000000.png").read_bytes()
    for index in range(4):
        (tmp_path / f"still/{index}.png").write_bytes(image)
    done = called(capsys, tmp_path / "still", "--out", tmp_path / "out", "--quiet", *FAST)
    assert_error(done, 1, "nothing could be mapped", str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["frames"] == 4 and summary["points"] == 0
    assert "Nothing could be mapped" in (tmp_path / "out/report.html").read_text()


def test_what_comes_to_nothing_leaves_the_files_of_an_earlier_run(
    mapped, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, still = tmp_path / "out", tmp_path / "still"
    shutil.copytree(mapped[0], out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    still.mkdir()
    for index in range(4):
        shutil.copy(folder / "rgb/000000.png", still / f"{index}.png")
    done = called(capsys, still, "--out", out, "--quiet", *FAST)
    assert_error(done, 1, "nothing could be mapped", "an earlier run")
    for index in range(4):
        cv2.imwrite(str(still / f"{index}.png"), np.random.default_rng(index).integers(0, 255, (180, 240, 3), np.uint8))
    done = called(capsys, still, "--out", out, "--quiet", "--load", out / "map.db", "--localize-only", *FAST)
    assert_error(done, 1, "no image shows enough of the map", "out/map.db")
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_images_of_another_size_are_another_camera_of_a_loaded_map(
    mapped, sequence: RenderedSequence, tmp_path: Path, capsys
) -> None:
    """A photograph or a video of any device shows where in the map it was taken; its manifest knows it, too."""
    place, record = tmp_path / "large", tmp_path / "run.jsonl"
    large = [cv2.resize(image, None, fx=2, fy=2) for image in sequence.images]
    other = f"camera_{large[0].shape[1]}x{large[0].shape[0]}"
    write_folder(replace(sequence, images=large, focal=2 * sequence.focal), place)
    loaded = ["--load", mapped[0] / "map.db", *FAST, "--set", "dense=false"]
    done = called(capsys, place, "--out", tmp_path / "more", "--record", record, *loaded)
    summary = json.loads((tmp_path / "more" / "summary.json").read_text())
    assert done.returncode == 0 and "could not be used" not in done.stderr, done.stderr
    assert set(summary["cameras"]) == {"camera", other} and summary["tracked"] == summary["frames"] == 14
    again = called(capsys, place, "--out", tmp_path / "again", "--manifest", record)
    assert again.returncode == 0 and "could not be found" not in again.stderr, again.stderr
    poses = [(tmp_path / out / "trajectory.txt").read_bytes() for out in ("more", "again")]
    assert poses[0] == poses[1]

    video = write_video(tmp_path / "walk.avi", np.stack(large))
    done = called(capsys, video, "--out", tmp_path / "found", "--localize-only", *loaded)
    found = json.loads((tmp_path / "found" / "summary.json").read_text())
    assert done.returncode == 0 and other in found["cameras"], done.stderr
    assert 14 == found["frames"] >= found["tracked"] >= 10


def test_every_and_max_frames_choose_and_bad_files_are_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in (folder / "rgb").glob("*.png"):
        (images / path.name).write_bytes(path.read_bytes())
    (images / "000002.png").write_bytes(b"no image")
    (images / "000003.png").write_bytes((folder / "rgb/000003.png").read_bytes()[:200])
    other = np.zeros((2, 60, 3), np.uint8)
    cv2.imwrite(str(images / "000004.png"), other)
    done = called(capsys, images, "--out", tmp_path / "out", "--max-frames", 6, "--quiet", *SPARSE)
    assert done.returncode in (0, 1)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["frames"] == 5  # six taken, one too narrow for a map
    assert "2 frames could not be read" in done.stderr
    assert "1 frame could not be used" in done.stderr and "60" in done.stderr
    assert "Traceback" not in done.stderr
    called(capsys, folder, "--out", tmp_path / "out", "--every", 5, "--quiet", *SPARSE)
    assert json.loads((tmp_path / "out/summary.json").read_text())["frames"] == 3  # 0, 5, 10 of 14


def assert_error(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("dust3r-map: error: ")
    for part in parts:
        assert part in lines[0]


@pytest.fixture
def trouble(tmp_path: Path) -> Path:
    """A folder of inputs that are none."""
    for folder in ("empty", "broken"):
        (tmp_path / folder).mkdir()
    for name in ("broken/1.jpg", "garbage.mp4", "garbage.bag"):
        (tmp_path / name).write_bytes(b"nothing")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "wrong.yaml").write_text("seed: many")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["IN"], 2, ["--out"]),
        (["IN", "--out", "new", "--every", "0"], 2, ["--every", "0"]),
        (["IN", "--out", "new", "--wrong"], 2, ["--wrong"]),
        (["gone", "--out", "new"], 2, ["gone", "does not exist"]),
        (["", "--out", "new"], 2, ["input ''", "does not exist"]),
        (["empty", "--out", "new"], 2, ["empty", "no images"]),
        (["IN", "--out", "garbage.mp4"], 2, ["garbage.mp4", "is a file"]),
        (["IN", "--out", "IN"], 2, ["is the input"]),
        (["IN", "--out", "garbage.mp4/below"], 1, ["garbage.mp4/below"]),
        (["IN", "--out", "new", "--topic", "/image"], 2, ["/image"]),
        (["IN", "--out", "new", "--set", "window"], 2, ["window", "NAME=VALUE"]),
        (["IN", "--out", "new", "--set", "window=1"], 2, ["window", "1", "[2, 100]"]),
        (["IN", "--out", "new", "--set", "windows=3"], 2, ["windows", "unknown"]),
        (["IN", "--out", "new", "--focal", "-3"], 2, ["focal", "-3"]),
        (["IN", "--out", "new", "--focal", "nan"], 2, ["focal", "nan"]),
        (["IN", "--out", "new", "--config", "gone.yaml"], 2, ["gone.yaml"]),
        (["IN", "--out", "new", "--config", "list.yaml"], 2, ["list.yaml", "list"]),
        (["IN", "--out", "new", "--config", "wrong.yaml"], 2, ["seed", "many"]),
    ],
)
def test_errors_are_one_line_that_names_the_thing(
    folder: Path, trouble: Path, arguments, code, parts, monkeypatch, capsys
) -> None:
    """In this process: to start one costs more than all that is checked."""
    monkeypatch.chdir(trouble)
    try:
        found = main([str(folder) if item == "IN" else item for item in arguments])
    except SystemExit as end:
        found = end.code
    assert_error(subprocess.CompletedProcess(arguments, found, *capsys.readouterr()), code, *parts)
    assert not (trouble / "new/summary.json").exists()
    assert (trouble / "garbage.mp4").read_bytes() == b"nothing"


@pytest.mark.parametrize("name", ["garbage.mp4", "garbage.bag", "broken"])
def test_libraries_that_cannot_read_a_file_add_nothing_to_the_line(trouble: Path, name: str) -> None:
    assert_error(run(name, "--out", "new", cwd=trouble), 2, name)


def test_debug_shows_the_traceback_and_the_line(tmp_path: Path) -> None:
    done = run("gone", "--out", tmp_path / "out", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("dust3r-map: error: input 'gone'")


def test_options_win_over_the_file_and_set_over_options(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "robot.yaml"
    config.write_text(
        "/dust3r:\n  ros__parameters:\n    focal: 111.0\n    window: 5\n    seed: 3\n    image_topic: /front/image\n"
    )
    out = tmp_path / "out"
    options = ["--config", str(config), "--focal", "150", "--set", "seed=4", "--max-frames", "2", "--quiet"]
    main([str(folder), "--out", str(out), *options])
    summary = json.loads((out / "summary.json").read_text())
    assert [summary["configuration"][name] for name in ("focal", "window", "seed")] == [150.0, 5, 4]
    assert summary["focal"]["camera"] == pytest.approx(150.0)
    assert summary["cameras"]["camera"]["fixed"] is True


@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_two_runs_do_not_write_to_one_folder(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pieces, "_LEAST", 6.0)
    write_folder(walk("orbit", 36), tmp_path / "walk")
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / "summary.json"):
        assert main([str(tmp_path / "walk"), "--out", str(tmp_path / "out"), *FAST, *more]) == 1
    said = capsys.readouterr()
    assert "another process" in said.err and ("in 2 pieces" in said.out) == bool(more)
    assert not list((tmp_path / "out").iterdir())


def test_an_interrupt_finishes_the_map_with_what_is_there(folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    source = sorted((folder / "rgb").glob("*.png"))
    for index in range(3000):  # there and back again, far longer than this test waits
        step = index % (2 * len(source) - 2)
        (images / f"{index:06d}.png").symlink_to(source[min(step, 2 * len(source) - 2 - step)])
    out, record = tmp_path / "out", tmp_path / "run.jsonl"
    process = subprocess.Popen(
        command(images, "--out", out, "--record", record, *SPARSE),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not (record.is_file() and record.read_text().count("\n") > 8) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "interrupted" in errors and "Traceback" not in errors
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert 0 < json.loads((out / "summary.json").read_text())["frames"] < 3000


def test_a_browser_watches_the_map_that_is_the_same_as_without(mapped, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("viser", reason="viser (extra viewer) is not installed")
    from viser_client import Client

    process = subprocess.Popen(
        command(folder, "--out", tmp_path / "out", *FAST, "--viewer-address", "127.0.0.1:0"),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=unlimited(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("watch the map at http://localhost:")
        with Client(said.split()[-1]) as client:
            client.wait_for(
                lambda c: {"/points/0", "/path/camera"} <= c.nodes.keys() and "14 frames" in c.text, "a map"
            )
            client.wait_for(lambda c: c.closed, "the end of the run")
        said, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "viser" not in said + errors and "Traceback" not in errors
    for name in ("trajectory.txt", "keyframes.txt", "map.ply"):
        assert (tmp_path / "out" / name).read_bytes() == (mapped[0] / name).read_bytes(), name


def test_an_address_to_watch_from_that_is_none_ends_at_once(folder: Path, tmp_path: Path) -> None:
    done = run(folder, "--out", tmp_path / "out", "--view", "--viewer-address", "everywhere")
    assert done.returncode == 2
    assert "viewer address is 'everywhere'" in done.stderr and not (tmp_path / "out").exists()


def test_help_and_version_answer_without_heavy_imports() -> None:
    script = (
        "import sys\nfrom dust3r_ros.cli import map\n"
        "try: map.main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "print(sorted({'torch', 'cv2', 'rclpy', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--backend" in done.stdout and done.stdout.splitlines()[-1] == "[]"
    done = run("--version")
    assert done.returncode == 0 and done.stdout.startswith("dust3r_ros ")


def test_a_second_run_replaces_the_first_and_a_profile_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """In this process: the file is a Chrome trace with every image and its stages, and the map is the same with it."""
    out, path, found = tmp_path / "out", tmp_path / "trace.json", []
    for more in ([], ["--profile", str(path)]):
        assert main(
            [str(folder), "--out", str(out), "--quiet", "--max-frames", "6", *FAST, "--focal", "199.2", *more]
        ) in (0, 1)
        assert sorted(file.name for file in out.iterdir()) == FILES
        found.append([(out / name).read_bytes() for name in SAME])
        for name in FILES:
            (out / name).write_text("old")
    assert found[0] == found[1]
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]
    assert [event["name"] for event in events].count("image") == 6
    assert {"prepare", "track", "match"} <= {event["name"] for event in events}
    assert len({event["pid"] for event in events}) == 1


def descriptors(path: Path) -> list[tuple[bytes]]:
    base = sqlite3.connect(path)
    try:
        return base.execute("SELECT global_descriptor FROM images ORDER BY number").fetchall()
    finally:
        base.close()


@pytest.mark.parametrize("threads", ["1", "3"])
def test_the_threads_of_the_machine_do_not_change_a_map(mapped, folder: Path, tmp_path: Path, threads: str) -> None:
    """The last digits of sums would differ with the threads of BLAS."""
    out, _ = mapped
    record, again = out.parents[1] / "run.jsonl", tmp_path / "run.jsonl"
    environment = {**unlimited(), "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    done = run(
        folder, "--out", tmp_path / "out", "--manifest", record, "--record", again, "--quiet", environment=environment
    )
    assert done.returncode == 0, done.stderr
    assert again.read_bytes() == record.read_bytes()
    for name in SAME:
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes(), name
    assert descriptors(tmp_path / "out/map.db") == descriptors(out / "map.db") != []


def test_a_depth_network_by_its_file(folder: Path, sequence: RenderedSequence, tmp_path: Path, capfd) -> None:
    from depth_graphs import moge, other

    path = moge(tmp_path / "it.onnx", sequence.focal / sequence.width)
    options = [*FAST, "--out", str(tmp_path / "out"), "--backend", "mono", "--checkpoint"]
    assert main([str(folder), *options, str(path)]) == 0
    said = capfd.readouterr().out
    assert re.search(r"^a map unit is \d\.\d+ m, \+-[12]\d %$", said, re.MULTILINE)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["keyframes"] > 2 and 0.1 < summary["scale"]["relative_std"] < 0.3
    assert "a map unit" in (tmp_path / "out" / "report.html").read_text()
    assert main([str(folder), *options, str(other(tmp_path / "other.onnx"))]) == 2
    assert "other.onnx' is a graph that takes x (1, 10) tensor(float) and gives logits" in capfd.readouterr().err
