"""Share, latency and gaps of poses, and what the demo says of them."""

import json

import numpy as np
import pytest

from dust3r_ros.geometry.rigid import pose
from dust3r_ros.io.trajectory import write_tum
from dust3r_ros.node.conversions import pose_matrix, pose_message
from dust3r_ros.node.tools import verdict
from dust3r_ros.node.tools.verdict import Got, Sent, timing
from dust3r_ros.types import StampedPose

MS = 1_000_000
SENT = [Sent(("/c", k * 50 * MS), k * 50 * MS, 7 + k * 50 * MS) for k in range(40)]


def place(k):
    return pose(np.eye(3), [0.02 * k, 0.1 * np.sin(0.3 * k), 0.001 * k * k])


def got(images, late_ms=15, noise=0.0):
    rng = np.random.default_rng(1)
    return [
        Got(item.key, item.at + late_ms * MS, place(item.recorded / (50 * MS)) + noise * _shift(rng)) for item in images
    ]


def _shift(rng):
    shift = np.zeros((4, 4))
    shift[:3, 3] = rng.standard_normal(3)
    return shift


def test_every_image_has_a_pose_in_time():
    found = timing(SENT, got(SENT), SENT[0].at)
    assert (found.share, found.gap, found.first) == pytest.approx((1.0, 0.05, 0.015))
    assert (found.p50_ms, found.p95_ms, found.max_ms) == pytest.approx((15, 15, 15))


def test_images_before_the_first_pose_do_not_count_those_after_the_last_do():
    found = timing(SENT, got(SENT[10:30]), SENT[0].at)
    assert found.share == pytest.approx(20 / 30)
    assert found.gap == pytest.approx(10 * 0.05 - 0.015)


def test_without_a_pose_there_is_no_timing():
    assert timing(SENT, [], 0) is None
    assert timing(SENT, [Got(("/other", 0), 1, np.eye(4))], 0) is None


def write(out, noise):
    stamps = [item.recorded for item in SENT]
    write_tum(out / "truth.txt", [StampedPose(s, "camera", place(k)) for k, s in enumerate(stamps)])
    final = [StampedPose(item.key[1], "camera", item.w_T_c) for item in got(SENT, noise=noise)]
    write_tum(out / "trajectory.txt", final)


def test_the_demo_judges_poses_as_they_came(tmp_path, monkeypatch, capsys):
    write(tmp_path, 0.002)
    score = verdict.judge_live(SENT, got(SENT, noise=0.004), tmp_path)
    assert score.causal == pytest.approx(2.0, rel=0.1) and score.wrong == []
    assert json.loads(json.dumps(score.as_mapping()))["share"] == 1.0
    verdict.report_live(score)
    said = capsys.readouterr().out
    assert "100.0 % of the images since the first pose (target 99 %: met)" in said and "(target 1.5: missed)" in said
    for bound in ("MOST_P95_MS", "MOST_CAUSAL"):
        monkeypatch.setattr(verdict, bound, 1.0)
    assert len(score.wrong) == 2
    few = verdict.judge_live(SENT, got(SENT[::3]), tmp_path)
    assert few.wrong[0].startswith("only 35 % of the images")
    assert verdict.judge_live(SENT, got(SENT[:2]), tmp_path) is None


def test_a_pose_there_and_back():
    w_T_c = pose(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]), [1.0, 2.0, 3.0])
    np.testing.assert_allclose(pose_matrix(pose_message(w_T_c)), w_T_c, atol=1e-12)
