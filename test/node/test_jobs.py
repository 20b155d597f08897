"""What a CameraInfo tells; calibration files that camera_info_manager reads."""

import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from sensor_msgs.msg import CameraInfo
from true_map import room_walk, true_keyframes

from dust3r_ros.cli import export
from dust3r_ros.config import MapperConfig, NodeConfig
from dust3r_ros.errors import ConfigError, GeometryError, InputError
from dust3r_ros.io.camera_yaml import read_calibrations
from dust3r_ros.node.conversions import camera_info_message
from dust3r_ros.node.jobs import calibration_from, export_map, save_map, write_calibration, write_products
from dust3r_ros.node.tools.verdict import FILES
from dust3r_ros.products.ply import read_ply
from dust3r_ros.scenes.sequence import render_sequence
from dust3r_ros.session.session import Session, begin
from dust3r_ros.storage.saved_map import load_map
from dust3r_ros.types import Calibration, Camera, Frame


def info(fx, fy, width=640, height=480, d=(), model=""):
    message = CameraInfo(width=width, height=height, d=list(d), distortion_model=model)
    message.k[0], message.k[4], message.k[2], message.k[5], message.k[8] = fx, fy, 320.0, 241.0, 1.0
    return message


def test_a_camera_without_k_is_uncalibrated():
    assert calibration_from(info(0.0, 0.0), "/info") == (None, "")


def test_everything_is_taken_over():
    known, remark = calibration_from(info(500.0, 510.0, d=[0.1, 0, 0.2, 0, 0], model="plumb_bob"), "/info")
    assert known == Calibration(640, 480, 500.0, 510.0, 320.0, 241.0, "plumb_bob", (0.1, 0.0, 0.2, 0.0, 0.0))
    assert remark == ""


def test_what_the_node_publishes_reads_back_the_same():
    camera = Camera("c", 641, 480, 512.5, principal_offset=(3.0, -2.0), distortion=(0.1, -0.02, 0.0, 0.0, 0.003))
    assert calibration_from(camera_info_message(camera.calibration, 7, "f"), "/info")[0] == camera.calibration


def test_region_of_interest_and_binning_make_it_that_of_the_images():
    message = info(500.0, 510.0)
    message.roi.x_offset, message.roi.y_offset, message.roi.width, message.roi.height = 100, 50, 400, 300
    message.binning_x = message.binning_y = 2
    known, _ = calibration_from(message, "/info")
    assert (known.width, known.height, known.fx, known.fy) == (200, 150, 250.0, 255.0)
    assert (known.cx, known.cy) == ((320 - 100 + 0.5) / 2 - 0.5, (241 - 50 + 0.5) / 2 - 0.5)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (info(-5.0, 5.0), "fx = -5"),
        (info(math.nan, 5.0), "fx = nan"),
        (info(math.inf, 5.0), "fx = inf"),
        (info(5.0, -1.0), "fy = -1"),
        (info(500.0, 500.0, width=0), "0x480"),
    ],
)
def test_nonsense_is_named_and_not_used(message, reason):
    known, remark = calibration_from(message, "/info")
    assert known is None
    assert reason in remark and remark.startswith("/info")


LEFT = Camera("front/left", 640, 480, 500.0, 2.0, 9, distortion=(0.1, 0.0, 0.0, 0.0, 0.0))
RIGHT = Camera("right", 320, 240, 250.0)


def session(*cameras, raw=lambda camera: camera.calibration):
    return SimpleNamespace(cameras={camera.name: camera for camera in cameras}, calibrations=SimpleNamespace(raw=raw))


def test_a_folder_gets_a_file_for_each_camera(tmp_path):
    files = write_calibration(str(tmp_path / "new"), session(LEFT, RIGHT))
    assert files == (str(tmp_path / "new" / "front_left.yaml"), str(tmp_path / "new" / "right.yaml"))
    assert read_calibrations(files[0]) == {"front/left": LEFT.calibration}


def test_one_camera_to_a_file_with_the_keys_of_camera_info_manager(tmp_path):
    known = Calibration(320, 240, 250.0, 260.0, 160.0, 120.0, "plumb_bob", (0.1, 0.2, 0.3, 0.4, 0.5))
    path = tmp_path / "right.yaml"
    assert write_calibration(str(path), session(LEFT, RIGHT, raw=lambda camera: known), "right") == (str(path),)
    written = yaml.safe_load(path.read_text())
    assert written["camera_matrix"] == {"rows": 3, "cols": 3, "data": [250.0, 0, 160.0, 0, 260.0, 120.0, 0, 0, 1.0]}
    assert written["distortion_coefficients"] == {"rows": 1, "cols": 5, "data": [0.1, 0.2, 0.3, 0.4, 0.5]}
    assert (written["image_width"], written["image_height"], written["camera_name"]) == (320, 240, "right")
    assert {"distortion_model", "rectification_matrix", "projection_matrix"} <= set(written)


@pytest.mark.parametrize(
    ("path", "cameras", "camera", "text"),
    [
        ("", [LEFT], "", "path is empty"),
        ("a", [LEFT], "rear", "camera 'rear' is not known; known are front/left"),
        ("a", [], "", "no camera has an estimate"),
        ("a.yaml", [LEFT, RIGHT], "", "is a file, but there are 2 cameras"),
        ("a", [LEFT, Camera("front_left", 1, 1, 1.0)], "", "same file"),
    ],
)
def test_what_cannot_be_written_is_said_and_nothing_is(tmp_path, path, cameras, camera, text):
    with pytest.raises(InputError, match=text):
        write_calibration(str(tmp_path / path) if path else "", session(*cameras), camera)
    assert list(tmp_path.iterdir()) == []


def test_paths_of_services_are_expanded_and_absolute(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert write_calibration("~/right.yaml", session(RIGHT)) == (str(tmp_path / "right.yaml"),)
    assert write_calibration("$HOME/new", session(RIGHT)) == (str(tmp_path / "new" / "right.yaml"),)
    assert write_calibration("other", session(RIGHT)) == (str(tmp_path / "other" / "right.yaml"),)
    with pytest.raises(ConfigError, match=r"\$NO_SUCH_FOLDER is not set"):
        write_calibration("$NO_SUCH_FOLDER/new", session(RIGHT))
    with pytest.raises(InputError, match=r"cannot be used: File name too long"):
        write_calibration("x" * 300, session(RIGHT))
    assert not (tmp_path / "~").exists()


def test_results_are_written_before_the_last_refinement_too(tmp_path):
    """Who ends the node may not wait for it."""
    config = MapperConfig(dense=False, keyframe_motion_young=0.03)
    mapping = Session(config, logging.getLogger("test"))
    sequence = render_sequence("orbit", frames=12, width=200, height=150, rate_hz=10.0, seed=1)
    for stamp_ns, image in zip(sequence.stamps_ns, sequence.images, strict=True):
        mapping.process(Frame(int(stamp_ns), "camera", image))

    def killed():
        raise KeyboardInterrupt

    mapping.finish = killed
    with pytest.raises(KeyboardInterrupt):
        write_products(mapping, str(tmp_path / "out"), config, "test")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(FILES)
    assert load_map(tmp_path / "out" / "map.db").keyframes


def test_a_map_that_is_kept_among_the_results_stays_there(tmp_path):
    """It is the session's own file, which nobody else may write."""
    config = MapperConfig(dense=False, keyframe_motion_young=0.03)
    mapping = Session(config, logging.getLogger("test"))
    begin(mapping, config, map_db=str(tmp_path / "out" / "map.db"))
    sequence = render_sequence("orbit", frames=12, width=200, height=150, rate_hz=10.0, seed=1)
    for stamp_ns, image in zip(sequence.stamps_ns, sequence.images, strict=True):
        mapping.process(Frame(int(stamp_ns), "camera", image))
    assert "results are in" in write_products(mapping, str(tmp_path / "out"), config, "test")
    mapping.close()
    kept = load_map(tmp_path / "out" / "map.db")
    assert len(kept.keyframes) == mapping.mapper.counts.keyframes
    assert {path.name for path in (tmp_path / "out").iterdir()} >= set(FILES)


def test_the_node_exports_what_the_command_does(tmp_path):
    """Landmarks with observations, too: without depth, there is nothing else."""
    config = MapperConfig(dense=False, keyframe_motion_young=0.03)
    mapping = Session(config, logging.getLogger("test"))

    def exported(name, kind):
        return export_map(mapping, str(tmp_path / name), kind, config, NodeConfig())

    with pytest.raises(GeometryError, match="no keyframe"):
        exported("early.ply", "ply")
    sequence = render_sequence("orbit", frames=12, width=200, height=150, rate_hz=10.0, seed=1)
    for stamp_ns, image in zip(sequence.stamps_ns, sequence.images, strict=True):
        mapping.process(Frame(int(stamp_ns), "camera", image))
    save_map(mapping, str(tmp_path / "map.db"))
    said = exported("node.ply", "ply"), exported("node", "colmap")
    assert export.main([f"{tmp_path}/map.db", f"--ply={tmp_path}/command.ply", f"--colmap={tmp_path}/command"]) == 0
    cloud, other = read_ply(tmp_path / "node.ply"), read_ply(tmp_path / "command.ply")
    assert len(cloud) == len(other) > 100 and all(f"{len(cloud):,} points" in words for words in said)
    assert np.allclose(cloud.points, other.points, rtol=1e-3, atol=1e-3)
    points, same = ((tmp_path / name / "sparse/0/points3D.bin").stat().st_size for name in ("node", "command"))
    assert points == same


def test_a_grid_that_nav2_would_take_wrongly_is_said_in_the_answer(tmp_path):
    mapper = SimpleNamespace(keyframes=true_keyframes(room_walk("sweep", 12))[:5])
    mapping = SimpleNamespace(mapper=mapper, metric=False)
    said = export_map(mapping, str(tmp_path / "a.yaml"), "grid", MapperConfig(), NodeConfig())
    assert "cells of 0.05 map units in" in said and ". Warning: the map has no metric scale" in said
