"""benchmarks/live_walks.py: its recordings are those walks; its table says what came of each, and of all."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/live_walks.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script(SCRIPT, "live_walks_benchmark")


def test_a_walk_is_as_fast_at_the_rate_of_a_video_and_long_enough(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = sys.modules["walks"]
    monkeypatch.setattr(walks, "_SIZES", [(64, 48)])
    recorded, about = bench.prepared(0, tmp_path)
    assert recorded.images == len(recorded.truth) >= 75, "5 s"
    assert about["camera"] == "pinhole" and about["images"] == recorded.images
    again, _ = bench.prepared(0, tmp_path)
    assert again.truth.keys() == recorded.truth.keys(), "it is rendered once"
    seconds = np.diff(sorted(recorded.truth)) * 1e-9
    np.testing.assert_allclose(seconds, 1 / 15, atol=1e-6)


def test_the_table_has_a_line_for_each_and_their_medians(bench: ModuleType) -> None:
    good = bench.Row("0 room", "around", "pinhole", 90, 2.5, 100.0, 0.002, 0.001, -0.003, 0.004)
    lost = replace(good, name="1 corridor", first=np.nan, share=np.nan, published=np.nan, final=np.nan)
    bent = replace(good, name="2 street", published=0.5, final=0.02, focal=0.1)
    table = bench.table([good, lost, bent], {"cores": 2, "processor": "p"})
    assert "| 0 room, around, pinhole | 90 | 2.50 s | 100.0 % | 0.20% | 0.10% | -0.3% ± 0.4% |" in table
    assert "| 1 corridor, around, pinhole | 90 | nan s | nan % | nan% | nan% |" in table
    assert "| **all, median** | 270 | 2.50 s | 100.0 % | 25.10% | 1.05% | 0.3% |" in table
    assert "2 cores of p" in table


def test_the_error_is_a_share_of_the_extent(bench: ModuleType) -> None:
    pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")
    poses = [bench.StampedPose(10**8 * k, "camera", np.eye(4)) for k in range(20)]
    for k, pose in enumerate(poses):
        pose.w_T_c[:3, 3] = [np.cos(k), np.sin(k), 0.1 * k]
    recorded = bench.Recorded(Path("bag"), ("topic",), {pose.stamp_ns: pose for pose in poses}, 20)
    assert bench._error(recorded, poses) < 1e-9
    assert np.isnan(bench._error(recorded, []))
