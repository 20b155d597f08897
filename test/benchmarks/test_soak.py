"""The long day in two rooms: what is played, how it is judged, and a few seconds of it through the real node."""

from __future__ import annotations

import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest

from dust3r_ros.types import StampedPose
from scripts import script

ROOT = Path(__file__).resolve().parents[2]
FRAMES = {"loop": 30, "walk": 12}


@pytest.fixture(scope="module")
def soak():
    return script(ROOT / "benchmarks/soak.py", "soak_benchmark")


def test_a_round_comes_back_to_where_it_began(soak):
    shots = [(name, shot) for _, name, shot in takewhile(lambda item: item[0] == 0, soak.script(FRAMES, 10.0))]
    walked = [shot.index for name, shot in shots if name in ("walk", "dim light")]
    assert walked[0] == walked[-1] == 0 and max(abs(np.diff(walked))) == 1, "no jumps in a room"
    assert {shot.room for name, shot in shots if name == "other room"} == {"walk"}
    dim = [shot.light for name, shot in shots if name == "dim light"]
    assert dim[0] == dim[-1] == pytest.approx(1.0) and min(dim) < 0.45
    assert sum(shot.index is None for _, shot in shots) == 40, "4 s without a cable"
    assert all(shot.light == 0 for name, shot in shots if name in ("covered", "carried"))


def test_figures_are_of_images_in_sight(soak):
    """Images from under a hand have no pose, and need none."""
    pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")
    truth = {k: StampedPose(k, "camera", pose(0.1 * k, 0.02 * k * k)) for k in range(40)}
    lines, poses = [], []
    for number in range(2):
        for k in range(40):
            stamp, covered = 1000 * number + k, k < 5
            lines.append(
                {"stamp": stamp, "published": 10**9 * stamp, "recorded": k, "round": number, "room": "loop"}
                | {"scene": "covered" if covered else "walk"}
            )
            if not covered and (number, k) != (1, 20):
                late = 5_000_000 * (1 + number)
                poses.append(("", stamp, 10**9 * stamp + late, truth[k].w_T_c))
    run = soak.LiveRun([], soak.Heard(poses), 1.0)
    samples = [
        {"mib": 100.0 + (k > 15), "handles": 10, "threads": 5 + (k == 19), "keyframes": 7, "maps": 1, "map_mib": 2.0}
        for k in range(20)
    ]
    found = soak.figures(lines, run, samples, {"loop": truth, "walk": {}})
    assert (found["p95_first"], found["p95_last"], found["longest_ms"]) == (5.0, 10.0, 10.0)
    assert found["growth"] == pytest.approx(1.0) and found["memory_mib"] == 101
    assert found["rounds"][1]["images"] == 35 and found["rounds"][1]["with_pose"] == 34
    assert found["rounds"][0]["ate"] == {"loop": pytest.approx(0.0, abs=1e-9), "walk": None}
    met = {row["name"]: row["met"] for row in soak.targets(found, samples, 80, 100)}
    assert (
        not met["images"] and met["memory of both processes"] and not met["latency p95 of the last tenth / the first's"]
    )
    assert met["handles more at the end than in the second quarter"]
    assert not met["threads more at the end than in the second quarter"]


def pose(x: float, y: float) -> np.ndarray:
    w_T_c = np.eye(4)
    w_T_c[:2, 3] = x, y
    return w_T_c


@pytest.mark.long
def test_some_seconds_of_a_day(tmp_path: Path):
    command = [
        sys.executable,
        str(ROOT / "benchmarks/soak.py"),
        "--images",
        "600",
        "--frames",
        "60",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert "| images | 600 | 600 |" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "soak.png").stat().st_size > 1000 and (tmp_path / "soak.json").is_file()
