"""benchmarks/fleet.py: what it compares, and how it is judged."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from dust3r_ros.errors import InputError
from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/fleet.py"
FOUND = {
    "recordings": 12, "frames": 480, "alone_s": 90.0, "pair_s": 46.0, "fleet_s": 50.0, "again_s": 0.6, "differ": 0,
    "bound": 1.9, "bound_others": 0.1,
    "machine": {"cores": 2, "processor": "processor", "others_cores": 0.1},
}  # fmt: skip


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script(SCRIPT, "fleet_benchmark")


def test_ratio_and_second_request_are_judged(bench: ModuleType) -> None:
    rows = bench.targets(FOUND)
    assert [row["met"] for row in rows] == [True, None, None, True, True, None] and not any(row["note"] for row in rows)
    shown = bench.table(FOUND, rows, "walks")
    assert "| 1.8 | >= 1.7 on two cores |" in shown and "**" not in shown and "12 walks, 480 frames" in shown


def test_a_machine_that_cannot_is_said(bench: ModuleType) -> None:
    found = FOUND | {"pair_s": 80.0, "fleet_s": 85.0, "again_s": 30.0, "differ": 3, "bound_others": 1.5}
    rows = bench.targets(found)
    assert [row["met"] for row in rows] == [False, None, None, False, False, None]
    shown = bench.table(found, rows, "walks")
    assert "two plain mappers at once / one | not measured |" in shown and "other programs used 1.5 cores" in shown
    assert "**1.06**" in shown and "**2.5 s**" in shown and "do not reach 1.7 here either" in shown


def test_a_shared_network_is_shown_beside_own_ones(bench: ModuleType) -> None:
    found = {
        "recordings": 4, "own_s": [30.0, 20.0], "shared_s": [25.0, 26.0], "own_cpu_s": [40.0, 42.0],
        "shared_cpu_s": [50.0, 44.0], "pairs": 60, "requests": 30, "batches": 20,
        "MB": 500, "own_mb": 600.0, "shared_mb": 200.0, "differ": 1, "machine": FOUND["machine"],
    }  # fmt: skip
    rows = bench.network_targets(found)
    shown = bench.network_table(found, rows, "walks")
    assert "one per process | 0.8 |" in shown and "one per process | 1.1 |" in shown
    assert "on average | 3 |" in shown and "| **1** | 0 |" in shown and "| not measured |" not in shown.split("GPU")[0]
    assert "its own network 20 s (40 s of processors), one network in a third process 25 s (44 s)" in shown


def test_processor_time_is_that_of_all_processes_below(bench: ModuleType) -> None:
    work = "import time\nwhile time.process_time() < 0.6: pass\n"
    both = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {work!r}])\n{work}\nprint('done')"
    took, used, done = bench.watched([sys.executable, "-c", both])
    assert 0.8 < used < 1.5 and took > 0.6 and (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_walks_are_rendered_once(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_WALKS", ("orbit",))
    monkeypatch.setattr(bench, "_SEEDS", 2)
    monkeypatch.setattr(bench, "_SIZE", (32, 24))
    found = bench.rendered(tmp_path, 2)
    before = [path.stat().st_mtime_ns for path in found]
    assert len(found) == 2 and [path.stat().st_mtime_ns for path in bench.rendered(tmp_path, 2)] == before


def test_a_recording_that_is_not_mapped_is_an_error(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "seconds", lambda *commands: 1.0)
    with pytest.raises(InputError, match="2 results are missing"):
        bench.measure([tmp_path / "walk"], tmp_path, [])
