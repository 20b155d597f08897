"""The files of a session: the map that grows on disk, a map to begin with, the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dust3r_ros.alignment.processes import blas_threads
from dust3r_ros.config import MapperConfig, as_mapping
from dust3r_ros.io.files import make_folder
from dust3r_ros.io.manifest import ManifestWriter
from dust3r_ros.session.session import Session
from dust3r_ros.storage.journal import MapJournal
from dust3r_ros.storage.loading import load_state


def begin(
    session: Session,
    config: MapperConfig,
    *,
    map_db: str = "",
    map_start: str = "continue",
    load_map: str = "",
    manifest: str = "",
    topics: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Open what a run was told to read and write; returns what was done, in a sentence or "".

    ``map_db`` grows with the map and is continued if it is there and ``map_start`` says so; ``load_map`` is
    read only, and ``map_db`` then begins with what it holds. ``topics`` by camera and kind (image, mask, depth), for
    the ``manifest``. Raises ``OutputError``, ``MapFileError``, ``InputError``.
    """
    done = []
    if manifest:
        make_folder(Path(manifest).absolute().parent)
        record = ManifestWriter(manifest)
        record.header(config, topics, threads=blas_threads())
        session.keeper.keep_record(record)
    goes_on = bool(map_db) and map_start == "continue" and not load_map and Path(map_db).exists()
    source = load_map or (map_db if goes_on else "")
    if source:
        session.resume(load_state(source))
        loaded = str(Path(source).absolute())
        session.keeper.note("load", path=loaded, keyframes=session.mapper.counts.keyframes)
        done.append(f"{session.mapper.counts.keyframes} keyframes of '{source}' are there")
    if map_db:
        make_folder(Path(map_db).absolute().parent)
        session.keeper.keep_map(lambda fresh: open_journal(map_db, config, fresh), not goes_on)
        session.save()
        done.append(f"the map grows in '{map_db}'")
    return ", ".join(done)


def open_journal(path: str, config: MapperConfig, fresh: bool) -> MapJournal:
    """The file of a growing map; one that is there and is not continued is kept beside it."""
    return MapJournal(path, as_mapping(config), fresh=fresh)
