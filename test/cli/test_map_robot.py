"""A robot's bag through dust3r-map: two cameras nobody calibrated and odometry become one map in metres."""

from __future__ import annotations

import json
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from fake_robot import BASE_T_LEFT, CAMERAS, IMAGE_TOPICS, mount_of, true_poses
from rigs import stereo_rig
from robot_bag import MS, Robot

from dust3r_ros.cli.map import main
from dust3r_ros.evaluation.errors import trajectory_errors
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.io.trajectory import read_tum
from dust3r_ros.types import StampedPose

pytestmark = pytest.mark.long
OPTIONS = ["--topic", IMAGE_TOPICS[0], "--topic", IMAGE_TOPICS[1], "--odometry", "odom", "--quiet"]
SAME = ("trajectory.txt", "keyframes.txt", "map.ply", "cameras.yaml")


class Drive(Robot):
    """Images of both cameras as they were rendered; odometry on /tf at the stamps of the images and 30 ms late."""

    def messages(self):
        tf = "tf2_msgs/msg/TFMessage"
        truth = true_poses()
        start = min(stamp for stamp, _ in truth)
        mounts = [self.transform("base", f"{name}_optical", mount_of(name), start) for name in CAMERAS]
        yield start, "/tf_static", self.make(tf, transforms=mounts)
        shift = min(int(stamp) for stamp in stereo_rig(60).seen["left"].stamps_ns)
        for name, topic in zip(CAMERAS, IMAGE_TOPICS, strict=True):
            sequence = stereo_rig(60).seen[name]
            for at, image in zip(sequence.stamps_ns, sequence.images, strict=True):
                stamp = int(at) - shift + min(s for s, n in truth if n == "left")
                yield stamp + MS, topic, self.picture(image, "rgb8", stamp, f"{name}_optical")
                base = truth[stamp, name] @ invert(mount_of(name))
                yield stamp + 30 * MS, "/tf", self.make(tf, transforms=[self.transform("odom", "base", base, stamp)])


def run(*arguments: object) -> str:
    with redirect_stderr(StringIO()) as errors:
        assert main([*map(str, arguments)]) == 0, errors.getvalue()
    return errors.getvalue()


def test_two_cameras_and_odometry_give_one_map_in_metres_and_so_does_the_manifest(tmp_path: Path) -> None:
    bag, out = Drive().record(tmp_path / "run"), tmp_path / "out"
    assert run(bag, "--out", out, *OPTIONS, "--record", tmp_path / "run.jsonl") == ""
    summary = json.loads((out / "summary.json").read_text())
    assert sorted(summary["cameras"]) == ["left", "right"] and summary["frames"] == 60
    assert summary["scale"]["metres_per_unit"] == 1.0 and 0 < summary["scale"]["relative_std"] < 0.02
    found = read_tum(out / "trajectory.txt")
    truth = [StampedPose(stamp, name, o_T_c) for (stamp, name), o_T_c in sorted(true_poses().items())]
    errors = trajectory_errors(truth, found, scale=False)
    # The right camera joins once the focal of the left one is sure, and its frames of before have no pose.
    assert len(found) > 35 and errors.ate_percent < 1.0
    scale = trajectory_errors(truth, found).scale
    assert scale == pytest.approx(1.0, abs=0.01)
    assert np.allclose(BASE_T_LEFT, mount_of("left"))
    run(bag, "--out", tmp_path / "again", "--manifest", tmp_path / "run.jsonl", "--quiet")
    for name in SAME:
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name
