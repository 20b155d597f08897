"""Joined maps of a fleet, request after request: what stays, what is replaced, what a killed request leaves."""

from __future__ import annotations

import json
import shutil
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from places import CONFIG, write_map
from sequences import cut, walk

from dust3r_ros.fleet.joining import REQUESTS, join_all
from dust3r_ros.fleet.recordings import FAILED, MAPPED, Record, records_in
from dust3r_ros.products import results

AB, CD = ["a", "b"], ["c", "d"]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of two places, each under two names, and their records."""
    out = tmp_path_factory.mktemp("mapped")
    for names, kind in ((AB, "orbit"), (CD, "corridor")):
        path = write_map(cut(walk(kind), 10), out / f"{kind}.db")
        for name in names:
            (out / name).mkdir()
            shutil.copyfile(path, out / name / "map.db")
            Record(f"/bags/{name}", name, MAPPED, files=["map.db"]).write(out / name)
    return out


@pytest.fixture
def out(mapped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(mapped, tmp_path / "out")


def join(out: Path, *names: str) -> list[list[str]]:
    """A request for maps; afterwards, ``records`` and the list of requests are what the folders say."""
    records = records_in(out)
    groups = join_all(out, records, list(names), CONFIG, "1")
    assert listed(out) == joined_in(out) == {name: one.members for name, one in records.items() if one.members}
    return groups


def joined_in(out: Path) -> dict[str, list[str]]:
    return {name: record.members for name, record in records_in(out).items() if record.members}


def listed(out: Path) -> dict[str, list[str]]:
    requests = json.loads((out / REQUESTS).read_text())
    return {folder: members for request in requests for folder, members in request["joined"].items()}


def stamps(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_a_request_replaces_only_what_has_its_own_recordings(out: Path) -> None:
    assert join(out, *AB) == [AB] and join(out, *CD) == [CD]
    assert joined_in(out) == {"joined": AB, "joined-2": CD}
    before = stamps(out)
    assert join(out, *AB) == [AB] and join(out, "d", "c") == [CD]
    assert join(out, *AB, "joined-2") == [AB], "a joined map is no member of another"
    assert stamps(out) == before, "the same requests again"
    assert join(out, *AB, *CD) == [AB, CD] and joined_in(out) == {"joined": AB, "joined-2": CD}
    assert join(out, "a", "c") == [] and joined_in(out) == {}


def test_what_is_left_of_a_request_does_not_answer_it(out: Path) -> None:
    assert join(out, *AB, *CD) == [AB, CD]
    assert join(out, "c") == [] and joined_in(out) == {"joined": AB}
    assert join(out, *AB, *CD) == [AB, CD]


def test_what_joined_nothing_is_remembered_until_its_recordings_are_asked_for(out: Path) -> None:
    assert join(out, "a", "c") == [] and join(out, "d") == []
    before = stamps(out)
    assert join(out, "c", "a") == [] and stamps(out) == before
    assert join(out, *AB) == [AB]
    assert [request["asked"] for request in json.loads((out / REQUESTS).read_text())] == [["d"], AB]


def test_joined_maps_of_recordings_that_fail_now_are_removed(out: Path) -> None:
    assert join(out, *CD) == [CD] and join(out, *AB) == [AB]
    for name in AB:
        Record(f"/bags/{name}", name, FAILED).write(out / name)
    assert join(out, *AB, *CD) == [CD] and joined_in(out) == {"joined": CD}


@pytest.mark.parametrize("written", [0, 1])
def test_what_a_killed_request_left_is_replaced(out: Path, written: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed while it writes the first or the second of two maps."""
    assert join(out, *AB) == [AB]
    write, calls = results.write_results, count()

    def killed(*given: Any, **named: Any) -> dict[str, Any]:
        if next(calls) == written:
            raise KeyboardInterrupt
        return write(*given, **named)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(results, "write_results", killed)
        join(out, *AB, *CD)
    assert listed(out) == {} and len(joined_in(out)) == written
    assert join(out, *AB, *CD) == [AB, CD] and joined_in(out) == {"joined": AB, "joined-2": CD}
