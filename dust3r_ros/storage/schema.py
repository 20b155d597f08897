"""The tables of a saved map, and what to do with those of other versions.

Schema 1 knew cameras without a lens, schema 2 the products of a map only (images, depth, poses), so that
such maps can be shown and not continued. What is large and stays (``images``) lies apart from what is small
and moves (``keyframes``): a row is always written as a whole.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dust3r_ros.errors import MapFileError, OutputError

SCHEMA_VERSION = 3
APPLICATION_ID = int.from_bytes(b"D3RM", "big")

SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE cameras (name TEXT PRIMARY KEY, place INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
    focal REAL NOT NULL, focal_std REAL NOT NULL, support INTEGER NOT NULL, fixed INTEGER NOT NULL,
    offset_x REAL NOT NULL, offset_y REAL NOT NULL, k1 REAL NOT NULL, k2 REAL NOT NULL, k3 REAL NOT NULL,
    given REAL NOT NULL, given_std REAL NOT NULL, told REAL NOT NULL, told_std REAL NOT NULL);
CREATE TABLE maps (id INTEGER PRIMARY KEY, place INTEGER NOT NULL, kind TEXT NOT NULL, landmarks INTEGER NOT NULL,
    facts TEXT NOT NULL, focals TEXT NOT NULL, likeness BLOB NOT NULL);
CREATE TABLE keyframes (number INTEGER PRIMARY KEY, map INTEGER NOT NULL, place INTEGER NOT NULL,
    version INTEGER NOT NULL, stamp_ns INTEGER NOT NULL, camera TEXT NOT NULL, w_T_c BLOB, w_S BLOB, focal REAL,
    lens TEXT, depth_scale REAL NOT NULL, moving BLOB);
CREATE TABLE images (number INTEGER PRIMARY KEY, height INTEGER NOT NULL, width INTEGER NOT NULL, masked BLOB,
    features BLOB, corners BLOB, look BLOB, descriptors BLOB, image BLOB NOT NULL);
CREATE TABLE depths (number INTEGER PRIMARY KEY, depth BLOB NOT NULL, confidence BLOB NOT NULL);
CREATE TABLE sights (number INTEGER PRIMARY KEY, first_id INTEGER NOT NULL, feature_ids BLOB NOT NULL,
    ids BLOB NOT NULL, offsets BLOB NOT NULL);
CREATE TABLE sight_states (number INTEGER PRIMARY KEY, seen BLOB NOT NULL, pruned BLOB NOT NULL);
CREATE TABLE samples (number INTEGER PRIMARY KEY, sample BLOB NOT NULL);
CREATE TABLE edges (first INTEGER NOT NULL, second INTEGER NOT NULL, weight REAL NOT NULL,
    PRIMARY KEY (first, second)) WITHOUT ROWID;
CREATE TABLE pairs (first INTEGER NOT NULL, second INTEGER NOT NULL, second_T_first BLOB NOT NULL,
    cameras TEXT NOT NULL, PRIMARY KEY (first, second)) WITHOUT ROWID;
CREATE TABLE moments (map INTEGER NOT NULL, edge INTEGER NOT NULL, first INTEGER NOT NULL, second INTEGER NOT NULL,
    loop INTEGER NOT NULL, counts INTEGER NOT NULL, numbers BLOB NOT NULL, PRIMARY KEY (map, edge)) WITHOUT ROWID;
CREATE TABLE aliases (map INTEGER NOT NULL, chunk INTEGER NOT NULL, ids BLOB NOT NULL,
    PRIMARY KEY (map, chunk)) WITHOUT ROWID;
CREATE TABLE frames (map INTEGER NOT NULL, place INTEGER NOT NULL, session INTEGER NOT NULL, stamp_ns INTEGER NOT NULL,
    camera TEXT NOT NULL, keyframe INTEGER NOT NULL, keyframe_T_frame BLOB, unit REAL,
    PRIMARY KEY (map, place)) WITHOUT ROWID;
"""

# Tables with one row per keyframe
OF_KEYFRAMES = ("keyframes", "images", "depths", "sights", "sight_states", "samples")
OF_MAPS = ("moments", "aliases", "frames")


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a file with SQLite's ``mode``: ro or rwc. Raises ``sqlite3.Error``."""
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
    )


def number(base: sqlite3.Connection, pragma: str) -> int:
    """The value of a pragma."""
    return int(base.execute(f"PRAGMA {pragma}").fetchone()[0])


def create(base: sqlite3.Connection) -> None:
    """Make all tables in an empty file."""
    base.executescript(
        f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; PRAGMA application_id = {APPLICATION_ID}; COMMIT;"
    )


def check(base: sqlite3.Connection, path: Path) -> int:
    """The schema of a map; raises ``MapFileError`` where it is none of these."""
    if number(base, "application_id") != APPLICATION_ID:
        raise MapFileError(f"'{path}' is a database, but no map of this program; give a map.db")
    version = number(base, "user_version")
    if not 1 <= version <= SCHEMA_VERSION:
        raise MapFileError(
            f"map '{path}' has the schema {version} of a newer version of this program; "
            f"schemas up to {SCHEMA_VERSION} are read"
        )
    return version


@contextmanager
def reading(path: str | Path) -> Iterator[tuple[sqlite3.Connection, int]]:
    """A map open for reading, at one moment of its growth, and its schema. Raises ``MapFileError``."""
    path = Path(path)
    if not path.is_file():
        raise MapFileError(f"map '{path}' does not exist; give a map.db")
    try:
        base = connect(path, "ro")
    except sqlite3.Error as error:
        raise MapFileError(f"map '{path}' cannot be opened: {error}") from error
    try:
        base.execute("BEGIN")
        yield base, check(base, path)
    except sqlite3.Error as error:
        raise MapFileError(f"'{path}' is damaged or no map: {error}; give a whole map.db") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise MapFileError(f"map '{path}' is damaged: {error}") from error
    finally:
        base.close()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what SQLite says while a map is written into ``OutputError``."""
    try:
        yield
    except sqlite3.Error as error:
        raise OutputError(f"map '{path}' cannot be written: {error}") from error
