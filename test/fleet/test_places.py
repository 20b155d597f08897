"""Recordings and results at addresses, as at paths."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dust3r_ros.errors import ConfigError, InputError, OutputError
from dust3r_ros.fleet import places
from dust3r_ros.fleet.recordings import (
    MAPPED,
    RECORD,
    Job,
    Record,
    find_recordings,
    fingerprint,
    is_done,
    name_all,
    read_record,
    records_in,
)

fsspec = pytest.importorskip("fsspec", reason="fsspec (extra fleet) is not installed")


@pytest.fixture
def store() -> str:
    """Two bags and a folder of images in a store without folders or files of this machine."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    for name in ("bags/a/walk.mcap", "bags/b/walk.mcap", "images/1.png", "images/2.png"):
        system.pipe_file(f"/{name}", name.encode())
    return "memory://"


def test_what_is_an_address() -> None:
    assert all(map(places.is_address, ("s3://bucket/bags", "file:///bags", "memory://x", "gs://b/*.bag")))
    assert not any(map(places.is_address, ("/bags", "bags/a:b", "C:/bags", "walk.bag", "./s3:/x")))
    assert places.joined("s3://bucket/out/", "walk") == "s3://bucket/out/walk"
    assert places.joined("/out", "walk") == "/out/walk"


def test_addresses_patterns_and_lists(store: str, tmp_path: Path) -> None:
    (tmp_path / "walk.bag").write_bytes(b"")
    (tmp_path / "list.txt").write_text(f"walk.bag\n{store}images/\n")
    found = find_recordings([f"{store}bags/*/walk.mcap"], [str(tmp_path / "list.txt")])
    assert found == ["memory:///bags/a/walk.mcap", "memory:///bags/b/walk.mcap", tmp_path / "walk.bag",
                     "memory:///images"]  # fmt: skip
    assert name_all(found, {}) == ["a-walk", "b-walk", f"{tmp_path.name}-walk", "images"]
    with pytest.raises(InputError, match=r"there is nothing at 'memory://gone.bag'"):
        find_recordings([f"{store}gone.bag"])


def test_an_output_folder_at_an_address_is_no_recording(store: str) -> None:
    places.write_text(f"{store}bags/maps/index.csv", "")
    assert len(find_recordings([f"{store}bags/*"])) == 3
    for out in (f"{store}bags/maps", f"{store}/bags/maps/"):
        assert find_recordings([f"{store}bags/*"], out=out) == ["memory:///bags/a", "memory:///bags/b"]


def test_a_fingerprint_is_of_all_files(store: str) -> None:
    system = fsspec.filesystem("memory")
    before = fingerprint(f"{store}images")
    assert before == fingerprint(f"{store}images") and before[1] == 24
    system.pipe_file("/images/2.png", b"images/3.png")  # of the same size
    after = fingerprint(f"{store}images")
    assert after != before and after[1] == 24
    assert fingerprint(f"{store}bags/a/walk.mcap")[1] == 16


def test_records_are_kept_and_what_is_done_is_known(store: str) -> None:
    job = Job("walk", f"{store}bags/a/walk.mcap", f"{store}out/walk", "request", 1)
    record = Record(job.recording, "request", MAPPED, warnings=[], files=["map.ply"])
    assert read_record(job.folder) is None and records_in(f"{store}out") == {}
    record.write(job.folder)
    assert records_in(f"{store}out") == {"walk": record} == {"walk": read_record(job.folder)}
    assert not is_done(job, record), "a file that it lists is missing"
    places.write_text(f"{store}out/walk/map.ply", "points")
    assert is_done(job, record)
    places.remove(places.joined(job.folder, RECORD))
    places.remove(places.joined(job.folder, RECORD))
    assert read_record(job.folder) is None


def test_a_recording_is_brought_here_and_files_back(store: str) -> None:
    for recording, names in ((f"{store}images", ["1.png", "2.png"]), (f"{store}bags/a/walk.mcap", None)):
        with places.staged(recording, f"{store}out/one") as (here, folder):
            found = Path(here)
            assert found.name == places.name_of(recording)
            assert [path.name for path in sorted(found.iterdir())] == names if names else found.stat().st_size == 16
            (Path(folder) / "map.ply").write_text(found.name)
        assert not found.exists() and not Path(folder).exists()
        assert places.files_below(f"{store}out/one") == {"map.ply"}
        assert places.read_text(f"{store}out/one/map.ply") == found.name
    gone = pytest.raises(InputError, match="'memory://gone' cannot be read: FileNotFoundError")
    with gone, places.staged("memory://gone", "/out"):
        pass


def test_paths_stay_where_they_are(tmp_path: Path) -> None:
    with places.staged("/recordings/one", str(tmp_path)) as here:
        assert here == ("/recordings/one", str(tmp_path))


def test_what_cannot_be_used_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="address 'nothing://x' cannot be used: Protocol not known"):
        find_recordings(["nothing://x"])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        places.write_text(f"file://{tmp_path}/file/out.txt", "")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ConfigError, match=r"address 's3://bucket/x' needs fsspec; install the extra 'fleet'"):
        find_recordings(["s3://bucket/x"])
