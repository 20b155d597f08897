"""What is asked for: recordings by path, pattern and list, under names of their own; what counts as finished."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.fleet.recordings import (
    EMPTY,
    FAILED,
    MAPPED,
    RECORD,
    RUNNING,
    Job,
    Record,
    find_recordings,
    fingerprint,
    is_done,
    name_all,
    read_record,
    records_in,
    request_of,
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("a/walk.bag", "b/walk.bag", "b/run.mcap", "images/1.png", "images/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_paths_patterns_and_lists_in_order_each_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "list.txt").write_text("# bags\nb/*.bag\n\nimages\n")
    monkeypatch.chdir(place / "a")
    found = find_recordings(["walk.bag", "../*/walk.bag"], [str(place / "list.txt")])
    assert found == [place / "a/walk.bag", place / "b/walk.bag", place / "images"]


def test_a_name_with_brackets_is_no_pattern(place: Path) -> None:
    (place / "walk[1].bag").write_bytes(b"")
    assert find_recordings([str(place / "walk[1].bag")]) == [place / "walk[1].bag"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("gone.bag", "'.*gone.bag' does not exist"),
        ("*.avi", "'.*avi' matches nothing"),
        (None, "no recording is given"),
    ],
)
def test_what_is_not_there_is_said(place: Path, given: str | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        find_recordings([str(place / given)] if given else [])


def test_a_bad_line_of_a_list_is_named(place: Path) -> None:
    (place / "list.txt").write_text("images\ngone.bag\n")
    with pytest.raises(InputError, match=r"list.txt' line 2: recording '.*gone.bag' does not exist"):
        find_recordings([], [str(place / "list.txt")])
    with pytest.raises(InputError, match=r"list '.*none.txt' cannot be read"):
        find_recordings([], [str(place / "none.txt")])


@pytest.mark.parametrize("folder", ["run [1]", "*"])
def test_the_folder_of_a_list_is_no_pattern(place: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / folder).mkdir()
    for name in ("walk.bag", "walk[1].bag", "list.txt"):
        (place / folder / name).touch()
    (place / folder / "list.txt").write_text("w*k.bag\nwalk[1].bag\n../a/*.bag\n")
    expected = [place / folder / "walk.bag", place / folder / "walk[1].bag", place / "a/walk.bag"]
    assert find_recordings([], [str(place / folder / "list.txt")]) == expected
    monkeypatch.chdir(place / folder)
    assert find_recordings([], ["list.txt"]) == expected
    (place / folder / "list.txt").write_text("gone.bag\n")
    with pytest.raises(InputError, match=r"line 1: recording 'gone.bag' does not exist"):
        find_recordings([], ["list.txt"])


def test_the_output_folder_is_no_recording(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matched by a pattern, given by a shell that did the matching, in a list, or by a link."""
    (place / "a/maps").mkdir()
    (place / "a/link").symlink_to(place / "a/maps")
    (place / "list.txt").write_text("a/*\n")
    monkeypatch.chdir(place / "a")
    given = ["*", "maps", "../a/maps/", "link"]
    assert find_recordings(given, ["../list.txt"], str(place / "a/maps")) == [place / "a/walk.bag"]
    assert place / "a/maps" in find_recordings(given, out=str(place / "b/maps"))
    with pytest.raises(InputError, match="no recording is given besides the output folder"):
        find_recordings(["map*"], out="maps")


def test_equal_names_are_told_apart_and_kept(place: Path) -> None:
    asked = [place / "a/walk.bag", place / "b/walk.bag", place / "b/run.mcap", place / "images"]
    assert name_all(asked, {}) == ["a-walk", "b-walk", "run", "images"]
    known = {"walk": Record(str(place / "a/walk.bag"), "", MAPPED)}
    assert name_all(asked, known) == ["walk", "b-walk", "run", "images"]
    assert name_all([place / "b/walk.bag"], known) == ["b-walk"], "another recording's folder is not taken"


def test_names_run_out_of_folders(place: Path) -> None:
    other = place / "walk.mcap"
    everything = {"-".join([*place.parts[1:][at:], "walk"]): Record("other", "", MAPPED) for at in range(20)}
    assert name_all([other], everything) == ["walk-2"]


def test_a_fingerprint_changes_with_every_file(place: Path) -> None:
    before, size = fingerprint(place / "images")
    assert size == 24 and fingerprint(place / "images") == (before, size)
    found = {before}
    (place / "images/3.png").write_bytes(b"more")
    found.add(fingerprint(place / "images")[0])
    os.utime(place / "images/1.png", ns=(0, 10**18))
    found.add(fingerprint(place / "images")[0])
    (place / "rgb.txt").write_text("0.1 images/1.png\n")
    found.add(fingerprint(place / "images")[0])
    (place / "images/1.png").rename(place / "images/4.png")
    found.add(fingerprint(place / "images")[0])
    assert len(found) == 5
    assert fingerprint(place / "a/walk.bag")[1] == 10
    with pytest.raises(InputError, match=r"gone.bag' cannot be read"):
        fingerprint(place / "gone.bag")


def test_results_below_a_recording_are_no_part_of_it(place: Path) -> None:
    before = fingerprint(place / "images", str(place / "images/maps"))
    (place / "images/maps/images").mkdir(parents=True)
    (place / "images/maps/images/map.db").write_bytes(b"x")
    assert fingerprint(place / "images", str(place / "images/maps")) == before != fingerprint(place / "images")


def test_a_request_depends_on_recording_options_and_version() -> None:
    same = request_of("f", {"every": 1, "seed": 0}, "1")
    assert same == request_of("f", {"seed": 0, "every": 1}, "1")
    assert len({same, request_of("g", {"every": 1, "seed": 0}, "1"), request_of("f", {"every": 1, "seed": 0}, "2"),
                request_of("f", {"every": 2, "seed": 0}, "1")}) == 4  # fmt: skip


def test_done_is_what_ended_by_itself_and_is_still_there(tmp_path: Path) -> None:
    job = Job("walk", "/walk", str(tmp_path / "walk"), "r", 1)
    (tmp_path / "walk").mkdir()
    (tmp_path / "walk/map.ply").write_bytes(b"")
    mapped = Record("/walk", "r", MAPPED, warnings=[], files=["map.ply"])
    mapped.write(job.folder)
    assert read_record(job.folder) == mapped and records_in(tmp_path) == {"walk": mapped}
    assert is_done(job, mapped) and is_done(job, replace(mapped, state=EMPTY))
    assert not is_done(job, None)
    for other in (replace(mapped, state=RUNNING), replace(mapped, state=FAILED), replace(mapped, request="other")):
        assert not is_done(job, other)
    (tmp_path / "walk/map.ply").unlink()
    assert not is_done(job, mapped)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"state": "mapped"}', "\x00"])
def test_a_damaged_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    assert read_record(tmp_path) is None
