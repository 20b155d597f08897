"""benchmarks/targets.py: rows of the common table, and what others took of the machine."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

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
    with pytest.raises(KeyError):
        said(lambda: failing(KeyError("x")))()
