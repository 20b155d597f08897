"""What others took of the machine is not what we took."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dust3r_ros.evaluation.report import machine


def test_own_work_is_not_that_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, clock = tmp_path / "stat", [100.0]
    own = [50.0]
    monkeypatch.setattr(machine, "_STAT", stat)
    monkeypatch.setattr(machine, "_own", lambda: own[0])
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(machine.os, "sysconf", lambda name: 100)
    stat.write_text("cpu  1000 0 200 5000 9 0 0 0 0 0\n")
    found = machine.Machine()
    stat.write_text("cpu  2200 100 300 7000 9 0 0 0 0 0\n")  # 14 s of work in 10 s, 9 s of it ours
    clock[0], own[0] = 110.0, 59.0
    assert found.about()["others_cores"] == pytest.approx(0.5)
    stat.unlink()
    assert found.about()["others_cores"] is None


def test_a_system_that_tells_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_STAT", tmp_path / "none")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "none")
    about = machine.Machine().about()
    assert about["others_cores"] is None and about["processor"] == "" and about["cores"] >= 1
