"""benchmarks/summary.py: one table of what was run and what was not, into its place in the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/summary.py"
BEGIN, END = "<!-- table: begin, made by benchmarks/summary.py -->", "<!-- table: end -->"
ABOUT = {"version": "0.1.0", "machine": "x86_64", "cores": 2, "python": "3.11.7", "others_cores": 1.25}


def row(name: str, met: bool | None, note: str = "", measured: object = "0.9 x") -> dict[str, object]:
    return {"name": name, "measured": measured, "target": "<= 1", "met": met, "note": note}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A page with an old table, and the results of two benchmarks out of three."""
    (tmp_path / "page.md").write_text(f"# Page\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n", encoding="utf-8")
    results = tmp_path / "results"
    results.mkdir()
    reports = {
        "incremental": {"about": ABOUT, "targets": [row("time", True, "the wall clock"), row("memory", False)]},
        "tracking": {"about": ABOUT | {"others_cores": None}, "targets": [row("ATE", None, "no comparison", None)]},
    }
    for name, report in reports.items():
        (results / f"{name}.json").write_text(json.dumps(report), encoding="utf-8")
    return tmp_path


def run(place: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--results", str(place / "results"), "--page", str(place / "page.md")]
    command += ["--pictures", str(place / "pictures")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_target_is_a_row_and_the_rest_of_the_page_stays(place: Path) -> None:
    done = run(place)
    text = (place / "page.md").read_text(encoding="utf-8")
    assert text.startswith(f"# Page\n\nBefore.\n\n{BEGIN}\n\n|") and text.endswith(f"{END}\n\nAfter.\n")
    assert "old" not in text and text.split(BEGIN)[1].split(END)[0].strip() in done.stdout
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in text.splitlines() if line.startswith("| ")}
    cells = {name: [cell.strip() for cell in row] for name, row in rows.items()}
    assert cells["time"] == ["0.9 x", "<= 1", "met", "the wall clock"]
    assert cells["memory"] == ["0.9 x", "<= 1", "**missed**", ""]
    assert cells["ATE"] == ["not measured", "<= 1", "–", "no comparison"]
    assert [cells[f"`benchmarks/{name}.py`"][2] for name in ("alignment",)] == ["not run"]
    assert "2 cores (x86_64)" in text and "incremental 1.2" in text
    assert done.returncode == 1 and "1 of 3 targets met, 1 missed, 1 not judged; not run: alignment" in done.stdout
    again = run(place)
    assert again.stdout == done.stdout and (place / "page.md").read_text(encoding="utf-8") == text


def test_all_met_is_success_and_a_spoilt_report_is_not_run(place: Path) -> None:
    for name in ("alignment", "incremental", "tracking"):
        (place / f"results/{name}.json").write_text(json.dumps({"targets": [row(name, True)]}), encoding="utf-8")
    assert run(place).returncode == 0
    for broken in ("{", "[]", '{"rows": []}', '{"targets": [{"name": "a"}]}'):
        (place / "results/tracking.json").write_text(broken, encoding="utf-8")
        done = run(place)
        assert done.returncode == 1 and "2 of 2 targets met, 0 missed; not run: tracking" in done.stdout


def test_pictures_are_made_small(place: Path) -> None:
    Image.effect_noise((1300, 400), 60).convert("RGB").save(place / "results/alignment.png")
    assert run(place).returncode == 1
    with Image.open(place / "pictures/alignment.png") as picture:
        assert picture.format == "PNG" and picture.size == (1000, 308)
    assert [path.name for path in (place / "pictures").iterdir()] == ["alignment.png"]


@pytest.mark.parametrize("page", ["no markers", f"{END} {BEGIN}"])
def test_a_page_without_a_place_for_the_table_is_left_alone(place: Path, page: str) -> None:
    (place / "page.md").write_text(page, encoding="utf-8")
    done = run(place)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "page.md" in done.stderr
    assert (place / "page.md").read_text(encoding="utf-8") == page
