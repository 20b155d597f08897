"""Writes a map as it grows: each change is one transaction of an SQLite file with a single writer."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dust3r_ros.errors import OutputError
from dust3r_ros.io.files import FileLock, atomic_path, followed, output_error
from dust3r_ros.mapping.map_view import LiveMap
from dust3r_ros.storage import rows
from dust3r_ros.storage.changes import Changes, Written
from dust3r_ros.types import Camera, Keyframe

_MERGE = "PRAGMA journal_mode = DELETE"
_PATIENCE_MS = 2000  # of a map that is closed, with those who read it
BEFORE = ".before"  # suffix for an existing file that is replaced by a new map


class MapJournal:
    """Keeps a file equal to a map: the file of a killed process has everything it had reported.

    Uses a write-ahead log (WAL) with ``synchronous = NORMAL``: a killed process loses at most the update in flight; a
    power failure may lose the last few updates, but never the file. Others may read the file meanwhile. A keyframe
    costs its own data and what it moved, whatever the size of the map; a frame that changes nothing costs one row.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Mapping[str, Any] | None = None,
        *,
        fresh: bool = True,
        at_once: bool = False,
    ) -> None:
        """Start a file or, if not ``fresh``, continue the one from which the mapper was resumed.

        ``at_once``: nobody needs it before it is closed, and who wants it on the disk sees to that; without a log, it
        takes half the space until then.
        An existing file that is not continued is renamed, with ``BEFORE`` appended. Raises ``OutputError``, also if
        another process writes the file, and ``MapFileError`` for a file that cannot be continued.
        """
        self._path = followed(path)  # its log and its lock lie beside the file that a link leads to
        self._written = Written()
        self._lock = FileLock(self._path)
        self._base: sqlite3.Connection | None = None
        self._adopted: tuple[str, int] | None = None
        try:
            if fresh:
                _set_aside(self._path)
                clear(self._path)
            with rows.writing(self._path):
                self._open(fresh, ("MEMORY", "OFF") if at_once else ("WAL", "NORMAL"))
            self.write_settings(settings or {})
        except BaseException:
            self._abandon()
            raise

    def _open(self, fresh: bool, modes: tuple[str, str]) -> None:
        if fresh:
            self._written.state = _begin(self._path)
        self._base = base = rows.connect(self._path, "rw")
        self._file = os.stat(self._path)
        base.execute(f"PRAGMA journal_mode = {modes[0]}")
        base.execute(f"PRAGMA synchronous = {modes[1]}")
        if fresh:
            rows.seal_writes(base)
            return
        rows.check(base, self._path)
        rows.seal_writes(base)
        self._written.adopt(base)
        self._adopted = self._written.state.get("lineage", ""), self._written.state.get("changes", 0)

    def __enter__(self) -> MapJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The path of the file, which links lead to."""
        return self._path

    @property
    def moved(self) -> bool:
        """Whether the file was moved or deleted: its path names none, or another one."""
        try:
            return not os.path.samestat(self._file, os.stat(self._path))
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # writing will say why
            return False

    def update(self, live: LiveMap, settings: Mapping[str, Any] | None = None) -> None:
        """Write what changed since the last call, as one transaction; the mapper may be another one than before.

        Changed ``settings`` (JSON values) are written with it, so that they match this state of the map.

        Raises ``OutputError`` if that fails, and leaves the file unchanged; the next call tries again.
        """
        if self._base is None:
            raise OutputError(f"map '{self._path}' is closed already")
        if self._adopted is not None and self._adopted != live.atlas.origin:
            raise OutputError(
                f"map '{self._path}' is not the one that was loaded, or has changed since; load it to continue it"
            )
        changes = Changes(self._base, self._written, live, settings)
        if not changes.any:
            return
        with rows.writing(self._path):
            self._base.execute("BEGIN IMMEDIATE")
            try:
                written = changes.write()
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise
        self._written, self._adopted = written, None

    def write_products(
        self, keyframes: Iterable[Keyframe], cameras: Iterable[Camera], edges: Iterable[tuple[int, int, float]]
    ) -> None:
        """Write just the products of a map: keyframes, cameras and edges. Raises ``OutputError``."""
        if self._base is None:
            raise OutputError(f"map '{self._path}' is closed already")
        with rows.writing(self._path):
            known = set()
            for keyframe in keyframes:
                known.add(keyframe.index)
                for table, row in zip(("keyframes", "images", "depths"), rows.product_rows(keyframe), strict=True):
                    rows.put(self._base, table, row)
            cameras = tuple(cameras)
            for place, camera in enumerate(cameras):
                rows.put(self._base, "cameras", rows.camera_row(camera, place))
            rows.put(self._base, "state", {"name": "readouts", "value": json.dumps(rows.readouts(cameras))})
            found = [(int(a), int(b), float(weight)) for a, b, weight in edges if {a, b} <= known]
            self._base.executemany("INSERT OR REPLACE INTO edges VALUES (?, ?, ?)", found)

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Add or replace settings; values must be JSON. Raises ``OutputError``."""
        if self._base is None:
            raise OutputError(f"map '{self._path}' is closed already")
        found = {name: json.dumps(value) for name, value in settings.items()}
        with rows.writing(self._path):
            self._base.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", list(found.items()))
        self._written.settings |= found

    def close(self) -> None:
        """Merge the write-ahead log into the file. Raises ``OutputError``; the journal is closed in any case."""
        if self._base is None:
            return
        try:
            with rows.writing(self._path):
                self._base.execute(_MERGE)
        except OutputError as error:
            if "locked" in str(error):
                self._merge_beside_readers()
            elif not self.moved:  # a moved file stays in WAL mode
                raise
        finally:
            self._abandon()

    def _merge_beside_readers(self) -> None:
        """Wait for who reads the file; it is complete with its log, which goes as far into it as readers let it."""
        assert self._base is not None
        with contextlib.suppress(sqlite3.Error):
            self._base.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
            self._base.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
            self._base.execute(_MERGE)

    def _abandon(self) -> None:
        base, self._base = self._base, None
        if base is not None:
            base.close()
        self._lock.release()


def _begin(path: Path) -> dict[str, Any]:
    """Create all tables in a file; returns its state."""
    state = {"lineage": uuid.uuid4().hex, "changes": 0}
    with atomic_path(path) as temporary:
        base = rows.connect(temporary, "rw")
        try:
            rows.create(base)
            rows.seal_writes(base)
            found = [(name, json.dumps(value)) for name, value in state.items()]
            base.executemany("INSERT INTO state VALUES (?, ?)", found)
        finally:
            base.close()
    return state


def clear(path: Path) -> None:
    """Prepare ``path`` to become another file, for who holds its lock: what a killed writer left is dealt with.

    SQLite would take its log for that of the new file. The log is merged into its file; if that is gone, it is renamed,
    with ``BEFORE`` appended. Unfinished files are removed. Raises ``OutputError``.
    """
    reason, log = _merge_log(path), _beside(path, "-wal")
    if reason:
        raise OutputError(f"'{path}' cannot be replaced: its log '{log.name}' cannot be merged into it: {reason}")
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    unfinished = re.compile(rf"\.{{1,2}}{stem}(-\w{{8}}){{1,2}}{suffix}(-wal|-shm|-lock)?")
    try:
        if log.is_file() and not path.is_file():
            log.replace(_beside(log, BEFORE))
        _remove_logs(path)
        for found in list(path.parent.iterdir()):
            if unfinished.fullmatch(found.name):
                found.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def _set_aside(path: Path) -> None:
    """Rename an existing file, with its log where that cannot be merged: the disk is full, or somebody reads it."""
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder; it must be a file")
    if not path.exists():
        return
    if not path.is_file():
        raise OutputError(f"'{path}' is a device or a pipe; it must be a file")
    _merge_log(path)
    aside, log = _beside(path, BEFORE), _beside(path, "-wal")
    try:
        _remove_logs(aside)
        path.replace(aside)
        if log.is_file():
            log.replace(_beside(aside, "-wal"))
    except OSError as error:
        raise output_error(path, error) from error


def _merge_log(path: Path) -> str:
    """Merge the log of a file into it; returns "", or why it still has changes that the file lacks."""
    if not (path.is_file() and (_beside(path, "-wal").is_file() or _beside(path, "-journal").is_file())):
        return ""
    try:
        with contextlib.closing(rows.connect(path, "rw")) as base:
            try:
                base.execute(_MERGE)
                return ""
            except sqlite3.OperationalError:  # somebody reads it
                _, changed, merged = base.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                return "" if changed == merged else "somebody reads it"
    except sqlite3.Error as error:
        return "" if "not a database" in str(error) else str(error)


def _remove_logs(path: Path) -> None:
    for suffix in ("-wal", "-shm", "-journal"):
        _beside(path, suffix).unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
