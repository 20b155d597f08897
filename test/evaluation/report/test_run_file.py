"""A run as a file: what is written is read, what is damaged or foreign is refused by name."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.report import run_file
from dust3r_ros.evaluation.report.run_file import RunFile, about, merged, read_run, write_run


def test_own_work_is_not_that_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, clock = tmp_path / "stat", [100.0]
    own = [50.0]
    monkeypatch.setattr(run_file, "_STAT", stat)
    monkeypatch.setattr(run_file, "_own", lambda: own[0])
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(run_file.os, "sysconf", lambda name: 100)
    stat.write_text("cpu  1000 0 200 5000 9 0 0 0 0 0\n")
    found = run_file.Machine()
    stat.write_text("cpu  2200 100 300 7000 9 0 0 0 0 0\n")  # 14 s of work in 10 s, 9 s of it ours
    clock[0], own[0] = 110.0, 59.0
    assert found.about()["others_cores"] == pytest.approx(0.5)
    stat.unlink()
    assert found.about()["others_cores"] is None


def test_a_system_that_tells_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_file, "_STAT", tmp_path / "none")
    monkeypatch.setattr(run_file, "_CPUINFO", tmp_path / "none")
    about = run_file.Machine().about()
    assert about["others_cores"] is None and about["processor"] == "" and about["cores"] >= 1


ROW = {"dataset": "recorded", "scene": "a", "protocol": "sequence", "system": "two_view", "ate": 0.25, "note": ""}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    head = about(
        commit="abc",
        date="1970-01-01",
        configuration={"seed": 0},
        hardware={"cores": 2, "others_cores": None},
        seconds=1.23,
    )
    path = write_run(tmp_path / "new/run.json", RunFile(head, [ROW, ROW | {"scene": "b", "ate": None}]))
    found = read_run(path)
    assert found.about == head and list(found.rows) == [ROW, ROW | {"scene": "b", "ate": None}]
    assert head["commit"] == "abc" and head["seconds"] == 1.2
    assert found.by_key()["recorded", "b", "sequence", "two_view"]["ate"] is None


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_run(tmp_path / "run.json", RunFile(about(), [ROW | {"ate": float("nan")}]))
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold 'about' and 'rows'"),
        (json.dumps({"about": {"format": 9}, "rows": []}), "has format 9"),
        (json.dumps({"about": about(), "rows": [{"scene": "a"}]}), "row 0 of"),
        (json.dumps({"about": about(), "rows": [ROW, ROW]}), "row 1 of .* repeats recorded / a"),
    ],
)
def test_a_file_that_is_no_run_is_refused_by_name(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(InputError, match=said) as error:
        read_run(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json"):
        read_run(tmp_path / "none.json")


def test_later_runs_win() -> None:
    runs = [RunFile({"version": "1"}, [ROW]), RunFile({}, [ROW | {"ate": 1.0}, ROW | {"scene": "b"}])]
    found = merged(runs)
    assert [(row["scene"], row["ate"]) for row in found.rows] == [("a", 1.0), ("b", 0.25)] and found.about[
        "version"
    ] == "1"
