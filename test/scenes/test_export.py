"""Sequences come back from their files as they were."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dust3r_ros.errors import InputError, OutputError
from dust3r_ros.io.image_sources import open_source
from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.scenes.export import write_bag, write_folder
from dust3r_ros.scenes.sequence import RenderedSequence

pytest.importorskip("rosbags", reason="rosbags is not installed")

from rosbags.highlevel import AnyReader


def test_folder_holds_images_depth_poses_and_camera(orbit: RenderedSequence, tmp_path: Path) -> None:
    write_folder(orbit, tmp_path / "scene")
    frames = list(open_source(tmp_path / "scene"))
    assert [frame.stamp_ns for frame in frames] == orbit.stamps_ns.tolist()
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, orbit.images, strict=True))
    depth = cv2.imread(str(tmp_path / "scene/depth/000005.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16 and np.abs(depth / 1000 - orbit.depths[5]).max() < 0.00051
    truth = read_tum(tmp_path / "scene/groundtruth.txt")
    assert np.allclose([item.w_T_c for item in truth], orbit.w_T_c, atol=1e-7)
    assert [item.stamp_ns for item in truth] == orbit.stamps_ns.tolist()
    camera = json.loads((tmp_path / "scene/intrinsics.json").read_text())
    assert (camera["fx"], camera["cx"], camera["width"]) == (orbit.focal, 79.5, 160)
    assert len((tmp_path / "scene/depth.txt").read_text().splitlines()) == 9


def test_what_exists_is_not_overwritten(orbit: RenderedSequence, tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene/precious").write_text("x")
    for write in (write_folder, write_bag):
        with pytest.raises(OutputError, match="exists already"):
            write(orbit, tmp_path / "scene")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["precious", "scene"]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "ros1"])
@pytest.mark.parametrize("options", [{}, {"encoding": "rgb8"}, {"compressed": "png"}], ids=str)
def test_bags_give_the_same_images_and_stamps(
    orbit: RenderedSequence, tmp_path: Path, storage: str, options: dict[str, str]
) -> None:
    path = tmp_path / ("walk.bag" if storage == "ros1" else "walk")
    write_bag(orbit, path, storage=storage, **options)  # type: ignore[arg-type]
    source = open_source(path)
    frames = list(source)
    assert len(source) == len(frames) == len(orbit) and source.skipped == 0
    assert [frame.stamp_ns for frame in frames] == orbit.stamps_ns.tolist()
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, orbit.images, strict=True))
    assert {frame.camera for frame in frames} == {"camera"}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_jpeg_bags_are_near(orbit: RenderedSequence, tmp_path: Path) -> None:
    write_bag(orbit, tmp_path / "walk", compressed=True)
    frames = list(open_source(tmp_path / "walk", "/camera/image_raw/compressed"))
    error = np.abs(frames[3].image.astype(int) - orbit.images[3]).mean()
    assert 0 < error < 6


def test_messages_are_those_of_an_uncalibrated_camera(orbit: RenderedSequence, tmp_path: Path) -> None:
    write_bag(orbit, tmp_path / "walk", topic="/front/left/image_raw")
    with AnyReader([tmp_path / "walk"]) as reader:
        kinds = {c.topic: c.msgtype for c in reader.connections}
        messages = [(c.topic, ns, reader.deserialize(raw, c.msgtype)) for c, ns, raw in reader.messages()]
    assert kinds == {
        "/front/left/image_raw": "sensor_msgs/msg/Image",
        "/front/left/camera_info": "sensor_msgs/msg/CameraInfo",
    }
    assert len(messages) == 2 * len(orbit)
    for topic, _, message in messages:
        assert message.header.frame_id == "front_left_optical_frame"
        assert (message.width, message.height) == (160, 120)
        if topic.endswith("camera_info"):
            assert not message.k.any() and len(message.d) == 0
        else:
            assert message.encoding == "bgr8" and message.step == 480


def test_several_cameras_in_one_bag(orbit: RenderedSequence, tmp_path: Path) -> None:
    write_bag({"/left/image_raw": orbit, "/right/image_raw": orbit}, tmp_path / "rig", camera_info=False)
    for side in ("left", "right"):
        frames = list(open_source(tmp_path / "rig", f"/{side}/image_raw"))
        assert len(frames) == len(orbit) and frames[0].camera == side
    with pytest.raises(InputError, match="/left/image_raw, /right/image_raw"):
        open_source(tmp_path / "rig")


@pytest.mark.parametrize("options", [{"storage": "tape"}, {"encoding": "yuv"}, {"compressed": "gif"}], ids=str)
def test_unknown_options_are_refused(orbit: RenderedSequence, tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(InputError, match="known are"):
        write_bag(orbit, tmp_path / "walk", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
