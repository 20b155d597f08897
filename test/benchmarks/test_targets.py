"""benchmarks/targets.py: rows of the common table, and what others took of the machine."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/targets.py"


@pytest.fixture(scope="module")
def targets() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_targets", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_says_what_was_measured_and_what_was_not(targets: ModuleType) -> None:
    assert targets.target("time", 12.3456, "<= 50", True, "note", "ms") == {
        "name": "time", "measured": "12.3 ms", "target": "<= 50", "met": True, "note": "note",
    }  # fmt: skip
    assert targets.target("frames", "51 of 51", "all", True)["measured"] == "51 of 51"
    assert targets.target("ATE", None, "<= 1", None)["measured"] == "not measured"


def test_own_work_is_not_that_of_others(targets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, clock = tmp_path / "stat", [100.0]
    own = [50.0]
    monkeypatch.setattr(targets, "_STAT", stat)
    monkeypatch.setattr(targets, "_own", lambda: own[0])
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(targets.os, "sysconf", lambda name: 100)
    stat.write_text("cpu  1000 0 200 5000 9 0 0 0 0 0\n")
    machine = targets.Machine()
    stat.write_text("cpu  2200 100 300 7000 9 0 0 0 0 0\n")  # 14 s of work in 10 s, 9 s of it ours
    clock[0], own[0] = 110.0, 59.0
    about = machine.about()
    assert about["others_cores"] == pytest.approx(0.5) and about["cores"] and about["version"]
    stat.unlink()
    assert machine.about()["others_cores"] is None
