"""benchmarks/targets.py: rows of the common table, and what others took of the machine."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from dust3r_ros import __version__
from scripts import script

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/targets.py"


@pytest.fixture(scope="module")
def targets() -> ModuleType:
    return script(SCRIPT, "benchmark_targets")


def test_a_row_says_what_was_measured_and_what_was_not(targets: ModuleType) -> None:
    assert targets.target("time", 12.3456, "<= 50", True, "note", "ms") == {
        "name": "time", "measured": "12.3 ms", "target": "<= 50", "met": True, "note": "note",
    }  # fmt: skip
    assert targets.target("frames", "51 of 51", "all", True)["measured"] == "51 of 51"
    assert targets.target("ATE", None, "<= 1", None)["measured"] == "not measured"


def test_the_version_stands_beside_the_machine(targets: ModuleType) -> None:
    about = targets.Machine().about()
    assert about["version"] == __version__ and about["cores"] and "others_cores" in about
