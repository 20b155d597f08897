"""The file of a growing map where the disk does not do as it should: mapping goes on, and the file catches up."""

from __future__ import annotations

import logging
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sequences import SMALL, walk

from dust3r_ros.errors import OutputError
from dust3r_ros.scenes.sequence import FOCAL_PER_WIDTH
from dust3r_ros.session.session import Session, begin
from dust3r_ros.storage.journal import BEFORE
from dust3r_ros.storage.saved_map import load_map, save_map
from dust3r_ros.types import Frame, TrackingState

FRAMES = (12, 18, 24)  # before the fault, until it ends, after it
CONFIG = replace(SMALL, dense=False, focal=FOCAL_PER_WIDTH * 240)
LOG = logging.getLogger("writer")


def feed(session: Session, first: int, last: int) -> None:
    sequence = walk("orbit")
    for index in range(first, last):
        update = session.process(Frame(int(sequence.stamps_ns[index]), "camera", sequence.images[index]))
    assert update.state is TrackingState.TRACKING


def shown(path: Path) -> list[int]:
    return [keyframe.index for keyframe in load_map(path).keyframes]


def mapped(session: Session) -> list[int]:
    return [keyframe.index for keyframe in session.mapper.keyframes]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """One whose map of some keyframes grows in a file."""
    (tmp_path / "maps").mkdir()
    made = Session(CONFIG, LOG)
    begin(made, CONFIG, map_db=str(tmp_path / "maps/map.db"))
    feed(made, 0, FRAMES[0])
    assert shown(tmp_path / "maps/map.db") == mapped(made)
    return made


@contextmanager
def full(session: Session) -> Iterator[None]:
    """The log of the map cannot grow."""
    with no_room(Path(f"{session.keeper._journal.path}-wal").stat().st_size):  # type: ignore[union-attr]
        yield


@contextmanager
def no_room(size: int = 1000) -> Iterator[None]:
    """No file of this process may become larger than so many bytes; the kernel refuses what goes beyond."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(session: Session) -> Iterator[None]:
    base = session.keeper._journal._base  # type: ignore[union-attr]
    base.execute("PRAGMA query_only = ON")
    yield
    base.execute("PRAGMA query_only = OFF")


@contextmanager
def folder_gone(session: Session) -> Iterator[None]:
    folder = session.keeper._journal.path.parent  # type: ignore[union-attr]
    folder.rename(folder.with_name("elsewhere"))
    yield
    folder.mkdir()


@pytest.mark.parametrize(
    ("fault", "words"),
    [(full, "disk"), (read_only, "readonly"), (folder_gone, "its folder does not exist; create it first")],
)
def test_mapping_goes_on_and_the_file_catches_up(
    fault: Callable[..., object], words: str, session: Session, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, before = tmp_path / "maps/map.db", mapped(session)
    with fault(session):  # type: ignore[attr-defined]
        feed(session, FRAMES[0], FRAMES[1])
        (problem,) = session.keeper.problems
        assert problem.startswith("mapping continues, but the map is not saved: ") and words in problem
        assert caplog.text.count("the map is not saved") == 1, "said once"
        assert len(mapped(session)) > len(before)
        kept = path if path.exists() else tmp_path / "elsewhere/map.db"
        assert shown(kept) == before, "what was there is still whole"
    feed(session, FRAMES[1], FRAMES[2])
    assert session.keeper.problems == () and shown(path) == mapped(session)
    session.close()
    assert shown(path) == mapped(session)


def move(path: Path) -> None:
    path.rename(path.with_name("mine.db"))


def put_another(path: Path) -> None:
    other = Session(CONFIG, LOG)
    feed(other, 0, FRAMES[0])
    save_map(path.with_name("other.db"), other.mapper)
    os.replace(path.with_name("other.db"), path)


@pytest.mark.parametrize("how", [move, put_another, Path.unlink])
def test_a_file_that_is_moved_away_is_written_anew(
    how: Callable[[Path], None], session: Session, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, before = tmp_path / "maps/map.db", mapped(session)
    how(path)
    feed(session, *FRAMES[:2])
    assert f"'{path}' was moved or deleted; the whole map goes to a new file there" in caplog.text
    assert session.keeper.problems == () and shown(path) == mapped(session)
    for name in ("mine.db", f"map.db{BEFORE}"):
        assert not path.with_name(name).exists() or shown(path.with_name(name)) == before
    session.close()
    assert shown(path) == mapped(session)
    again = Session(CONFIG, LOG)
    begin(again, CONFIG, map_db=str(path))
    feed(again, FRAMES[1], FRAMES[2])
    again.close()


def test_a_folder_that_became_a_file_or_leads_nowhere_stops_no_map(session: Session, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    shutil.rmtree(folder)
    folder.symlink_to(folder)
    assert session.keeper.writes(folder / "map.db")
    folder.unlink()
    folder.touch()
    feed(session, *FRAMES[:2])
    assert "the map is not saved" in session.keeper.problems[0]
    session.close()


def test_a_new_map_on_a_full_disk_waits_for_room(session: Session, tmp_path: Path) -> None:
    """The map before is kept; the new one is in the file as soon as it can be."""
    path, before = tmp_path / "maps/map.db", mapped(session)
    with no_room():
        session.reset()
        assert "the map is not saved" in session.keeper.problems[0]
        feed(session, 0, FRAMES[0])
        assert not path.exists() and len(session.keeper.problems) == 1
    feed(session, FRAMES[0], FRAMES[2])
    assert session.keeper.problems == () and shown(path) == mapped(session)
    assert shown(path.with_name(f"map.db{BEFORE}")) == before
    session.close()


def test_a_killed_map_that_is_saved_over_on_a_full_disk_is_whole(session: Session, tmp_path: Path) -> None:
    path, before = tmp_path / "killed.db", mapped(session)
    for suffix in ("", "-wal"):
        shutil.copy(tmp_path / f"maps/map.db{suffix}", f"{path}{suffix}")
    feed(session, FRAMES[0], FRAMES[1])
    with no_room(), pytest.raises(OutputError, match=r"its log 'killed\.db-wal' cannot be merged into it: "):
        save_map(path, session.mapper)
    assert shown(path) == before
    save_map(path, session.mapper)
    assert shown(path) == mapped(session)
    session.close()


@pytest.mark.parametrize("map_start", ["continue", "new"])
def test_a_start_on_a_full_disk_is_refused_and_leaves_the_map(map_start: str, session: Session, tmp_path: Path) -> None:
    path, before = tmp_path / "maps/map.db", mapped(session)
    session.close()
    with no_room(), pytest.raises(OutputError, match=r"map\.db' cannot be written"):
        begin(Session(CONFIG, LOG), CONFIG, map_db=str(path), map_start=map_start)
    (kept,) = path.parent.iterdir()
    assert shown(kept) == before
    again = Session(CONFIG, LOG)
    begin(again, CONFIG, map_db=str(kept))
    feed(again, FRAMES[0], FRAMES[1])
    again.close()
