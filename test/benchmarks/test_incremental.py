"""benchmarks/incremental.py in its short form: every target but times, which other work on the machine changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/incremental.py"


def test_a_short_run_meets_the_targets(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib (extra eval) is not installed")
    command = [sys.executable, str(SCRIPT), "--keyframes", "120", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert (tmp_path / "incremental.png").is_file(), done.stderr
    report = json.loads((tmp_path / "incremental.json").read_text())
    limits = {row["what"]: row for row in report["rows"] if row["limit"] is not None and row["unit"] != "ms"}
    limits = {what: row for what, row in limits.items() if "p95" not in what and "processor" not in what}
    assert len(limits) >= 7
    for what, row in limits.items():
        assert row["value"] <= row["limit"], what
        assert f"| {what} |" in done.stdout
    judged = {row["name"]: row["met"] for row in report["targets"]}
    assert judged == {row["what"]: row["value"] <= row["limit"] for row in report["rows"] if row["limit"] is not None}
    assert len(judged) == 9 and report["about"]["cores"] >= 1
    assert len(report["curves"]["clean"]["wall_ms"]) == 120


def test_too_short_a_run_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--keyframes", "50"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "at least 120" in done.stderr
