"""dust3r-fleet as a user meets it: many recordings, one index, nothing done twice, what fails and who is killed."""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from clusters import needs_ray
from sequences import cut, walk

from dust3r_ros.cli import command, fleet
from dust3r_ros.cli import map as one
from dust3r_ros.fleet import cluster
from dust3r_ros.fleet.recordings import MAPPED, RUNNING, Record, read_record
from dust3r_ros.scenes.export import write_folder

ROOT = Path(__file__).resolve().parents[2]
FAST = ["--set", "working_size=160", "--set", "tracking_size=240", "--set", "keyframe_motion_young=0.03"]
SPARSE = [*FAST, "--focal", "199.2", "--set", "dense=false"]
SAME = ("trajectory.txt", "keyframes.txt", "map.ply", "cameras.yaml")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two walks with the same name, a longer one, and a folder without a readable image."""
    path = tmp_path_factory.mktemp("recordings")
    write_folder(cut(walk("orbit"), 9), path / "a/walk")
    write_folder(cut(walk("corridor"), 9), path / "b/walk")
    write_folder(walk("orbit"), path / "long")
    (path / "broken").mkdir()
    (path / "broken/1.jpg").write_bytes(b"nothing")
    return path


def called(*arguments: object) -> int:
    """In this process."""
    return fleet.main([str(argument) for argument in arguments])


def rows(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "index.csv", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """The results of ``dust3r-map`` for a recording, made once and to be read only."""

    @cache
    def mapped(recording: Path) -> Path:
        out = tmp_path_factory.mktemp("alone")
        assert one.main([str(recording), "--out", str(out), "--quiet", *SPARSE]) == 0
        return out

    return mapped


def assert_same(folder: Path, other: Path) -> None:
    for name in SAME:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


@needs_ray
@pytest.mark.parametrize("changes", [False, pytest.param(True, marks=pytest.mark.long)])
def test_each_is_mapped_as_alone_and_only_once(
    place: Path, tmp_path: Path, alone: Callable[[Path], Path], capsys: pytest.CaptureFixture[str], changes: bool
) -> None:
    """What changes is mapped again, by a second cluster, which takes as long as the first."""
    out = tmp_path / "out"
    asked = [place / "?/walk", place / "broken", "--out", out, *SPARSE]
    assert called(*asked, "--workers", 2) == 1
    errors = capsys.readouterr().err
    assert "dust3r-fleet: error: broken: " in errors and "no readable frame" in errors and "Traceback" not in errors
    found = rows(out)
    assert {name: row["state"] for name, row in found.items()} == {
        "a-walk": "mapped", "b-walk": "mapped", "broken": "failed",
    }  # fmt: skip
    assert found["a-walk"]["poses"] == "9" and float(found["a-walk"]["length"]) > 0
    assert found["broken"]["tries"] == "1" and "no readable frame" in found["broken"]["message"]
    assert_same(out / "a-walk", alone(place / "a/walk"))

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in sorted(out.glob("*-walk/*"))}

    before, start = written(), time.monotonic()
    assert called(*asked[:1], "--out", out, *SPARSE) == 0
    assert time.monotonic() - start < 2 and written() == before
    assert "2 of 2 recordings are mapped, 2 of them before" in capsys.readouterr().out
    assert rows(out)["broken"]["state"] == "failed", "the index keeps what was not asked for"
    if changes:
        changed = place / "b/walk/rgb/000000.png"
        os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1))
        assert called(*asked[:1], "--out", out, *SPARSE, "--quiet", "--workers", 1) == 0
        assert {path.parent.name for path, stamp in written().items() if before[path] != stamp} == {"b-walk"}


@needs_ray
def test_an_interrupt_keeps_what_is_finished(place: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "endless", tmp_path / "out"
    images.mkdir()
    source = sorted((place / "long/rgb").glob("*.png"))
    for index in range(3000):  # there and back again, far longer than this test waits
        step = index % (2 * len(source) - 2)
        (images / f"{index:06d}.png").symlink_to(source[min(step, 2 * len(source) - 2 - step)])
    asked = [images, place / "a/walk", "--out", out, "--workers", "2", *SPARSE]
    process = subprocess.Popen(
        [sys.executable, "-m", "dust3r_ros.cli.fleet", *map(str, asked)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        states = {"walk": MAPPED, "endless": RUNNING}
        _wait(lambda: all(getattr(read_record(out / name), "state", "") == state for name, state in states.items()))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "interrupted; 1 of 2 recordings are finished" in errors and "Traceback" not in errors
    assert {name: row["state"] for name, row in rows(out).items()} == {"walk": "mapped", "endless": "not done"}
    assert read_record(out / "endless") is None


def _wait(until: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not until():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of two nodes with a core each, on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    pytest.importorskip("ray", reason="Ray (extra fleet) is not installed")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    nodes.add_node(**node)
    yield nodes.address
    nodes.shutdown()


@needs_ray
@pytest.mark.parametrize("later", [0.0, *(pytest.param(0.05 * k, marks=pytest.mark.long) for k in range(1, 10))])
def test_a_killed_process_costs_only_its_own_recording(
    address: str, place: Path, tmp_path: Path, alone: Callable[[Path], Path], later: float
) -> None:
    """At ten moments of the run."""
    out, killed = tmp_path / "out", []

    def kill() -> None:
        def running() -> bool:
            record = read_record(out / "long")
            if record is not None and record.state == RUNNING and record.done:
                time.sleep(later)
                os.kill(record.pid, signal.SIGKILL)
                killed.append(record)
            return bool(killed)

        _wait(running)

    killer = threading.Thread(target=kill)
    killer.start()
    asked = [place / "long", place / "?/walk", "--out", out, "--address", address, "--quiet", *SPARSE]
    assert called(*asked) == 0
    killer.join()
    records = {path.name: read_record(path) for path in out.iterdir() if path.is_dir()}
    assert {name: (record.state, record.tries) for name, record in records.items() if record} == {
        "long": ("mapped", 2), "a-walk": ("mapped", 1), "b-walk": ("mapped", 1),
    }  # fmt: skip
    assert records["long"] is not None and records["long"].node != killed[0].node, "elsewhere"
    assert_same(out / "long", alone(place / "long"))


@needs_ray
def test_what_dies_every_time_is_reported(
    address: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def map_or_die(arguments: object, job: object, tick: object) -> Record:
        if job.name == "long":  # type: ignore[attr-defined]
            os.kill(os.getpid(), 9)
        return map_job(arguments, job, tick)  # type: ignore[arg-type]

    map_job = fleet.map_job
    monkeypatch.setattr(fleet, "map_job", map_or_die)
    out = tmp_path / "out"
    asked = [place / "long", place / "a/walk", "--out", out, "--address", address, "--retries", 1, *SPARSE]
    assert called(*asked) == 1
    found = rows(out)
    assert found["walk"]["state"] == "mapped" and found["long"]["state"] == "died"
    assert found["long"]["tries"] == "2" and "died 2 times" in found["long"]["message"]
    assert "error: long: died 2 times" in capsys.readouterr().err


@needs_ray
def test_a_node_with_another_version_is_refused(
    address: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "__version__", "9.9")
    out = tmp_path / "out"
    assert called(place / "a/walk", "--out", out, "--address", address, "--quiet", *SPARSE) == 1
    assert "and the request is by 9.9; install the same" in rows(out)["walk"]["message"]
    assert rows(out)["walk"]["tries"] == "1"


@needs_ray
def test_a_map_to_localise_in_is_shared_and_its_change_is_seen(
    address: str, place: Path, tmp_path: Path, alone: Callable[[Path], Path]
) -> None:
    first, out = tmp_path / "first.db", tmp_path / "out"
    shutil.copyfile(alone(place / "long") / "map.db", first)
    asked = [place / "a/walk", "--out", out, "--quiet", *SPARSE, "--load", first, "--localize-only"]
    assert called(*asked, "--address", address) == 0
    assert rows(out)["walk"]["frames"] == "9", "not those of the map"
    before = read_record(out / "walk")
    assert called(*asked) == 0 and read_record(out / "walk") == before, "not even Ray is started"
    os.utime(first, ns=(0, 10**18))
    assert called(*asked, "--address", address) == 0
    after = read_record(out / "walk")
    assert before is not None and after is not None and after.request != before.request


@needs_ray
def test_recordings_and_results_at_addresses(address: str, place: Path, tmp_path: Path, alone, capsys) -> None:
    """Of another file system as far as this package sees; what crosses processes are addresses."""
    pytest.importorskip("fsspec", reason="fsspec (extra fleet) is not installed")
    out = tmp_path / "out"
    asked = [f"file://{place}/?/walk", f"file://{place}/broken", "--out", f"file://{out}", *SPARSE]
    assert called(*asked, "--address", address) == 1
    errors = capsys.readouterr().err
    assert "error: broken: " in errors and "no readable frame" in errors
    found = rows(out)
    assert {name: row["state"] for name, row in found.items()} == {
        "a-walk": "mapped", "b-walk": "mapped", "broken": "failed",
    }  # fmt: skip
    assert found["a-walk"]["recording"] == f"file://{place}/a/walk"
    assert_same(out / "a-walk", alone(place / "a/walk"))
    assert called(*asked[:1], *asked[2:]) == 0 and "2 of them before" in capsys.readouterr().out
    (out / "b-walk/map.ply").unlink()
    assert called(*asked[:1], *asked[2:], "--address", address) == 0
    assert "1 of them before" in capsys.readouterr().out and (out / "b-walk/map.ply").is_file()


@needs_ray
def test_an_address_without_a_cluster_is_said(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(place / "a/walk", "--out", tmp_path, "--address", "nowhere") == 1
    assert "no Ray cluster can be used at 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--out", "new"], ["no recording is given"]),
        (["gone", "--out", "new"], ["'gone' does not exist"]),
        (["walk", "gone*", "--out", "new"], ["gone*", "matches nothing"]),
        (["wal*", "--out", "walk"], ["no recording is given besides the output folder"]),
        (["walk", "--out", "file"], ["--out 'file' is a file"]),
        (["walk", "--out", "new", "--retries", "-1"], ["--retries is -1"]),
        (["walk", "--out", "new", "--gpus", "-1"], ["--gpus is -1"]),
        (["walk", "--out", "new", "--address", "here:1", "--workers", "2"], ["--workers", "--address"]),
        (["walk", "--out", "new", "--set", "window=1"], ["window", "[2, 100]"]),
        (["walk", "--out", "new", "--load", "gone.db"], ["--load 'gone.db' does not exist"]),
        (["walk", "--out", "new", "--camera-info", "gone.yaml"], ["--camera-info 'gone.yaml' does not exist"]),
        (["walk", "--out", "new", "--localize-only"], ["--localize-only needs a saved map"]),
        (["walk", "--out", "new", "--join", "--load", "file"], ["--join and --load"]),
        (["walk", "--out", "new", "--join", "--backend", "dust3r"], ["--join", "backend 'dust3r'"]),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(
    arguments: list[str], parts: list[str], place: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "walk").symlink_to(place / "a/walk")
    (tmp_path / "file").write_bytes(b"")
    assert called(*arguments) == 2
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1 and errors.startswith("dust3r-fleet: error: ")
    for part in parts:
        assert part in errors
    assert not (tmp_path / "new").exists()


def test_without_ray_the_extra_is_named(place: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert called(place / "a/walk", "--out", tmp_path / "out") == 2
    assert "install the extra 'fleet'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nodes_with_other_working_folders_find_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "robot.yaml").touch()
    given = argparse.Namespace(config="robot.yaml", checkpoint="mini", load=None, out="maps")
    found = command.with_full_paths(given, "config", "checkpoint", "load")
    assert vars(found) == {**vars(given), "config": str(tmp_path / "robot.yaml")}, "what is no file is a name"
    assert given.config == "robot.yaml"


def test_options_are_those_of_dust3r_map_for_any_recording() -> None:
    def options(parser: object) -> set[str]:
        return {name for action in parser._actions for name in action.option_strings}  # type: ignore[attr-defined]

    single = {"--record", "--manifest", "--profile", "--view", "--viewer-address"}
    assert options(one._parser()) - options(fleet._parser()) == single


@needs_ray
def test_maps_of_one_place_are_joined_and_only_once(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings, out = tmp_path / "days", tmp_path / "out"
    for name, frames in (("monday", slice(0, 16)), ("tuesday", slice(6, 22))):
        write_folder(cut(walk("orbit", 24), frames), recordings / name)
    write_folder(walk("corridor", 16), recordings / "corridor")
    asked = [recordings / "*", "--out", out, "--address", address, "--join", *FAST, "--set", "dense=false"]
    assert called(*asked) == 0
    said = capsys.readouterr().out
    assert "one map of monday, tuesday" in said and "1 recordings stay alone" in said
    found = rows(out)
    assert set(found) == {"monday", "tuesday", "corridor", "joined"}
    assert found["joined"]["recording"] == "monday + tuesday" and found["joined"]["frames"] == "32"
    assert "joined" in (out / "index.html").read_text()
    lines = (out / "joined/trajectories/tuesday.txt").read_text().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) == 16
    assert {"map.db", "map.ply", "trajectory.txt", "preview.png", "report.html", "summary.json"} <= {
        path.name for path in (out / "joined").iterdir()
    }
    written = {path: path.stat().st_mtime_ns for path in (out / "joined").rglob("*")}
    assert called(*asked) == 0, "nothing is mapped, and nothing joined, again"
    assert {path: path.stat().st_mtime_ns for path in (out / "joined").rglob("*")} == written
    (out / "joined/map.ply").unlink()
    assert called(*asked) == 0 and (out / "joined/map.ply").exists()
    onwards = ["--out", tmp_path / "more", "--load", out / "joined/map.db", "--quiet", *FAST, "--set", "dense=false"]
    assert one.main([str(recordings / "monday"), *map(str, onwards)]) == 0
    assert called(recordings / "corridor", recordings / "monday", *asked[1:]) == 0
    assert "joined" not in rows(out), "what is asked for now shows two places"
