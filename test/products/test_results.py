"""write_results: the files agree with the mapper and with each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros import __version__
from dust3r_ros.cloud.cloud import map_cloud
from dust3r_ros.cloud.fusion import fuse_map
from dust3r_ros.config import MapperConfig, as_mapping, from_mapping
from dust3r_ros.errors import OutputError
from dust3r_ros.io.camera_yaml import read_calibrations
from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.products import results
from dust3r_ros.products.ply import read_ply
from dust3r_ros.products.results import peak_memory_mb, write_results
from dust3r_ros.scenes.sequence import render_sequence
from dust3r_ros.storage.saved_map import load_map
from dust3r_ros.timing import Stopwatch
from dust3r_ros.types import Camera

CONFIG = MapperConfig(working_size=160, tracking_size=240, keyframe_motion_young=0.03, focal=199.2, seed=7)


@pytest.fixture(scope="module")
def mapped() -> tuple[Mapper, Stopwatch]:
    stopwatch = Stopwatch()
    mapper = Mapper(CONFIG, stage=stopwatch)
    sequence = render_sequence("orbit", 12, 240, 180, rate_hz=8.0, supersample=1)
    for stamp, image in zip(sequence.stamps_ns, sequence.images, strict=True):
        mapper.process(int(stamp), "front/left", image)
    mapper.finish()
    assert mapper.keyframes, "the scene of these tests must be mapped"
    return mapper, stopwatch


@pytest.fixture(scope="module")
def written(mapped, tmp_path_factory: pytest.TempPathFactory):
    mapper, stopwatch = mapped
    folder = tmp_path_factory.mktemp("results") / "a" / "b"
    summary = write_results(folder, mapper, config=CONFIG, stopwatch=stopwatch, source="orbit <1>", wall_seconds=2.0)
    return folder, summary


def test_the_files_hold_what_the_mapper_holds(mapped, written) -> None:
    mapper, _ = mapped
    folder, _ = written
    for name, poses in (
        ("trajectory.txt", [(p.stamp_ns, p.w_T_c) for p in mapper.trajectory()]),
        ("keyframes.txt", [(k.stamp_ns, k.w_T_c) for k in mapper.keyframes]),
    ):
        read = read_tum(folder / name)
        assert [pose.stamp_ns for pose in read] == [stamp for stamp, _ in poses]
        assert np.allclose([pose.w_T_c for pose in read], [w_T_c for _, w_T_c in poses], atol=1e-6)
    cloud = map_cloud(mapper.keyframes, CONFIG.min_confidence)
    read = read_ply(folder / "map.ply")
    assert len(read) == len(cloud) > 0
    assert np.array_equal(read.points, cloud.points) and np.array_equal(read.colors, cloud.colors)
    camera = read_calibrations(folder / "cameras.yaml")["front/left"]
    assert (camera.width, camera.height) == (240, 180)
    assert camera.fx == pytest.approx(mapper.cameras["front/left"].focal)
    contents = load_map(folder / "map.db")
    assert [k.index for k in contents.keyframes] == [k.index for k in mapper.keyframes]
    assert len(contents.edges) == len(mapper.edges)


def test_the_summary_is_complete_and_is_what_was_returned(mapped, written) -> None:
    mapper, stopwatch = mapped
    folder, summary = written
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert summary["frames"] == 12 == mapper.counts.frames
    assert summary["tracked"] == len(mapper.trajectory())
    assert summary["keyframes"] == len(mapper.keyframes)
    assert summary["pairs"] == mapper.counts.pairs
    assert summary["focal"] == {"front/left": pytest.approx(mapper.cameras["front/left"].focal, abs=1e-3)}
    assert summary["frames_per_second"] == 6.0
    assert summary["stages"] == stopwatch.summary()
    assert (summary["version"], summary["seed"], summary["source"]) == (__version__, 7, "orbit <1>")
    assert from_mapping(MapperConfig, summary["configuration"]) == CONFIG
    assert summary["configuration"] == as_mapping(CONFIG)


def test_the_summary_has_the_size_in_use(mapped, tmp_path: Path) -> None:
    """The configuration may leave it to the backend."""
    mapper, stopwatch = mapped
    summary = write_results(tmp_path, mapper, config=replace(CONFIG, working_size=0), stopwatch=stopwatch)
    assert summary["configuration"]["working_size"] == 160


def test_no_temporary_file_stays(written) -> None:
    folder, _ = written
    assert len(list(folder.iterdir())) == 8


def test_a_large_map_is_thinned_evenly(mapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapper, stopwatch = mapped
    whole = len(map_cloud(mapper.keyframes, CONFIG.min_confidence))
    monkeypatch.setattr(results, "MAX_POINTS", whole // 3)
    summary = write_results(tmp_path, mapper, config=CONFIG, stopwatch=stopwatch)
    assert whole / 6 < summary["points"] <= whole / 3
    assert len(read_ply(tmp_path / "map.ply")) == summary["points"]


def test_a_mapper_that_saw_nothing_gives_valid_files(tmp_path: Path) -> None:
    config = MapperConfig()
    summary = write_results(tmp_path, Mapper(config), config=config, stopwatch=Stopwatch())
    assert summary["frames"] == summary["points"] == 0
    assert read_tum(tmp_path / "trajectory.txt") == []
    assert len(read_ply(tmp_path / "map.ply")) == 0
    assert load_map(tmp_path / "map.db").keyframes == ()
    assert "Nothing could be mapped" in (tmp_path / "report.html").read_text()
    assert len(list(tmp_path.iterdir())) == 8


def test_a_name_that_is_not_utf_8_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    """As of a folder on an old disk; it was an error once everything was mapped."""
    config = MapperConfig()
    written = write_results(tmp_path, Mapper(config), config=config, stopwatch=Stopwatch(), source="K\udcfcche")
    assert written["source"] == "K?che" and "K?che" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_all_files_tell_of_the_same_lens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bent = Camera(
        "front", 640, 480, 500.0, 2.0, 9, principal_offset=(3.25, -4.5), distortion=(0.11, -0.03, 0.0, 0.0, 0.017)
    )
    monkeypatch.setattr(Mapper, "cameras", property(lambda self: {"front": bent}))
    write_results(tmp_path, Mapper(CONFIG), config=CONFIG, stopwatch=Stopwatch())
    shown = json.loads((tmp_path / "summary.json").read_text())["cameras"]["front"]
    assert shown["principal_point"] == [322.75, 235.0] and shown["distortion"] == [0.11, -0.03, 0.0, 0.0, 0.017]
    assert read_calibrations(tmp_path / "cameras.yaml") == {"front": bent.calibration}
    assert load_map(tmp_path / "map.db").cameras == {"front": bent}
    assert "plumb_bob, 0.1100, -0.0300, 0.0000, 0.0000, 0.0170" in (tmp_path / "report.html").read_text()


def test_a_folder_that_cannot_be_made_is_named(mapped, tmp_path: Path) -> None:
    mapper, stopwatch = mapped
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/below"):
        write_results(tmp_path / "file" / "below", mapper, config=CONFIG, stopwatch=stopwatch)


def test_the_map_is_saved_where_another_file_cannot_be_written(mapped, tmp_path: Path) -> None:
    """All others can be made from it."""
    mapper, stopwatch = mapped
    (tmp_path / "map.ply").mkdir()
    (tmp_path / "preview.png").mkdir()
    with pytest.raises(OutputError, match=r"map\.ply"):
        write_results(tmp_path, mapper, config=CONFIG, stopwatch=stopwatch)
    assert len(load_map(tmp_path / "map.db").keyframes) == len(mapper.keyframes)
    assert 'id="picture"' not in (tmp_path / "report.html").read_text()


def test_where_the_map_cannot_be_saved_the_others_are(mapped, written, tmp_path: Path) -> None:
    mapper, stopwatch = mapped
    (tmp_path / "map.db").mkdir()
    with pytest.raises(OutputError, match=r"map\.db"):
        write_results(tmp_path, mapper, config=CONFIG, stopwatch=stopwatch)
    assert len(read_tum(tmp_path / "trajectory.txt")) == len(mapper.trajectory())
    missing = {"map.db", "summary.json"}
    assert set(os.listdir(tmp_path)) - {"map.db"} == set(os.listdir(written[0])) - missing
    assert (tmp_path / "map.ply").read_bytes() == (written[0] / "map.ply").read_bytes()


def test_with_fusion_the_cloud_is_what_keyframes_agree_on(mapped, written, tmp_path: Path, monkeypatch) -> None:
    mapper, _ = mapped
    config = replace(CONFIG, fusion=True, min_confidence=2.0)
    summary = write_results(tmp_path, mapper, config=config, stopwatch=Stopwatch())
    cloud, expected = read_ply(tmp_path / "map.ply"), fuse_map(mapper.keyframes, min_confidence=2.0)
    assert np.array_equal(cloud.points, expected.points) and np.array_equal(cloud.confidence, expected.confidence)
    assert 1000 < summary["points"] == len(cloud) < 0.8 * written[1]["points"] and cloud.confidence.min() > 2.0
    monkeypatch.setattr(results, "MAX_POINTS", len(cloud) // 3)
    fewer = results.cloud_of(mapper.keyframes, config)
    assert 0.1 * len(cloud) < len(fewer) <= len(cloud) // 3, "larger cubes where there are too many"


def test_without_depth_the_cloud_is_that_of_the_landmarks(tmp_path: Path) -> None:
    config = replace(CONFIG, dense=False)
    mapper = Mapper(config)
    sequence = render_sequence("orbit", 12, 240, 180, rate_hz=8.0, supersample=1)
    for stamp, image in zip(sequence.stamps_ns, sequence.images, strict=True):
        mapper.process(int(stamp), "camera", image)
    mapper.finish()
    summary = write_results(tmp_path, mapper, config=config, stopwatch=Stopwatch())
    cloud = read_ply(tmp_path / "map.ply")
    assert summary["points"] == len(cloud) > 200 and summary["pairs"] >= summary["keyframes"] - 1 >= 2
    assert mapper.cameras["camera"].support == summary["pairs"] == len(mapper.edges)
    assert np.array_equal(cloud.points, mapper.landmarks().points) and (cloud.confidence >= 2).all()
    assert not any((keyframe.depth > 0).any() for keyframe in load_map(tmp_path / "map.db").keyframes)
    assert "nothing could be mapped" not in (tmp_path / "report.html").read_text().lower()


def test_memory_is_that_of_the_process_itself() -> None:
    """Not that of the program which started it, large as that may be."""
    large = np.ones(50_000_000)  # 400 MB, written to
    measured = subprocess.run(
        [sys.executable, "-c", "from dust3r_ros.products.results import peak_memory_mb as m; print(m())"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert peak_memory_mb() > large.nbytes / 1e6 > 1.2 * float(measured) > 30
