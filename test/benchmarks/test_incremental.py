"""benchmarks/incremental.py in its short form: every target but times, which other work on the machine changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/incremental.py"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[int, Path], str]:
    """Runs the script here, with images of this width; returns what it printed."""

    def on(width: int, out: Path) -> str:
        monkeypatch.setattr(sys, "path", [*sys.path])
        module = script(SCRIPT, "incremental_benchmark")
        size = {"HEIGHT": width * 3 // 4, "WIDTH": width, "FOCAL": 0.83 * width}
        for name, value in size.items():
            monkeypatch.setattr(sys.modules["lap_world"], name, value)
            monkeypatch.setattr(module, name, value, raising=False)
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--keyframes", "120", "--out", str(out)])
        module.main()
        return capsys.readouterr().out

    return on


@pytest.mark.parametrize("width", [64, pytest.param(256, marks=pytest.mark.long)])
def test_a_short_run_meets_the_targets(run: Callable[[int, Path], str], tmp_path: Path, width: int) -> None:
    """The script's images, and smaller ones with the same errors."""
    pytest.importorskip("matplotlib", reason="matplotlib (extra eval) is not installed")
    said = run(width, tmp_path)
    assert (tmp_path / "incremental.png").is_file() and f"keyframes of {width}x" in said
    report = json.loads((tmp_path / "incremental.json").read_text())
    limits = {row["what"]: row for row in report["rows"] if row["limit"] is not None and row["unit"] != "ms"}
    limits = {what: row for what, row in limits.items() if "p95" not in what and "processor" not in what}
    assert len(limits) >= 7
    for what, row in limits.items():
        assert row["value"] <= row["limit"], what
        assert f"| {what} |" in said
    judged = {row["name"]: row["met"] for row in report["targets"]}
    assert judged == {row["what"]: row["value"] <= row["limit"] for row in report["rows"] if row["limit"] is not None}
    assert len(judged) == 9 and report["about"]["cores"] >= 1
    assert len(report["curves"]["clean"]["wall_ms"]) == 120


def test_too_short_a_run_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--keyframes", "50"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "at least 120" in done.stderr
