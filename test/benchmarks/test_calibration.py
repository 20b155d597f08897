"""benchmarks/calibration.py: cases with their true focals, errors in standard deviations, a table by kind."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/calibration.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script(SCRIPT, "calibration_benchmark")


def test_kinds_have_their_rows(bench: ModuleType) -> None:
    rows = [
        bench.Row("a", "window", 0.10, 0.05, 1.0),
        bench.Row("b", "window", -0.02, 0.05, 1.0),
        bench.Row("c", "rendered", float("nan"), float("nan"), 1.0),
    ]
    assert rows[0].z == pytest.approx(np.log(1.1) / 0.05)
    table = bench.table(rows, {"cores": 2, "processor": "p"})
    assert "| window | 2 | 6.0% | +4.0% | +10.0% | 50% | 100% | 1.9 |" in table
    assert "| rendered | 1 | no map |" in table and "| all | 3 | 6.0% |" in table
    assert "| errors below 1 deviation, all | **50%** | 60% to 75% |" in table
    assert "| largest, in deviations, all | 1.91 | ≤ 4 |" in table
    assert "| median error of windows | **6.0%** | ≤ 5% |" in table
    assert "| variants with enough poses | not measured | all |" in table


def test_a_case_is_mapped_and_drawn(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_SIZE", (160, 120))
    monkeypatch.setattr(bench, "_FRAMES", 12)
    page = tmp_path / "docs/page.md"
    (tmp_path / "docs/pictures").mkdir(parents=True)
    page.write_text(f"before\n{bench.BEGIN}\n{bench.END}\nafter\n")
    common = ["calibration.py", "--out", str(tmp_path / "out"), "--data", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*common, "--cases", "orbit 0", "--page", str(page)])
    assert bench.main() == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"calibration.json", "calibration.png"}
    assert "| rendered | 1 |" in page.read_text() and (tmp_path / "docs/pictures/calibration.png").is_file()
    monkeypatch.setattr(bench, "_POINTMAPS", 12)
    row = bench.measure("a", bench.cases(tmp_path)["orbit 0 network 1"])
    assert row.kind == "pointmaps" and abs(row.error) < 0.1 and 0 < row.std < 0.2
    monkeypatch.setattr(sys, "argv", [*common, "--cases", "nosuch"])
    assert bench.main() == 1
