"""benchmarks/targets.py: rows of the common table, and what others took of the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dust3r_ros import __version__
from dust3r_ros.errors import InputError
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


def test_deviations_are_counted_below_one_and_two(targets: ModuleType) -> None:
    assert targets.z_cells(np.array([0.5, 1.5, 1.9, 2.5])) == ("25%", "75%", "2.5")


def test_the_processor_is_used_by_processes_below_and_by_ended_ones(targets: ModuleType) -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\n"
    both = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {work!r}])\nprint('x', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", both], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        found, ours = targets.processor_s(process.pid), targets.processor_s(os.getpid())
        process.communicate(b"\n")
    assert found.keys() == {process.pid} and ours.keys() >= {process.pid, os.getpid()}
    own, ended = found[process.pid]
    assert own < ended and 0.25 < ended < 1.0
    assert targets.processor_s(process.pid) == {}


@dataclass
class Row:
    name: str


def test_cases_are_measured_told_and_left(
    targets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> list[Row]:
        monkeypatch.setattr(sys, "argv", ["rooms.py", "--out", str(tmp_path / "out"), *options])
        arguments = targets.case_options(None, "rooms").parse_args()
        return targets.run_cases(
            arguments,
            ("a", "b"),
            lambda names: map(Row, names),
            lambda row: f"done: {row.name}",
            lambda rows, about: f"| {len(rows)} of {about['version']} |",
            plot=lambda rows, path: path.write_text(rows[0].name),
        )

    assert run("--cases", "list") == [] and capsys.readouterr().out == "a\nb\n" and not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="there is no case 'c'; there are a, b"):
        run("--cases", "c")
    assert run("--cases", "b") == [Row("b")]
    assert capsys.readouterr().out == f"done: b\n| 1 of {__version__} |\n"
    assert [row.name for row in run()] == ["a", "b"] and (tmp_path / "out/rooms.png").read_text() == "a"
    report = json.loads((tmp_path / "out/rooms.json").read_text())
    assert report["rows"] == [{"name": "a"}, {"name": "b"}] and report["machine"]["cores"]


def test_the_version_stands_beside_the_machine(targets: ModuleType) -> None:
    about = targets.Machine().about()
    assert about["version"] == __version__ and about["cores"] and "others_cores" in about


def test_a_report_is_left_in_a_file_and_on_a_page(
    targets: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, picture = tmp_path / "docs/page.md", tmp_path / "out/rooms.png"
    for path, text in ((page, "before\n<!-- a -->\nold\n<!-- b -->\nafter\n"), (picture, "png")):
        path.parent.mkdir()
        path.write_text(text)
    (page.parent / "pictures").mkdir()
    markers = ("<!-- a -->", "<!-- b -->")
    targets.leave(tmp_path / "new/rooms.json", {"rows": [1]}, "| new |", None, markers, picture)
    assert json.loads((tmp_path / "new/rooms.json").read_text()) == {"rows": [1]}
    assert capsys.readouterr().out == "| new |\n" and "old" in page.read_text()
    targets.leave(tmp_path / "new/rooms.json", {"rows": [1]}, "| new |", page, markers, picture)
    text = page.read_text()
    assert "| new |" in text and "old" not in text and text.startswith("before") and text.endswith("after\n")
    assert (page.parent / "pictures/rooms.png").read_text() == "png"


def test_users_see_a_line_of_our_errors_and_a_trace_of_others(
    targets: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(error: Exception) -> int:
        raise error

    said = targets.errors_said("rooms", TimeoutError)
    assert said(lambda: 0)() == 0 and said(lambda: 3)() == 3
    assert said(lambda: failing(InputError("there is no room")))() == 1
    assert said(lambda: failing(TimeoutError("too late")))() == 1
    assert capsys.readouterr().err == "rooms: error: there is no room\nrooms: error: too late\n"
    assert targets.errors_said("rooms", code=2)(lambda: failing(InputError("there is no room")))() == 2
    with pytest.raises(KeyError):
        said(lambda: failing(KeyError("x")))()
