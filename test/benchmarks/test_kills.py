"""benchmarks/kills.py: a few kills of each kind lose nothing, and its table says what was lost if something is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/kills.py"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of itself")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script(SCRIPT, "kills_benchmark")


PHASES = ("mapping", "saving", "exporting", "loop closing", "start", "culling")


@pytest.mark.parametrize(
    ("phases", "kills"),
    [(("mapping", "saving"), 2), pytest.param(PHASES, 10, marks=pytest.mark.long)],
)
@pytest.mark.timeout(600)
def test_nothing_is_lost(phases: tuple[str, ...], kills: int, tmp_path: Path) -> None:
    (page := tmp_path / "page.md").write_text(
        "a\n<!-- kills: begin, made by benchmarks/kills.py -->\n<!-- kills: end -->\n"
    )
    words = [word for phase in phases for word in ("--phase", phase)]
    command = [sys.executable, str(SCRIPT), "--kills", str(kills), "--seed", "1", "--out", str(tmp_path), *words]
    done = subprocess.run([*command, "--page", str(page)], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())["kills"]
    assert {phase: len(rows) for phase, rows in found.items()} == dict.fromkeys(phases, kills)
    assert sum(row["told"] for rows in found.values() for row in rows) > 0, "something could have been lost"
    for phase in phases:
        assert f"| {phase} | {kills} |" in page.read_text()
    assert "Traceback" not in done.stderr


def test_what_is_lost_is_bold(bench: ModuleType) -> None:
    rows = [bench.Kill(10, 0, True), bench.Kill(10, 2, False, readable=False, continues=False)]
    assert bench.table({"mapping": rows}, "here").splitlines()[2] == "| mapping | 2 | 1 | 20 | **2** | **1** | **1** |"


def test_files_are_compared_without_unfinished_ones(bench: ModuleType, tmp_path: Path) -> None:
    (tmp_path / ".model-abc").mkdir()
    for name in ("map.ply", ".map-abcdefgh.ply", ".model-abc/images.bin"):
        (tmp_path / name).write_bytes(b"x")
    assert list(bench.digests(tmp_path)) == ["map.ply"]
