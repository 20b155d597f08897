"""benchmarks/fuzz.py: 500 of its cases, and that its judge finds what is wrong."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dust3r_ros.errors import InputError
from scripts import script

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script(BENCHMARKS / "fuzz.py", "fuzz_benchmark")


def test_five_hundred_cases(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    tallies, table = bench.fuzz(list(bench.doors().values()), 500, fast=25)
    assert sum(tally.kinds.total() for tally in tallies) >= 500
    assert [tally.name for tally in tallies if tally.findings] == [], capsys.readouterr().out
    assert "| all | 5" in table and "cores of" in table


def test_a_case_is_the_same_each_time(bench: ModuleType, tmp_path: Path) -> None:
    door = bench.doors()["trajectory"]
    door.make(tmp_path)
    whole, made = (tmp_path / "trajectory.txt").read_bytes(), []
    for _ in range(2):
        (tmp_path / "trajectory.txt").write_bytes(whole)
        door.damage(tmp_path, Random("trajectory 7"))
        made.append((tmp_path / "trajectory.txt").read_bytes())
    assert made[0] == made[1] != whole


STUB = """
import sys, time
for line in sys.stdin:
    if " 1" in line:
        time.sleep(9)
    if " 2" in line:
        sys.exit(3)
    print(0.1, flush=True)
"""


class Faulty:
    """A door with every kind of fault, by the number of the case."""

    name, named, slow = "faulty", (), False

    def make(self, folder: Path) -> None:
        (folder / "case").write_text("0", encoding="utf-8")

    def damage(self, folder: Path, rng: Random) -> set[str]:
        (folder / "case").write_text(self.case, encoding="utf-8")
        return {"case"}

    def open(self, folder: Path) -> Any:
        match (folder / "case").read_text(encoding="utf-8"):
            case "crash":
                raise KeyError("no sentence")
            case "nameless":
                raise InputError("something is wrong with a file")
            case "refused":
                raise InputError(f"'{folder / 'case'}' is damaged")
            case "hang":
                start = time.process_time()
                while time.process_time() < start + 1.2:
                    pass
            case "memory":
                np.ones(600 << 20, np.uint8)
            case "lost":
                (folder / "case").unlink()
            case "wrong":
                return float("nan")
        return 1.0

    def judge(self, found: Any, good: Any, how: set[str]) -> None:
        from fuzz_doors import finite

        finite(found, "the number")


@pytest.mark.parametrize("fault", ["crash", "nameless", "refused", "hang", "memory", "lost", "wrong", "none"])
def test_the_judge_finds_every_kind_of_fault(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(bench.resource, "setrlimit", lambda *_: None)  # this process has no limit of its own
    (tmp_path / "seed").mkdir()
    door = Faulty()
    door.case = fault
    door.make(tmp_path / "seed")
    worker = bench.Worker(door, tmp_path)
    outcome = worker.run(0)
    expected = {"nameless": "crash", "hang": "read", "none": "read"}.get(fault, fault)
    assert outcome.kind == expected, outcome.text
    assert fault == "memory" or (outcome.seconds > worker.seconds + bench.SECONDS) == (fault == "hang")


def test_a_hang_and_a_killed_process_are_reported(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "KILL_S", 0.5)
    judge = bench.Judge(tmp_path)
    try:
        judge._process.kill()
        judge._process.wait()
        monkeypatch.setattr(bench, "__file__", str(tmp_path / "stub.py"))
        (tmp_path / "stub.py").write_text(STUB, encoding="utf-8")
        judge._begin()
        judge.open("door")
        assert judge.case("door", 1).kind == "hang"
        assert judge.case("door", 2).kind == "crash"
    finally:
        judge.close()


def test_another_door_is_refused_by_name(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "--only", "window"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "'window'" in capsys.readouterr().err
