"""Bags through dust3r-map: what was used can be used again, and gives the same map to the byte."""

from __future__ import annotations

import json
import logging
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from robot_bag import MS, START, Robot
from sequences import cut
from sequences import walk as walk_of

from dust3r_ros.cli.map import main
from dust3r_ros.config import MapperConfig
from dust3r_ros.geometry.rigid import invert, pose
from dust3r_ros.io.bags.topics import BagTopics
from dust3r_ros.io.image_sources import open_source
from dust3r_ros.io.manifest import Event, FrameEntry, ManifestWriter, read_manifest
from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.products.results import write_results
from dust3r_ros.scenes.sequence import RenderedSequence
from dust3r_ros.session.session import Session

FAST = ["--set", "working_size=160", "--set", "tracking_size=240", "--set", "keyframe_motion_young=0.03"]
KNOWN = [*FAST, "--focal", "199.2"]
CONFIG = MapperConfig(working_size=160, tracking_size=240, keyframe_motion_young=0.03, focal=199.2)
SAME = ("trajectory.txt", "keyframes.txt", "map.ply", "cameras.yaml")
BASE_T_CAMERA = pose(np.eye(3), [0.1, 0.0, 0.4])
TOPIC = "/camera/image_raw"


class Walk(Robot):
    """A rendered walk as a robot records it: images, odometry on /tf, a mask for every other image."""

    def __init__(self, sequence: RenderedSequence) -> None:
        super().__init__()
        self.sequence = sequence

    def messages(self):
        tf = "tf2_msgs/msg/TFMessage"
        static = self.transform("base", "camera_optical", BASE_T_CAMERA, START)
        yield START, "/tf_static", self.make(tf, transforms=[static])
        for index, (image, w_T_c) in enumerate(zip(self.sequence.images, self.sequence.w_T_c, strict=True)):
            stamp = START + (index + 1) * 125 * MS
            yield stamp + MS, TOPIC, self.picture(image, "rgb8", stamp, "camera_optical")
            moved = self.transform("odom", "base", w_T_c @ invert(BASE_T_CAMERA), stamp)
            yield stamp + 40 * MS, "/tf", self.make(tf, transforms=[moved])
            if index % 2:
                mask = np.zeros(image.shape[:2], np.uint8)
                mask[:20, :30] = 1
                yield stamp + 60 * MS, "/camera/mask", self.picture(mask, "mono8", stamp, "camera_optical")


@pytest.fixture(scope="module")
def sequence() -> RenderedSequence:
    return cut(walk_of("orbit"), 14)


@pytest.fixture(scope="module")
def bag(sequence: RenderedSequence, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Walk(sequence).record(tmp_path_factory.mktemp("walk") / "run")


class Done(NamedTuple):
    returncode: int
    stderr: str


def run(*arguments: object) -> Done:
    """The command in this process."""
    with redirect_stderr(StringIO()) as errors:
        code = main([*map(str, arguments), "--quiet"])
    return Done(code, errors.getvalue())


@pytest.fixture(scope="module")
def mapped(bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of the bag with all it tells, and its manifest."""
    out = tmp_path_factory.mktemp("mapped") / "out"
    done = run(
        bag, "--out", out, "--topic", TOPIC, "--odometry", "odom", "--mask-topic", "/camera/mask",
        "--record", out.parent / "run.jsonl", *KNOWN,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "7 frames lacked data that the bag should provide" in done.stderr and "no mask" in done.stderr
    return out


def test_the_manifest_holds_what_was_mapped(mapped: Path, sequence: RenderedSequence) -> None:
    manifest = read_manifest(mapped.parent / "run.jsonl")
    assert manifest.config == CONFIG
    assert manifest.topics == {"camera": {"image": TOPIC, "mask": "/camera/mask"}}
    frames = [entry for entry in manifest.entries() if isinstance(entry, FrameEntry)]
    assert len(frames) == 14 and [frame.mask != 0 for frame in frames] == [False, True] * 7
    for frame, w_T_c in zip(frames, sequence.w_T_c, strict=True):
        np.testing.assert_allclose(frame.o_T_c, w_T_c, atol=1e-9)


def test_a_manifest_gives_the_same_map_and_the_same_manifest(bag: Path, mapped: Path, tmp_path: Path) -> None:
    done = run(
        bag, "--out", tmp_path / "out", "--manifest", mapped.parent / "run.jsonl", "--record", tmp_path / "again.jsonl"
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in SAME:
        assert (tmp_path / "out" / name).read_bytes() == (mapped / name).read_bytes(), name
    assert (tmp_path / "again.jsonl").read_bytes() == (mapped.parent / "run.jsonl").read_bytes()


def test_a_run_with_drops_a_reset_and_a_loop_is_done_again(bag: Path, tmp_path: Path) -> None:
    """As the node does it: some frames are dropped, somebody resets, then the bag begins again."""
    config = CONFIG
    source = open_source(bag, topics=BagTopics((TOPIC,), odom_frame="odom"))
    session = Session(config, logging.getLogger("test"))
    writer = ManifestWriter(tmp_path / "live.jsonl")
    writer.header(config, source.recorded)
    session.keeper.keep_record(writer)
    played = list(source)
    for index, frame in enumerate(played[:6]):
        session.process(frame)
        if index == 3:
            session.reset()
    for frame in [*played[2:5], *played[6:]]:  # stamps jump back by 0.5 s
        session.process(frame)
    session.finish()
    session.close()
    live = tmp_path / "live"
    write_results(live, session.mapper, config=config, stopwatch=session.stopwatch)
    done = run(bag, "--out", tmp_path / "out", "--manifest", tmp_path / "live.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("trajectory.txt", "keyframes.txt", "map.ply"):
        assert (tmp_path / "out" / name).read_bytes() == (live / name).read_bytes(), name
    resets = [entry for entry in read_manifest(tmp_path / "live.jsonl").entries() if isinstance(entry, Event)]
    assert [event.kind for event in resets] == ["reset", "reset"]
    assert len(read_tum(live / "trajectory.txt")) == 11


def test_what_the_bag_lacks_of_a_manifest_is_said(bag: Path, mapped: Path, tmp_path: Path) -> None:
    lines = (mapped.parent / "run.jsonl").read_text().splitlines()
    first = json.loads(lines[1])
    first["stamp"] += 1
    (tmp_path / "other.jsonl").write_text("\n".join([lines[0], json.dumps(first), *lines[2:]]))
    done = run(bag, "--out", tmp_path / "out", "--manifest", tmp_path / "other.jsonl", "--max-frames", 8)
    assert done.returncode == 0
    assert "1 frame of the manifest could not be found, so the map differs" in done.stderr
    assert json.loads((tmp_path / "out/summary.json").read_text())["frames"] == 8
    done = run(bag, "--out", tmp_path / "none", "--manifest", tmp_path / "other.jsonl", "--topic", "/camera/mask")
    assert done.returncode == 2 and "can be used" in done.stderr and "of camera 'camera'" in done.stderr


def test_a_map_is_gone_on_with_or_only_found_in(bag: Path, mapped: Path, tmp_path: Path) -> None:
    database = (mapped / "map.db").read_bytes()
    done = run(
        bag, "--out", tmp_path / "found", "--topic", TOPIC, "--load", mapped / "map.db", "--localize-only",
        "--max-frames", 5, *KNOWN,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after = (json.loads((path / "summary.json").read_text()) for path in (mapped, tmp_path / "found"))
    assert after["keyframes"] == before["keyframes"]
    poses, found = (read_tum(path / "keyframes.txt") for path in (mapped, tmp_path / "found"))
    for one, other in zip(poses, found, strict=True):
        np.testing.assert_allclose(one.w_T_c, other.w_T_c, atol=1e-9)
    record = tmp_path / "run.jsonl"
    done = run(
        bag, "--out", tmp_path / "more", "--topic", TOPIC, "--load", mapped / "map.db", "--record", record,
        "--max-frames", 5, *KNOWN,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "more/summary.json").read_text())["keyframes"] >= before["keyframes"]
    assert json.loads((tmp_path / "more/summary.json").read_text())["frames"] == 5, "not those of the loaded map"
    assert len(read_tum(tmp_path / "more/trajectory.txt")) <= 5
    assert (mapped / "map.db").read_bytes() == database
    assert run(bag, "--out", tmp_path / "again", "--manifest", record) == Done(0, "")  # begins with the map as well
    for name in SAME[:3]:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "more" / name).read_bytes(), name
    done = run(bag, "--out", tmp_path / "out", "--manifest", record, "--record", record)
    assert done.returncode == 2 and "the same file as --manifest" in done.stderr and record.stat().st_size > 0
    done = run(bag, "--out", tmp_path / "out", "--localize-only")
    assert done.returncode == 2 and "--load" in done.stderr


@pytest.mark.parametrize(("focal", "used"), [(151.5, True), (1e6, False)], ids=["a calibration", "nonsense"])
def test_the_calibration_in_the_bag_is_used_if_it_can_be(
    sequence: RenderedSequence, tmp_path: Path, focal: float, used: bool
) -> None:
    class Calibrated(Walk):
        def messages(self):
            for at, topic, message in super().messages():
                yield at, topic, message
                if topic == TOPIC:
                    info = self.info(at, "camera_optical", focal, ())
                    info.width, info.height, info.k[2], info.k[5] = 240, 176, 119.5, 87.5
                    yield at, "/camera/camera_info", info

    path = Calibrated(sequence).record(tmp_path / "bag")
    record = tmp_path / "run.jsonl"
    run(path, "--out", tmp_path / "out", "--topic", TOPIC, "--max-frames", 2, "--record", record, *FAST)
    camera = json.loads((tmp_path / "out/summary.json").read_text())["cameras"]["camera"]
    assert camera["fixed"] == used and (camera["focal"] == 151.5) == used
    events = [entry.kind for entry in read_manifest(record).entries() if isinstance(entry, Event)]
    assert events == ["calibration"] * used
    if not used:
        done = run(path, "--out", tmp_path / "out", "--topic", TOPIC, "--max-frames", 2)
        assert "calibration of camera 'camera' is not used" in done.stderr and "100 times" in done.stderr
