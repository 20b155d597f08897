"""benchmarks/training.py: a row for every stage, with the caster that made its pairs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from small_worlds import RECIPE

from scripts import script

pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.errors import ConfigError

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/training.py"
STAGE = {"sizes": [[32, 48]], "pairs": 2, "steps": 6, "rate": 1e-3}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = script(SCRIPT, "training_benchmark")
    monkeypatch.setattr(module, "_COLD", 1)
    return module


def measured(benchmark: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> dict:
    recipe, out = folder / "small.yaml", folder / "results" / "training.json"
    recipe.write_text(yaml.safe_dump({**RECIPE, "stages": [STAGE]}), encoding="utf-8")
    given = ["--config", str(recipe), "--steps", "2", "--device", "cpu", "--out", str(out), *options]
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *given])
    assert benchmark.main() == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize("caster", ["numpy", "torch"])
def test_a_row_per_stage(
    benchmark: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caster: str,
) -> None:
    found = measured(benchmark, tmp_path, monkeypatch, "--caster", caster)
    (row,) = found["stages"]
    assert (row["stage"], row["caster"], row["pairs_per_step"]) == ("48x32 linear", caster, 2)
    assert 0 < row["waiting_share"] < 1 and row["pairs_per_second"] == pytest.approx(2 * row["steps_per_second"])
    assert found["about"]["workers"] == 0 and found["use"]["decode_both_ms"] > 0
    assert f"48x32 linear     {caster}" in capsys.readouterr().out


def test_an_unknown_caster_is_refused(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'caster' is 'gpu'; it must be numpy or torch"):
        measured(benchmark, tmp_path, monkeypatch, "--caster", "gpu")
