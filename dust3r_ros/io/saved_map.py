"""Saved maps as viewers and exports read them, and a whole map written at once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dust3r_ros.io import map_blobs as blobs
from dust3r_ros.io import map_rows as rows
from dust3r_ros.io import map_schema
from dust3r_ros.io.file_lock import FileLock
from dust3r_ros.io.files import atomic_path
from dust3r_ros.io.map_journal import MapJournal
from dust3r_ros.io.map_landmarks import MapLandmarks, landmarks_of
from dust3r_ros.io.map_loading import load_state, read_cameras, read_settings
from dust3r_ros.io.map_schema import SCHEMA_VERSION
from dust3r_ros.io.map_views import Views
from dust3r_ros.live_map import LiveMap
from dust3r_ros.types import Camera, Keyframe

__all__ = ["SCHEMA_VERSION", "Edge", "MapContents", "MapLandmarks", "MapSource", "load_map", "load_state", "save_map"]

Edge = tuple[int, int, float]


@dataclass(frozen=True, eq=False)
class MapContents:
    """What a saved map shows: the map that was active. Keyframes by index, edges (first, second, weight).

    ``landmarks`` is None unless they were asked for, and where the map has none.
    """

    settings: Mapping[str, Any]
    cameras: Mapping[str, Camera]
    keyframes: tuple[Keyframe, ...]
    edges: tuple[Edge, ...]
    landmarks: MapLandmarks | None = None


class MapSource(Protocol):
    """What ``save_map`` needs: a mapper, or the products of one."""

    @property
    def keyframes(self) -> tuple[Keyframe, ...]: ...
    @property
    def cameras(self) -> dict[str, Camera]: ...
    @property
    def edges(self) -> list[Edge]: ...


@runtime_checkable
class Live(Protocol):
    """A mapper, of which more is saved than its products."""

    @property
    def live(self) -> LiveMap: ...


def save_map(path: str | Path, source: MapSource, settings: Mapping[str, Any] | None = None) -> None:
    """Write a whole map; the file appears when it is complete.

    Of a mapper everything is written, so that it can be continued; of mere products what can be shown.
    Raises ``OutputError``, also where a journal writes the file.
    """
    path = Path(path)
    lock = FileLock(path)
    try:
        with atomic_path(path) as temporary:
            temporary.unlink()
            with MapJournal(temporary, settings) as journal:
                if isinstance(source, Live):
                    journal.update(source.live)
                else:
                    journal.write_products(source.keyframes, source.cameras.values(), source.edges)
    finally:
        lock.release()


def load_map(path: str | Path, landmarks: bool = False) -> MapContents:
    """Read what a map shows; ``landmarks``: those too, which takes a second for some hundred keyframes.

    Raises ``MapFileError`` when it is missing, newer, damaged or not a map.
    """
    with map_schema.reading(path) as (base, version):
        base.row_factory = sqlite3.Row
        contents = _contents(base) if version >= SCHEMA_VERSION else _old_contents(base)
        known = {keyframe.index for keyframe in contents.keyframes}
        for first, second, _ in contents.edges:
            if not {first, second} <= known:
                raise ValueError(f"a pair ({first}, {second}) lacks its keyframe")
        whole = landmarks and version >= SCHEMA_VERSION
        whole = whole and bool(base.execute("SELECT 1 FROM state WHERE name = 'sizes'").fetchone())
    if not whole:
        return contents
    found = landmarks_of(load_state(path))
    return MapContents(contents.settings, contents.cameras, contents.keyframes, contents.edges, found)


def _contents(base: sqlite3.Connection) -> MapContents:
    cameras = {camera.name: camera for camera in read_cameras(base)}
    active = base.execute("SELECT id, focals, facts FROM maps WHERE place = 0").fetchone()
    views = Views.of(base, cameras, active)
    found = base.execute(
        "SELECT * FROM keyframes JOIN images USING (number) LEFT JOIN depths USING (number) "
        "WHERE map = ? AND w_T_c IS NOT NULL ORDER BY number",
        (0 if active is None else active["id"],),
    )
    shown = [] if active is not None and not json.loads(active["facts"])["initialised"] else found
    keyframes = tuple(views.keyframe(row) for row in shown)
    known = {keyframe.index for keyframe in keyframes}
    every = {row[0] for row in base.execute("SELECT number FROM keyframes")}
    edges = tuple(
        (first, second, weight)
        for first, second, weight in base.execute("SELECT first, second, weight FROM edges ORDER BY first, second")
        if {first, second} <= known or not {first, second} <= every
    )
    return MapContents(read_settings(base), cameras, keyframes, edges)


def _old_contents(base: sqlite3.Connection) -> MapContents:
    """Of schemas 1 and 2."""
    cameras = [rows.camera(dict(row)) for row in base.execute("SELECT * FROM cameras")]
    keyframes = tuple(_old_keyframe(row) for row in base.execute("SELECT * FROM keyframes ORDER BY number"))
    edges = tuple(tuple(row) for row in base.execute("SELECT first, second, weight FROM edges ORDER BY first, second"))
    return MapContents(read_settings(base), {camera.name: camera for camera in cameras}, keyframes, edges)


def _old_keyframe(row: sqlite3.Row) -> Keyframe:
    number, height, width = row["number"], row["height"], row["width"]
    try:
        return Keyframe(
            number,
            row["version"],
            row["stamp_ns"],
            row["camera"],
            blobs.unpack_pose(row["w_T_c"]),
            row["focal"],
            blobs.unpack_image(row["image"], height, width, sealed=False),
            blobs.unpack_map(row["depth"], height, width, row["depth_scale"]),
            blobs.unpack_map(row["confidence"], height, width),
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"keyframe {number}: {error}") from error
