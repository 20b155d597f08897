"""What a killed writer leaves beside a map is not taken for a part of another one."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from growing import DENSE, grow
from sequences import walk

from dust3r_ros.errors import MapFileError, OutputError
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.storage.journal import BEFORE, MapJournal, clear
from dust3r_ros.storage.loading import reading
from dust3r_ros.storage.saved_map import load_map, save_map


@pytest.fixture(scope="module")
def mapper() -> Mapper:
    """A larger map than the killed one."""
    sequence = walk("orbit", 16)
    made = Mapper(replace(DENSE, dense=False, focal=sequence.focal))
    grow(made, None, sequence, range(16))
    return made


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A map as a killed process leaves it: three keyframes, the last of them in the log alone."""
    sequence = walk("orbit", 16)
    made = Mapper(replace(DENSE, dense=False, focal=sequence.focal))
    (tmp_path / "run").mkdir()
    with MapJournal(tmp_path / "run/map.db") as journal:
        grow(made, journal, sequence, range(6))
        for name in ("map.db", "map.db-wal"):
            shutil.copy(tmp_path / "run" / name, tmp_path / name)
        assert len(load_map(tmp_path / "run/map.db").keyframes) == 3
    (tmp_path / "map.db-lock").touch()
    return tmp_path / "map.db"


def count(path: Path) -> int:
    return len(load_map(path).keyframes)


def test_a_map_saved_in_its_place_is_the_one_saved(killed: Path, mapper: Mapper) -> None:
    save_map(killed, mapper)
    assert count(killed) == len(mapper.keyframes) > 3
    assert sorted(path.name for path in killed.parent.iterdir()) == ["map.db", "run"]


def test_a_map_saved_where_it_was_moved_from(killed: Path, mapper: Mapper) -> None:
    killed.rename(killed.with_name("mine.db"))
    with MapJournal(killed) as journal:
        journal.update(mapper.live)
        assert count(killed) == len(mapper.keyframes)
    killed.with_name("map.db-wal" + BEFORE).rename(killed.with_name("mine.db-wal"))
    assert count(killed.with_name("mine.db")) == 3, "who moved it without its log finds that, too"


def test_what_somebody_reads_is_kept(killed: Path, mapper: Mapper) -> None:
    with reading(killed) as base:
        assert len(base.execute("SELECT number FROM keyframes").fetchall()) == 3
        with MapJournal(killed) as journal:
            journal.update(mapper.live)
        assert len(base.execute("SELECT number FROM images").fetchall()) == 3
    assert (count(killed), count(killed.with_name("map.db" + BEFORE))) == (len(mapper.keyframes), 3)


def test_a_change_that_was_not_finished_is_undone(tmp_path: Path, mapper: Mapper) -> None:
    """As a kill leaves it while the log is merged: pages are written already, the old ones lie beside."""
    save_map(tmp_path / "whole.db", mapper)
    base = sqlite3.connect(tmp_path / "whole.db", isolation_level=None)
    base.execute("PRAGMA cache_size = 1")
    base.execute("BEGIN")
    base.execute("UPDATE images SET image = zeroblob(length(image))")
    for suffix in ("", "-journal"):
        shutil.copy(tmp_path / f"whole.db{suffix}", tmp_path / f"map.db{suffix}")
    base.execute("ROLLBACK")
    base.close()
    assert count(tmp_path / "map.db") == len(mapper.keyframes)
    assert sorted(os.listdir(tmp_path)) == ["map.db", "whole.db"]


def test_a_map_behind_a_link(tmp_path: Path, mapper: Mapper) -> None:
    (tmp_path / "disk").mkdir()
    link, file = tmp_path / "map.db", tmp_path / "disk/map.db"
    link.symlink_to("disk/map.db")  # where nothing is yet
    with MapJournal(link) as journal:
        journal.update(mapper.live)
        for other in (link, file):
            with pytest.raises(OutputError, match="being written"):
                save_map(other, mapper)
        shutil.copy(f"{file}-wal", tmp_path / "wal")
    shutil.copy(tmp_path / "wal", f"{file}-wal")  # as a killed writer leaves it
    save_map(link, mapper)
    assert count(link) == len(mapper.keyframes) and os.listdir(file.parent) == ["map.db"]
    with MapJournal(link) as journal:
        assert not journal.moved and sorted(os.listdir(tmp_path)) == ["disk", "map.db", "wal"]
    assert link.is_symlink() and (count(file), count(Path(f"{file}{BEFORE}"))) == (0, len(mapper.keyframes))


def test_a_map_that_is_closed_while_somebody_reads_it_is_whole(tmp_path: Path, mapper: Mapper) -> None:
    path = tmp_path / "map.db"
    with MapJournal(path) as journal:
        journal.update(mapper.live)
        base = sqlite3.connect(path, isolation_level=None)
        base.execute("BEGIN")
        base.execute("SELECT count(*) FROM keyframes").fetchone()
    shutil.copy(path, tmp_path / "copy.db")
    base.close()
    assert count(tmp_path / "copy.db") == len(mapper.keyframes)


def test_readers_finish_before_a_map_is_closed(tmp_path: Path, mapper: Mapper, monkeypatch) -> None:
    """Also one that sees an older state, of which the log cannot be merged any further."""
    path = tmp_path / "map.db"
    with MapJournal(path) as journal:
        base = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
        base.execute("BEGIN")
        base.execute("SELECT count(*) FROM keyframes").fetchone()
        journal.update(mapper.live)
        reader = threading.Timer(0.3, base.close)
        reader.start()
    reader.join()
    assert os.listdir(tmp_path) == ["map.db"] and count(path) == len(mapper.keyframes)


def test_a_map_is_read_where_nothing_can_be_written(killed: Path, tmp_path: Path) -> None:
    """SQLite's memory shared with writers, which it creates beside a map that was moved or copied while it grew."""
    (tmp_path / "map.db-shm").symlink_to("nowhere")
    with pytest.raises(MapFileError, match=r"cannot be opened: .*; with 'map\.db-wal' it can only be read in a folder"):
        count(killed)
    (tmp_path / "map.db-shm").unlink()
    assert count(killed) == 3
    with closing(sqlite3.connect(killed)) as base:
        base.execute("PRAGMA wal_checkpoint")
        (tmp_path / "alone").mkdir()
        shutil.copy(killed, tmp_path / "alone/map.db")
    (tmp_path / "alone/map.db-shm").symlink_to("nowhere")
    assert count(tmp_path / "alone/map.db") == 3


def test_unfinished_files_of_this_map_go_and_no_others(tmp_path: Path) -> None:
    mine = [".map-abcd_123.db", ".map-abcd_123.db-wal", ".map-abcd_123.db-lock", "..map-abcd_123-12345678.db"]
    others = [".map-2-abcd_123.db", ".map-abcd_123.ply", ".map.db", "map-abcd_123.db", ".map-abc.db"]
    for name in (*mine, *others):
        (tmp_path / name).touch()
    clear(tmp_path / "map.db")
    assert sorted(os.listdir(tmp_path)) == sorted(others)
