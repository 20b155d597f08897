"""Options that choose what is mapped: from words to the frames of a recording."""

from __future__ import annotations

import argparse
from dataclasses import replace
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from robot_bag import CAMERAS, Robot

from dust3r_ros.cli import inputs
from dust3r_ros.cli.command import Parser
from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.io.bags.topics import BagTopics
from dust3r_ros.io.camera_yaml import write_cameras
from dust3r_ros.io.manifest import ManifestWriter
from dust3r_ros.types import Camera, Frame, StampedPose

STEREO = ["--topic", "/left/image_raw", "--topic", "/right/image_raw"]


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Robot().record(tmp_path_factory.mktemp("robot") / "run")


def parsed(*words: object) -> argparse.Namespace:
    parser = Parser(prog="dust3r-map")
    inputs.add_inputs(parser)
    return parser.parse_args([str(word) for word in words])


def mapped(*words: object) -> list[Frame]:
    arguments = parsed(*words)
    plan = inputs.read_plan(arguments)
    source = inputs.open_inputs(arguments, plan)
    return [item for item in inputs.frames(source, plan, arguments) if isinstance(item, Frame)]


def test_every_option_reaches_its_companion(bag: Path) -> None:
    frames = mapped(
        bag, *STEREO, "--camera", "l", "--camera", "r", "--odometry", "odom", "--imu-topic", "/imu",
        "--mask-topic", "l=/left/mask", "--mask-topic", "r=/right/mask", "--depth-topic", "l=/depth/image_rect_raw",
    )  # fmt: skip
    assert [frame.camera for frame in frames] == ["l", "r"] * 6
    for frame in frames:
        assert frame.o_T_c is not None and frame.up is not None and frame.mask is not None
        assert (frame.depth is not None) == (frame.camera == "l")
    by_messages = mapped(bag, "--topic", "/left/image_raw", "--odom-topic", "/odom")
    for one, other in zip(frames[::2], by_messages, strict=True):
        np.testing.assert_allclose(one.o_T_c, other.o_T_c, atol=1e-12)


def test_the_only_camera_needs_no_name(bag: Path) -> None:
    (frame,) = mapped(bag, "--topic", "/left/image_raw", "--mask-topic", "/left/mask", "--max-frames", 1)
    assert frame.mask is not None
    with pytest.raises(InputError, match=r"'/left/mask' is given without a camera; it must be one of left, right"):
        mapped(bag, *STEREO, "--mask-topic", "/left/mask")


def test_a_calibration_file_has_those_that_a_folder_names_after_its_camera(tmp_path: Path) -> None:
    """As this command writes it for photographs of several sizes or lenses."""
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/1.png"), np.zeros((48, 64, 3), np.uint8))
    names = ["camera", "camera_32x24", "camera_13mm_32x24", "wide"]
    write_cameras(tmp_path / "cameras.yaml", [Camera(name, 64, 48, 60.0) for name in names])
    arguments = parsed(tmp_path / "images", "--camera-info", tmp_path / "cameras.yaml")
    assert list(inputs.calibrations(arguments, inputs.open_inputs(arguments, None))) == names[:3]
    arguments.camera = ["camera_32x24"]
    assert list(inputs.calibrations(arguments, inputs.open_inputs(arguments, None))) == names[1:2]


def test_every_takes_of_each_camera_alike(bag: Path) -> None:
    robot = Robot()
    frames = mapped(bag, *STEREO, "--every", 2)
    wanted = sorted((robot.stamp(camera, index), camera) for camera in CAMERAS for index in (0, 2, 4))
    assert [(frame.stamp_ns, frame.camera) for frame in frames] == wanted
    assert len(mapped(bag, *STEREO, "--every", 2, "--max-frames", 3)) == 3


def test_a_manifest_brings_its_topics_and_says_what_is_mapped(bag: Path, tmp_path: Path) -> None:
    masks = ["--mask-topic", "left=/left/mask"]
    used = mapped(bag, *STEREO, *masks, "--odometry", "odom")[1::3]
    writer = ManifestWriter(tmp_path / "run.jsonl")
    topics = BagTopics(("/left/image_raw", "/right/image_raw"), CAMERAS, masks={"left": "/left/mask"})
    writer.header(MapperConfig(), topics.by_camera)
    for frame in used:
        writer.frame(frame)
    writer.close()
    again = mapped(bag, "--manifest", tmp_path / "run.jsonl")
    assert [(frame.stamp_ns, frame.camera) for frame in again] == [(frame.stamp_ns, frame.camera) for frame in used]
    assert all(np.array_equal(one.o_T_c, other.o_T_c) for one, other in zip(again, used, strict=True))  # type: ignore[arg-type]
    assert len(mapped(bag, *STEREO, *masks, "--manifest", tmp_path / "run.jsonl")) == len(used)
    lines = (tmp_path / "run.jsonl").read_text().replace("/left/mask", "/mask/of/a/live/run")
    (tmp_path / "live.jsonl").write_text(lines)
    rest = mapped(bag, "--manifest", tmp_path / "live.jsonl")
    assert [frame.camera for frame in rest] == ["right"] * 2  # those that need no mask


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--manifest", "gone.jsonl"], "gone.jsonl"),
        (["--manifest", "x", "--every", "2"], "--every cannot be used with --manifest"),
        (["--odometry", "odom", "--odom-topic", "/odom"], "only one is allowed"),
        ([*STEREO, "--mask-topic", "left=/a", "--mask-topic", "left=/b"], "twice for camera 'left'"),
        ([*STEREO, "--mask-topic", "/a", "--mask-topic", "left=/b"], "'/a' is not CAMERA=TOPIC"),
        ([*STEREO, "--depth-topic", "left="], "'left=' is not CAMERA=TOPIC"),
        ([*STEREO, "--depth-topic", "=/a"], "'=/a' is not CAMERA=TOPIC"),
        ([*STEREO, "--camera", "one"], "1 camera names"),
        ([*STEREO, "--imu-topic", "/odom"], "nav_msgs/msg/Odometry"),
    ],
)
def test_wrong_options_are_answered(bag: Path, words: list[str], reason: str) -> None:
    with pytest.raises((InputError, ConfigError), match=reason):
        mapped(bag, *words)


@pytest.mark.parametrize("words", [["--imu-topic", "/imu"], ["--odometry", "odom"], ["--mask-topic", "/mask"]])
def test_only_bags_have_topics(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match=f"'{words[1]}' was given, but .* is not a bag"):
        mapped(tmp_path, *words)
    with pytest.raises(InputError, match="2 camera names"):
        mapped(tmp_path, "--camera", "a", "--camera", "b")


def test_what_is_open_about_cameras_and_maps_is_said() -> None:
    """Of a camera that is far from calibrated, near and far may change places."""
    found = {name: Camera(name, 640, 480, 500.0, std, 3, False) for name, std in (("a", 60.0), ("b", 10.0), ("c", inf))}
    given = Camera("b", 640, 480, 500.0, 0.0, 3, True, given=500.0, given_std=10.0, measured=520.0, measured_std=4.0)
    found["b"] = given  # images need not agree to a pixel
    paths = {name: [StampedPose(0, name, np.eye(4))] for name in "ab"}
    mapper = SimpleNamespace(
        cameras=found,
        path=lambda name, most: paths.get(name, []),
        counts=SimpleNamespace(maps=2),
        doubts=("it may be bent",),
    )
    session: Any = SimpleNamespace(
        mapper=mapper,
        keeper=SimpleNamespace(problems=()),
        world=SimpleNamespace(depth_in_vain=True),
        estimate=SimpleNamespace(contradictions=("2 m or 3 m",)),
        unused={"a": "it is for 4x3: the focal length is estimated"},
    )
    nothing: Any = SimpleNamespace(
        skipped=0, refused=0, incomplete=0, undone=0, reason="", lacking="", why_skipped="", remarks=("3 depth images",)
    )
    said = inputs.shortfalls(nothing, (), nothing, session)
    expected = (
        "2 maps could not be joined",
        "measured depth gives no scale",
        "3 depth",
        "it is for 4x3",
        "'a' is uncertain (+-12 %)",
        "'c' has no pose",
        "2 m or 3 m",
        "bent",
    )
    assert len(said) == len(expected) and all(part in words for part, words in zip(expected, said, strict=True)), said
    found["b"] = replace(given, measured=321.0)
    assert [words for words in inputs.shortfalls(nothing, (), nothing, session) if "'b'" in words] == [
        "the images of camera 'b' give a focal length of 321 +- 4 px, but 500 px were given: if they are wrong, so is "
        "the map"
    ]
    found["b"] = given
    del paths["b"]
    assert [words for words in inputs.shortfalls(nothing, (), nothing, session) if "no pose" in words] == [
        "cameras 'b', 'c' have no pose: none of their images shows enough of what the map knows"
    ]
    found |= {f"c{number}": replace(given, name=f"c{number}") for number in range(7)}
    (words,) = [words for words in inputs.shortfalls(nothing, (), nothing, session) if "no pose" in words]
    assert words.startswith("cameras 'b', 'c', 'c0', 'c1', 'c2', 'c3' and 3 more have no pose")
    paths.clear()
    assert not any("another camera's" in words for words in inputs.shortfalls(nothing, (), nothing, session))
    found["a_640x427"] = given
    assert any("here 11 cameras" in words for words in inputs.shortfalls(nothing, (), nothing, session)), "of a folder"
