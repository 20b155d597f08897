"""benchmarks/bent.py: its worlds are what they claim, and its judge finds silence and false alarms."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/bent.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script(SCRIPT, "bent_benchmark")


def test_corridors_look_alike_where_they_should(bench: ModuleType) -> None:
    """A camera that looks at the wall sees the same 15 m on, or not."""
    ahead = bench.look_at(np.array([-2.0, 0.0, 1.3]), np.array([-1.5, 1.2, 1.2]))
    beyond = ahead.copy()
    beyond[0, 3] += 15.0
    for alike in (True, False):
        world = bench.corridor_world(alike)
        views = [world.render(place, 80, 60, 66.0).image.astype(int) for place in (ahead, beyond)]
        assert (np.abs(views[0] - views[1]).mean() < 2) == alike


@pytest.mark.parametrize(
    ("hard", "error", "said", "met"),
    [
        (True, 0.4, False, False),
        (True, 0.4, True, True),
        (True, 0.02, False, True),
        (False, 0.02, False, True),
        (False, 0.02, True, False),
    ],
)
def test_silence_about_a_wrong_map_and_a_false_alarm_are_missed(
    bench: ModuleType, hard: bool, error: float, said: bool, met: bool
) -> None:
    row = bench.Row("x", hard, 20, 30, 29, error, 0.3, said, 1.0)
    assert row.met == met
    table = bench.table([row], {"cores": 2, "processor": "p"})
    assert f"| 29 of 30 | 20 | {error:.1%} | 30% |" in table and ("**" in table) != met
    assert "2 cores of p" in bench.table([replace(row, said=True)], {"cores": 2, "processor": "p"})


def test_a_case_is_mapped_and_drawn(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")
    sequence = bench.walk("orbit", 12, rate_hz=8.0)
    small = bench.render_path("orbit", bench.room(), sequence, width=160, height=120)
    monkeypatch.setitem(bench.CASES, "small", bench._rendered(lambda: small))
    monkeypatch.setattr(sys, "argv", ["bent.py", "--cases", "small", "--out", str(tmp_path), "--data", str(tmp_path)])
    assert bench.main() == 0
    assert {path.name for path in tmp_path.iterdir()} == {"bent.json", "bent.png"}
    monkeypatch.setattr(sys, "argv", ["bent.py", "--cases", "nosuch", "--out", str(tmp_path)])
    assert bench.main() == 1
