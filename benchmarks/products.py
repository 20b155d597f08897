"""The products of a run that do not depend on the machine, compared byte for byte or by digests."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

# Nothing that has times or the writer's name in it.
_FILES = ("trajectory.txt", "keyframes.txt", "cameras.yaml", "map.ply")
_MAP = "map.db"
_OWN = ("settings", "seals")  # tables


def differences(first: Path, second: Path) -> list[str]:
    """Files, and tables of map.db, that are not the same in two folders of results."""
    return differing(digests(first), digests(second))


def differing(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Names of products whose digests differ, or that only one side has."""
    return [name for name in {**first, **second} if first.get(name) != second.get(name)]


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """The rows of every table of a map file, sorted, without its settings, its random name and their checksums."""
    base = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        names = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: sorted(base.execute(f"SELECT * FROM {name}"), key=repr) for name in names if name not in _OWN}
        rows["state"] = [row for row in rows["state"] if row[0] != "lineage"]
        return rows
    finally:
        base.close()


def digests(folder: Path) -> dict[str, str]:
    """Of each product and each table of the map in a folder of results."""
    tables = contents(folder / _MAP)
    files = {name: digest((folder / name).read_bytes()) for name in _FILES}
    return files | {f"{_MAP}: {name}": digest(repr(rows).encode()) for name, rows in sorted(tables.items())}


def digest(data: bytes) -> str:
    """A digest of the content."""
    return hashlib.sha256(data).hexdigest()[:16]
