"""The index: a row and a picture for each map, a sentence for each that is none."""

from __future__ import annotations

import csv
from pathlib import Path

from dust3r_ros.fleet.index import COLUMNS, write_index
from dust3r_ros.fleet.recordings import FAILED, MAPPED, WAITING, Record

FIGURES = {
    "frames": 90, "poses": 88, "keyframes": 9, "points": 1000, "seconds": 3.5, "peak_memory_mb": 210.0, "length": 4.25,
    "unit": "m", "version": "0.1.0",
}  # fmt: skip
RECORDS = {
    "walk #1": Record("/r/walk #1", "", MAPPED, figures={**FIGURES, "focal": {"camera": [500.0, 2.5]}}, host="one"),
    "rig": Record(
        "/r/rig", "", MAPPED, "", {**FIGURES, "focal": {"left": [500.0, None], "right": [501.0, 1.0]}}, ["2 lost"]
    ),
    "bad": Record("/r/bad", "", FAILED, "'/r/<bad>' is not a readable video"),
    "late": Record("/r/late", "", WAITING, tries=0),
}


def test_the_table_has_a_row_for_each(tmp_path: Path) -> None:
    write_index(tmp_path, RECORDS)
    with open(tmp_path / "index.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(rows) == sorted(RECORDS) and tuple(rows["bad"]) == COLUMNS
    one, rig = rows["walk #1"], rows["rig"]
    assert [one[name] for name in ("poses", "focal_px", "focal_std_px", "length", "unit", "host")] == [
        "88", "500.0", "2.5", "4.25", "m", "one",
    ]  # fmt: skip
    assert (rig["focal_px"], rig["focal_std_px"]) == ("left=500.0; right=501.0", "left=; right=1.0")
    assert rig["warnings"] == "2 lost"
    assert rows["bad"]["state"] == "failed" and "readable" in rows["bad"]["message"] and rows["bad"]["poses"] == ""
    assert rows["late"]["state"] == "not done"


def test_the_page_shows_what_failed_first(tmp_path: Path) -> None:
    write_index(tmp_path, RECORDS)
    page = (tmp_path / "index.html").read_text()
    assert "2 mapped, 1 failed, 1 not done" in page and "&lt;bad&gt;" in page
    assert page.index("bad: failed") < page.index("walk #1</h2>")
    assert 'href="walk%20%231/report.html"' in page and 'src="rig/preview.png"' in page and "bad/preview" not in page
    assert "camera: focal 500.0 ± 2.5 px" in page and "left: focal 500.0 px" in page


def test_joined_maps_are_no_recordings(tmp_path: Path) -> None:
    """Their poses are those of recordings again."""
    records = {name: RECORDS["rig"] for name in ("monday", "tuesday", "alone")}
    both = Record("monday + tuesday", "", MAPPED, figures={**RECORDS["rig"].figures, "joined": ["monday", "tuesday"]})
    write_index(tmp_path, {**records, "joined": both})
    page = (tmp_path / "index.html").read_text()
    assert page.count("3 recordings, 1 joined map<") == 2 and ">3 mapped · 264 poses in" in page
    assert "joined</h2>" in page


def test_nothing_is_a_page_too(tmp_path: Path) -> None:
    write_index(tmp_path, {})
    assert "0 recordings" in (tmp_path / "index.html").read_text()
