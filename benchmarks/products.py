"""What a run leaves that holds nothing of the machine: compared byte for byte, or told by digests."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

# Nothing with seconds in it, nor with the name of who wrote it.
_FILES = ("trajectory.txt", "keyframes.txt", "cameras.yaml", "map.ply")
_MAP = "map.db"


def differences(first: Path, second: Path) -> list[str]:
    """Files, and tables of map.db, that are not the same in two folders of results."""
    found = [name for name in _FILES if (first / name).read_bytes() != (second / name).read_bytes()]
    one, other = contents(first / _MAP), contents(second / _MAP)
    return found + [f"{_MAP}: {table}" for table in sorted(one | other) if one.get(table) != other.get(table)]


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """The rows of every table of a map file, sorted, but for its settings and its own random name."""
    base = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        names = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: sorted(base.execute(f"SELECT * FROM {name}"), key=repr) for name in names if name != "settings"}
        rows["state"] = [row for row in rows["state"] if row[0] != "lineage"]
        return rows
    finally:
        base.close()


def digests(folder: Path) -> dict[str, str]:
    """Of each product, each table of the map and each file in folders below; names are relative to ``folder``."""
    files = {name: folder / name for name in _FILES}
    files |= {str(path.relative_to(folder)): path for path in sorted(folder.glob("*/**/*")) if path.is_file()}
    found = {name: _digest(path.read_bytes()) for name, path in files.items()}
    tables = contents(folder / _MAP)
    return found | {f"{_MAP}: {name}": _digest(repr(rows).encode()) for name, rows in sorted(tables.items())}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
