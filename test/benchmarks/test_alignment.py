"""benchmarks/alignment.py: sizes, ratios beside their targets, and what it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from dust3r_ros.errors import Dust3rRosError
from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/alignment.py"
TINY = "3x32"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    path = list(sys.path)
    module = script(SCRIPT, "alignment_benchmark")
    yield module
    sys.path[:] = path


@pytest.fixture(scope="module")
def measured(bench: ModuleType) -> dict[str, float]:
    result: dict[str, float] = bench.measure("moments", TINY)
    return result


def slower(found: dict[str, float], times: float, **worse: float) -> dict[str, float]:
    """A baseline that takes ``times`` as long and differs by the factors ``worse``."""
    base = found | {"seconds": times * found["seconds"], "cpu_seconds": 1.5 * times * found["cpu_seconds"]}
    return base | {name: factor * found[name] for name, factor in worse.items()}


def test_a_size_names_a_problem(bench: ModuleType) -> None:
    problem = bench.problem_of(TINY)
    assert len(problem.w_T_c) == 3 and problem.depths[0].shape == (24, 32)
    assert len(bench.problem_of("2").pairs) == 2 and bench.problem_of("2").depths[0].shape == (120, 160)


def test_a_method_is_measured_on_its_problem(bench: ModuleType, measured: dict[str, float]) -> None:
    assert 0 < measured["seconds"] < 5 and measured["cpu_seconds"] > 0 and measured["memory"] >= 0
    assert measured["input_memory"] == 6 * 2 * 24 * 32 * 16
    assert 0 < measured["objective"] < 1 and 0 < measured["ate"] < 0.2 and 0 < measured["focal"] < 0.1
    assert measured == json.loads(json.dumps(measured))


def test_what_a_run_writes(
    bench: ModuleType,
    measured: dict[str, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a baseline 400 times slower and slightly worse: all is met. With one 100 times slower, the speed is not."""
    pytest.importorskip("matplotlib", reason="matplotlib (extra eval) is not installed")
    for times, code in ((400.0, 0), (100.0, 1)):
        baseline = slower(measured, times, objective=1.001, ate=1.1, memory=20.0)
        monkeypatch.setattr(
            bench, "run", lambda method, size, other=baseline: measured if method == "moments" else other
        )
        out = tmp_path / f"results/{times:.0f}.json"
        monkeypatch.setattr(sys, "argv", ["alignment.py", "--sizes", f"3,{TINY}", "--out", str(out)])
        assert bench.main() == code
        printed, found = capsys.readouterr().out, json.loads(out.read_text())
        assert [row["size"] for row in found["rows"]] == ["3", TINY]
        assert found["rows"][0]["ratio"]["speed"] == pytest.approx(times)
        assert found["rows"][0]["cpu_speed"] == pytest.approx(1.5 * times)
        assert found["rows"][0]["ratio"]["ate"] == pytest.approx(1 / 1.1)
        assert "times faster >= 300" in printed and (f"{times:.0f} !" in printed) == (code == 1)
        picture = cv2.imread(str(out.with_suffix(".png")))
        assert picture is not None and picture.std() > 10
        assert_targets(found["targets"], times)


def assert_targets(found: list[dict[str, Any]], times: float) -> None:
    """One line for every target of every size; memory only where images are named by their width."""
    assert all(set(entry) == {"name", "measured", "target", "met", "note"} for entry in found)
    assert len(found) == 11 and len({entry["name"] for entry in found}) == 11
    assert sum("memory" in entry["name"] for entry in found) == 1
    speed = [entry for entry in found if "times faster" in entry["name"]]
    assert [entry["measured"] for entry in speed] == [f"{times:.0f}"] * 2
    assert [entry["met"] for entry in speed] == [times >= 300] * 2
    assert all(entry["met"] for entry in found if entry not in speed)
    assert "processor time" in speed[0]["note"]


def test_targets_count_the_digits_that_are_shown(bench: ModuleType) -> None:
    objective, speed = bench.TARGETS["objective"], bench.TARGETS["speed"]
    assert objective.met(1.004) and not objective.met(1.006) and objective.text == "<= 1"
    assert speed.met(299.6) and not speed.met(299.4) and speed.text == ">= 300"


def test_the_fixture_is_compared_with_the_original_program(
    bench: ModuleType, measured: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stored = {"t_init": 1.0, "t_opt": 99.0, "loss_final": 2.0 * measured["objective"]}
    final = {"ate_m": measured["ate"], "focal_err_pct_mean": 50 * measured["focal"], "depth_absrel_mean": 1.0}
    (tmp_path / "ga_dev_reference.json").write_text(json.dumps(stored | {"final": final}))
    monkeypatch.setattr(bench, "FIXTURES", tmp_path)
    monkeypatch.setattr(bench, "run", lambda method, size: measured)
    row = bench.compare("dev")
    assert row["original"]["seconds"] == 100.0
    against = row["ratio_to_original"]
    assert against["speed"] == pytest.approx(100 / measured["seconds"])
    assert against["objective"] == pytest.approx(0.5) and against["ate"] == 1.0
    assert against["focal"] == pytest.approx(2.0)
    assert "against the stored result of the original program (100 s)" in bench.table([row])
    entries = {entry["name"]: entry for entry in bench.targets([row])}
    focal = entries["alignment, 8 images (fixture): focal error, against the original program"]
    assert focal["measured"] == "2.0000" and focal["met"] is False
    assert "original" not in bench.compare("8")


def test_a_method_that_fails_is_named(bench: ModuleType) -> None:
    with pytest.raises(Dust3rRosError, match=r"^nothing on 3x32 failed: .*nothing"):
        bench.run("nothing", TINY)


def test_no_problem_is_said(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "FIXTURES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["alignment.py", "--sizes", "dev", "--out", str(tmp_path / "a.json")])
    assert bench.main() == 2 and not (tmp_path / "a.json").exists()
    assert "no problem to run" in capsys.readouterr().err


@pytest.mark.long
def test_both_methods_run_in_processes_of_their_own(bench: ModuleType) -> None:
    pytest.importorskip("torch", reason="the published scheme needs torch")
    row = bench.compare(TINY)
    assert row["ratio"]["objective"] < 1.02
    assert np.isfinite(list(row["ratio"].values())).all()
