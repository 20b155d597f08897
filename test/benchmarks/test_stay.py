"""benchmarks/stay.py: passes are counted one by one, and the page gets a row for each scene."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from sequences import SMALL, walk

from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.scenes.export import write_folder
from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/stay.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script(SCRIPT, "stay_benchmark")


@pytest.mark.parametrize("live", [True, False])
def test_a_short_walk_back_and_forth(bench: ModuleType, live: bool) -> None:
    pytest.importorskip("evo", reason="evo (extra eval) aligns the trajectories")
    sequence = walk("orbit", 24)
    images = list(zip(sequence.images, sequence.w_T_c, strict=True))
    mapper = Mapper(replace(SMALL, dense=False, focal=sequence.focal))
    if live:
        mapper.go_live(beside=False)
    rows, truths = bench.stay(mapper, iter([images, images[::-1], images]))
    assert not mapper.due and all(row.worst_ms > row.median_ms for row in rows)
    assert [row.lost for row in rows[1:]] == [0, 0]
    assert rows[0].keyframes <= rows[1].keyframes <= rows[0].keyframes + SMALL.window and rows[2] is not rows[1]
    assert all(row.ate is not None and row.ate < 0.02 for row in rows)
    together = bench.finished(mapper, truths)
    assert len(together) == 3 and all(0.0 < ate < 0.02 for ate in together)
    judged = {row["name"]: row["met"] for row in bench.targets(rows, 0.01, together)}
    assert judged["the same, maps finished"] == (max(together) <= 0.01)
    assert judged["keyframes / those after two passes"] and judged["images lost after pass 1"]
    assert judged["memory after pass 4"] is None, "there is none"


def test_growth_is_missed_where_there_is_any(bench: ModuleType) -> None:
    rows = [bench.Pass(10 * n, n - 1, 1.0, 10.0, 600.0, 100.0 * n, 300.0, 0.01 * n) for n in range(1, 10)]
    found = bench.targets(rows, 0.01, [0.005, None, 0.02])
    assert [row["met"] for row in found] == [False] * 6
    assert bench.targets(rows)[3]["met"] is None, "it was not measured"
    assert bench.targets(rows, live=False)[4]["met"] is None, "nobody waits"
    report = {
        "scene": "x",
        "settings": ["dense=false"],
        "passes": [vars(row) for row in rows],
        "targets": found,
        "machine": {"cores": 2, "processor": "p"},
    }
    table = bench.table([report])
    assert "| x: 10 → 20 → 90 keyframes | **4.5** |" in table and "9 passes, `dense=false`; 2 cores of p" in table


def test_a_recorded_scene_needs_its_truth(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(walk("orbit", 12), tmp_path / "scene")
    (tmp_path / "scene/groundtruth.txt").unlink()
    monkeypatch.setattr(sys, "argv", ["stay.py", "--scene", str(tmp_path / "scene"), "--out", str(tmp_path / "out")])
    assert bench.main() == 1
    assert "groundtruth.txt" in capsys.readouterr().err
