"""benchmarks/live_drives.py: its robots drive straight on and turn on the spot, in free space."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dust3r_ros.geometry.rigid import angle_deg
from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/live_drives.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script(SCRIPT, "live_drives_benchmark")


def test_a_robot_turns_on_the_spot_four_times(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_WIDTH", 64)
    monkeypatch.setattr(bench, "_HEIGHT", 48)
    recorded, about = bench.prepared(3, tmp_path)
    assert recorded.images == len(recorded.truth) > 150 and about["motion"] == "driving"
    poses = np.stack([recorded.truth[stamp].w_T_c for stamp in sorted(recorded.truth)])
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    turns = np.array([angle_deg(a[:3, :3].T @ b[:3, :3]) for a, b in pairwise(poses)])
    fast = turns > 2.0
    assert np.count_nonzero(np.diff(fast.astype(int)) == 1) == 4 and turns.max() < 5.0, "50 degrees per second"
    assert steps[fast].mean() < steps[~fast].mean() and np.all(turns[fast].sum() > 4 * 45.0)
    assert np.all(poses[:, 2, 1] < -0.99), "the camera is level"
