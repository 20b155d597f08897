"""benchmarks/paced_drives.py: a map made while images go on, the same on any machine."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sequences import SMALL, walk

from dust3r_ros.types import StampedPose
from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/paced_drives.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script(SCRIPT, "paced_drives_benchmark")


def test_what_a_keyframe_takes_delays_what_is_known_and_nothing_else(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    orbit = walk("orbit")
    stamps = orbit.stamps_ns.tolist()
    truth = {at: StampedPose(at, "camera", w_T_c) for at, w_T_c in zip(stamps, orbit.w_T_c, strict=True)}
    monkeypatch.setattr(bench, "MapperConfig", lambda dense: SMALL)
    monkeypatch.setattr(bench, "open_source", lambda bag: [bench.Frame(0, "camera", image) for image in orbit.images])
    recorded = bench.Recorded(Path(), ("/camera",), truth, len(truth))
    runs = [bench.paced(recorded, takes) for takes in (1, 1, 4)]
    poses = [np.stack([pose.w_T_c for pose in found]).tobytes() for found, _ in runs]
    assert poses[0] == poses[1] != poses[2]
    first = [found[0].stamp_ns for found, _ in runs]
    assert first[0] < first[2], "snapshots come later"
    for found, final in runs:
        for some in (found, final):
            assert len(some) > 0.4 * len(truth)
            assert bench.error_of(list(truth.values()), sorted(some, key=lambda pose: pose.stamp_ns)) < 0.1


def test_the_table_has_both_errors_for_each_pace(bench: ModuleType) -> None:
    values = {takes: 0.01 * takes for takes in bench._TAKES}
    rows = [bench.Row("0 room", 30, dict.fromkeys(values, 99.0), values, dict.fromkeys(values, 0.002))]
    text = bench.table(rows, {"processor": "a processor", "cores": 2})
    assert "| 0 room | 30 | 1.00% / 0.20% | 3.00% / 0.20% | 5.00% / 0.20% | 8.00% / 0.20% |" in text
    assert "99.0 %, 99.0 %" in text
