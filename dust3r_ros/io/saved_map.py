"""The saved map: one SQLite file with settings, cameras, keyframes and the pair graph."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dust3r_ros.errors import MapFileError, OutputError
from dust3r_ros.io import map_blobs
from dust3r_ros.io.files import atomic_path
from dust3r_ros.types import Camera, Keyframe

SCHEMA_VERSION = 2  # 1 knew cameras without a lens
APPLICATION_ID = int.from_bytes(b"D3RM", "big")

_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE cameras (name TEXT PRIMARY KEY, width INTEGER NOT NULL, height INTEGER NOT NULL, focal REAL NOT NULL,
    focal_std REAL NOT NULL, support INTEGER NOT NULL, fixed INTEGER NOT NULL,
    offset_x REAL NOT NULL DEFAULT 0, offset_y REAL NOT NULL DEFAULT 0,
    k1 REAL NOT NULL DEFAULT 0, k2 REAL NOT NULL DEFAULT 0, k3 REAL NOT NULL DEFAULT 0);
CREATE TABLE keyframes (number INTEGER PRIMARY KEY, version INTEGER NOT NULL, stamp_ns INTEGER NOT NULL,
    camera TEXT NOT NULL, w_T_c BLOB NOT NULL, focal REAL NOT NULL, height INTEGER NOT NULL, width INTEGER NOT NULL,
    image BLOB NOT NULL, depth BLOB NOT NULL, depth_scale REAL NOT NULL, confidence BLOB NOT NULL);
CREATE TABLE edges (first INTEGER NOT NULL, second INTEGER NOT NULL, weight REAL NOT NULL, PRIMARY KEY (first, second));
"""

# What a map of the schema 1 lacks; it has plain lenses.
_LENS_COLUMNS = ("offset_x", "offset_y", "k1", "k2", "k3")

Edge = tuple[int, int, float]


@dataclass(frozen=True, eq=False)
class MapContents:
    """Everything a saved map holds; keyframes by index, edges (first, second, weight)."""

    settings: Mapping[str, Any]
    cameras: Mapping[str, Camera]
    keyframes: tuple[Keyframe, ...]
    edges: tuple[Edge, ...]


class MapSource(Protocol):
    """What ``save_map`` needs of a mapper."""

    @property
    def keyframes(self) -> tuple[Keyframe, ...]: ...
    @property
    def cameras(self) -> dict[str, Camera]: ...
    @property
    def edges(self) -> list[Edge]: ...


def save_map(path: str | Path, source: MapSource, settings: Mapping[str, Any] | None = None) -> None:
    """Write a whole map; the file appears when it is complete. Raises ``OutputError``."""
    with atomic_path(path) as temporary, SavedMap(temporary, write=True) as saved:
        saved.write_settings(settings or {})
        saved.write_cameras(source.cameras.values())
        saved.write_keyframes(source.keyframes)
        known = {keyframe.index for keyframe in source.keyframes}
        saved.write_edges(edge for edge in source.edges if {edge[0], edge[1]} <= known)


def load_map(path: str | Path) -> MapContents:
    """Read a whole map. Raises ``MapFileError`` when it is missing, newer, damaged or not a map."""
    with SavedMap(path) as saved:
        return saved.read()


class SavedMap:
    """A map file, open in ``with``; ``write`` makes it when missing and lets it grow keyframe by keyframe.

    Every ``write_*`` is one transaction: after a crash the file holds the last one that returned.
    Closed, a map is one file.
    """

    def __init__(self, path: str | Path, *, write: bool = False) -> None:
        self._path = Path(path)
        self._write = write
        if not write and not self._path.is_file():
            raise MapFileError(f"map '{path}' does not exist; give a map.db")
        mode = "rwc" if write else "ro"
        try:
            self._base = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None)
        except sqlite3.Error as error:
            raise (OutputError if write else MapFileError)(f"map '{path}' cannot be opened: {error}") from error
        try:
            self._prepare()
        except BaseException:
            self._base.close()
            raise

    def __enter__(self) -> SavedMap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Fold the journal into the file and close it."""
        try:
            if self._write:
                self._base.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as error:
            raise OutputError(f"map '{self._path}' cannot be written: {error}") from error
        finally:
            self._base.close()

    def _prepare(self) -> None:
        with self._errors():
            version = self._number("user_version")
            application = self._number("application_id")
            if self._write and not version and not self._number("schema_version"):
                self._base.executescript(
                    f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; "
                    f"PRAGMA application_id = {APPLICATION_ID}; COMMIT;"
                )
            elif application != APPLICATION_ID:
                raise MapFileError(f"'{self._path}' is a database, but no map of this program; give a map.db")
            elif version > SCHEMA_VERSION:
                raise MapFileError(
                    f"map '{self._path}' has the schema {version} of a newer version of this program; "
                    f"schemas up to {SCHEMA_VERSION} are read"
                )
            elif self._write and version < SCHEMA_VERSION:
                columns = "; ".join(f"ALTER TABLE cameras ADD {c} REAL NOT NULL DEFAULT 0" for c in _LENS_COLUMNS)
                self._base.executescript(f"BEGIN; {columns}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
            if self._write:
                self._base.execute("PRAGMA journal_mode = WAL")

    def _number(self, pragma: str) -> int:
        return int(self._base.execute(f"PRAGMA {pragma}").fetchone()[0])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if self._write and isinstance(error, (sqlite3.OperationalError, sqlite3.IntegrityError)):
                raise OutputError(f"map '{self._path}' cannot be written: {error}") from error
            raise MapFileError(f"'{self._path}' is damaged or no map: {error}; give a whole map.db") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Add or replace settings; values must be JSON."""
        rows = [(name, json.dumps(value)) for name, value in settings.items()]
        with self._transaction() as base:
            base.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)

    def write_cameras(self, cameras: Iterable[Camera]) -> None:
        """Add or replace cameras."""
        rows = [_camera_row(camera) for camera in cameras]
        with self._transaction() as base:
            base.executemany(f"INSERT OR REPLACE INTO cameras VALUES ({', '.join('?' * 12)})", rows)

    def write_keyframes(self, keyframes: Iterable[Keyframe]) -> None:
        """Add keyframes; one that is there already gives way to one of its version or a later one."""
        sets = "version=excluded.version, stamp_ns=excluded.stamp_ns, camera=excluded.camera, w_T_c=excluded.w_T_c, "
        sets += "focal=excluded.focal, height=excluded.height, width=excluded.width, image=excluded.image, "
        sets += "depth=excluded.depth, depth_scale=excluded.depth_scale, confidence=excluded.confidence"
        statement = (
            f"INSERT INTO keyframes VALUES ({', '.join('?' * 12)}) "
            f"ON CONFLICT (number) DO UPDATE SET {sets} WHERE excluded.version >= keyframes.version"
        )
        with self._transaction() as base:
            for keyframe in keyframes:
                base.execute(statement, _keyframe_row(keyframe))

    def remove_keyframes(self, indices: Iterable[int]) -> None:
        """Take keyframes and their edges out; unknown indices are ignored."""
        with self._transaction() as base:
            for index in indices:
                base.execute("DELETE FROM keyframes WHERE number = ?", (int(index),))
                base.execute("DELETE FROM edges WHERE first = ?1 OR second = ?1", (int(index),))

    def write_edges(self, edges: Iterable[Edge]) -> None:
        """Replace the pair graph."""
        rows = [(int(first), int(second), float(weight)) for first, second, weight in edges]
        with self._transaction() as base:
            base.execute("DELETE FROM edges")
            base.executemany("INSERT OR REPLACE INTO edges VALUES (?, ?, ?)", rows)

    def read(self) -> MapContents:
        """Everything. Raises ``MapFileError`` for what is damaged."""
        with self._errors():
            try:
                settings = {name: json.loads(value) for name, value in self._base.execute("SELECT * FROM settings")}
                cameras = [_camera(row) for row in self._base.execute("SELECT * FROM cameras")]
                rows = self._base.execute("SELECT * FROM keyframes ORDER BY number")
                keyframes = tuple(self._keyframe(row) for row in rows)
                edges = tuple(self._base.execute("SELECT first, second, weight FROM edges ORDER BY first, second"))
            except ValueError as error:
                raise MapFileError(f"map '{self._path}' is damaged: {error}") from error
        known = {keyframe.index for keyframe in keyframes}
        for first, second, _ in edges:
            if not {first, second} <= known:
                raise MapFileError(f"map '{self._path}' is damaged: a pair ({first}, {second}) lacks its keyframe")
        return MapContents(settings, {camera.name: camera for camera in cameras}, keyframes, edges)

    def _keyframe(self, row: tuple[Any, ...]) -> Keyframe:
        number, version, stamp_ns, camera, pose, focal, height, width, image, depth, scale, confidence = row
        try:
            return Keyframe(
                number,
                version,
                stamp_ns,
                camera,
                map_blobs.unpack_pose(pose),
                focal,
                map_blobs.unpack_image(image, height, width),
                map_blobs.unpack_map(depth, height, width, scale),
                map_blobs.unpack_map(confidence, height, width),
            )
        except (ValueError, TypeError) as error:
            raise MapFileError(f"map '{self._path}' is damaged at keyframe {number}: {error}") from error


def _camera_row(c: Camera) -> tuple[Any, ...]:
    lens = (float(value) for value in (*c.principal_offset, *c.distortion))
    return c.name, int(c.width), int(c.height), float(c.focal), float(c.focal_std), int(c.support), int(c.fixed), *lens


def _camera(row: tuple[Any, ...]) -> Camera:
    name, width, height, focal, focal_std, support, fixed, *lens = row
    x, y, k1, k2, k3 = lens or [0.0] * len(_LENS_COLUMNS)
    return Camera(name, width, height, focal, focal_std, support, bool(fixed), (x, y), (k1, k2, k3))


def _keyframe_row(k: Keyframe) -> tuple[Any, ...]:
    height, width = k.depth.shape
    scale = map_blobs.depth_scale(k.depth)
    return (
        int(k.index), int(k.version), int(k.stamp_ns), k.camera, map_blobs.pack_pose(k.w_T_c), float(k.focal), height,
        width, map_blobs.pack_image(k.image), map_blobs.pack_map(k.depth, scale), scale,
        map_blobs.pack_map(k.confidence),
    )  # fmt: skip
