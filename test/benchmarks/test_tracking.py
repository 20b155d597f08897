"""benchmarks/tracking.py: both sides follow the same frames between the same keyframes."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sequences import SMALL, walk

from dust3r_ros.mapping.mapper import Mapper
from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/tracking.py"


@pytest.fixture(scope="module")
def tracking() -> ModuleType:
    return script(SCRIPT, "tracking_benchmark")


@pytest.fixture(scope="module")
def frames() -> list[tuple[int, np.ndarray]]:
    sequence = walk("orbit", frames=60, rate_hz=30.0)
    return list(zip(sequence.stamps_ns.tolist(), sequence.images, strict=True))


def test_both_are_timed_between_the_keyframes_and_the_table_is_written(
    tracking: ModuleType,
    frames: list[tuple[int, np.ndarray]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib (extra eval) is not installed")
    monkeypatch.setattr(tracking, "load", lambda data, count: ("walk", frames[:count]))
    monkeypatch.setattr(tracking, "Mapper", partial(Mapper, SMALL))
    out = tmp_path / "results/tracking.json"
    monkeypatch.setattr(sys, "argv", ["tracking.py", "--frames", "60", "--out", str(out)])
    assert tracking.main() == 0
    result = json.loads(out.read_text())
    rows = result["rows"]
    assert 5 < rows["track"]["frames"] == rows["whole call"]["frames"] < 60
    assert 5 < rows["opencv"]["frames"] < 60
    assert rows["track"]["fps"] >= rows["whole call"]["fps"] > 0
    assert all(row["p50_ms"] <= row["p95_ms"] for row in rows.values())
    judged = {row["name"]: row["met"] for row in result["targets"]}
    assert result["target_fps"] == 60 and len(judged) == 2
    for row, met in zip(("track", "whole call"), judged.values(), strict=True):
        assert met == (rows[row]["fps"] >= 60)
    assert out.with_suffix(".png").is_file()
    assert "240x176" in capsys.readouterr().out


def test_a_walk_without_tracking_is_said(
    tracking: ModuleType, frames: list[tuple[int, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    black = [(stamp, np.zeros_like(image)) for stamp, image in frames[:5]]
    monkeypatch.setattr(tracking, "load", lambda data, count: ("nothing", black))
    monkeypatch.setattr(sys, "argv", ["tracking.py", "--out", str(tmp_path / "t.json")])
    assert tracking.main() == 1 and not (tmp_path / "t.json").exists()
