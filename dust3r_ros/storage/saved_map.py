"""Reads saved maps for viewers and exports, and writes a whole map at once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from dust3r_ros.config import MapperConfig
from dust3r_ros.errors import OutputError
from dust3r_ros.io.files import FileLock, atomic_path, followed
from dust3r_ros.mapping.camera_stream import ImageGeometry
from dust3r_ros.mapping.map_view import LiveMap
from dust3r_ros.mapping.state import LANDMARKS, SubmapState
from dust3r_ros.sparse.refinement import find_points
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.storage import packing, rows
from dust3r_ros.storage.journal import MapJournal, clear
from dust3r_ros.storage.loading import load_state, read_cameras, read_settings, reading, state_of
from dust3r_ros.storage.rows import SCHEMA_VERSION
from dust3r_ros.tracking import no_tracks
from dust3r_ros.types import Array, Camera, Image, Keyframe


@dataclass(frozen=True, eq=False)
class Views:
    """Geometry of working images, and their focals, by camera; none for a file of products only."""

    geometries: Mapping[str, ImageGeometry]
    focals: Mapping[str, float]

    @classmethod
    def of(cls, base: sqlite3.Connection, cameras: Mapping[str, Camera], shown: sqlite3.Row | None) -> Views:
        """For the map ``shown`` (a row of ``maps``)."""
        sizes = base.execute("SELECT value FROM state WHERE name = 'sizes'").fetchone()
        if shown is None or sizes is None:
            return cls({}, {})
        focals = {name: float(focal["working"]) for name, focal in json.loads(shown["focals"]).items()}
        return cls(geometries_of(cameras.values(), *json.loads(sizes[0])), focals)

    def keyframe(self, row: sqlite3.Row) -> Keyframe:
        """The keyframe of a row with image and depth. Raises ``ValueError``."""
        number, height, width = row["number"], row["height"], row["width"]
        try:
            image = packing.unpack_image(row["image"], height, width)
            if row["lens"] is not None:
                lens = rows.lens_of(json.loads(row["lens"]))
                image = self.geometries[row["camera"]].rectified(image, lens)[0]
            depth, confidence = np.zeros((height, width), np.float32), np.ones((height, width), np.float32)
            if row["depth"] is not None:
                depth = packing.unpack_map(row["depth"], height, width, row["depth_scale"])
                confidence = packing.unpack_map(row["confidence"], height, width)
            pose = packing.unpack_pose(row["w_T_c"])
            focal = self.focals[row["camera"]] if row["focal"] is None else row["focal"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"keyframe {number}: {error}") from error
        return Keyframe(
            number, row["version"], row["stamp_ns"], row["camera"], pose, focal, image, depth, confidence
        )  # fmt: skip


def geometries_of(cameras: Iterable[Camera], working_size: int, tracking_size: int) -> dict[str, ImageGeometry]:
    """The geometry of images of a map's cameras, by camera."""
    config = MapperConfig(working_size=working_size, tracking_size=tracking_size)
    return {camera.name: ImageGeometry(camera.width, camera.height, config) for camera in cameras}


@dataclass(frozen=True, eq=False)
class MapLandmarks:
    """Positions (L, 3) in the map frame, ``colors`` (L, 3) RGB, and their observations.

    Observation m: keyframe ``keyframe[m]`` (its index) sees landmark ``landmark[m]`` (a row of ``positions``) at
    ``pixels[m]`` (M, 2) of its image. Every landmark is seen at least twice.
    """

    positions: Array
    colors: Image
    keyframe: np.ndarray
    landmark: np.ndarray
    pixels: Array


def landmarks_of(shown: SubmapState, cameras: Sequence[Camera], sizes: tuple[int, int]) -> MapLandmarks | None:
    """Landmarks of one of the maps of ``cameras``, triangulated from observations and poses; None for a map of
    pointmaps. ``sizes``: ``working_size`` and ``tracking_size``.
    """
    if shown.kind != LANDMARKS:
        return None
    geometries = geometries_of(cameras, *sizes)
    places = {camera.name: index for index, camera in enumerate(cameras)}
    sparse = SparseMap(MapperConfig().min_parallax_deg)
    sparse.intrinsics = list(shown.intrinsics)
    sparse.landmarks.restore(shown.aliases)
    for keyframe in shown.keyframes:
        sparse.add(places[keyframe.camera], keyframe.seen or no_tracks(), keyframe.w_T_c)
    sparse.landmarks.bar(np.array(shown.facts.get("barred", []), np.int64))
    find_points(sparse)
    view, landmark, offset = sparse.observations(sparse.posed(), np.flatnonzero(sparse.positioned))
    known = np.flatnonzero(sparse.positioned)
    rows, landmark = np.unique(landmark, return_inverse=True)
    pixels, colors = np.zeros((len(view), 2)), np.zeros((len(rows), 3), np.uint8)
    for index in np.unique(view)[::-1].tolist():  # the first observation of a landmark gives its colour
        mine, keyframe = view == index, shown.keyframes[index]
        geometry = geometries[keyframe.camera]
        pixels[mine] = geometry.to_working(keyframe.lens.ideal(offset[mine]))
        image = geometry.rectified(keyframe.image, keyframe.lens)[0]
        column, row = np.clip(np.round(pixels[mine]).astype(int), 0, [image.shape[1] - 1, image.shape[0] - 1]).T
        colors[landmark[mine]] = image[row, column]
    names = np.array(shown.names, np.int64)
    return MapLandmarks(sparse.points[known[rows]], colors, names[view], landmark, pixels)


def live_landmarks(live: LiveMap) -> MapLandmarks | None:
    """The landmarks of the active map of a mapper, as if it had been saved; None for a map of pointmaps."""
    entry = live.atlas.active
    saving, every = entry.submap.saving, range(len(entry.submap))
    shown = SubmapState(
        kind=saving.kind,
        names=tuple(map(entry.name, every)),
        keyframes=tuple(map(saving.keyframe, every)),
        intrinsics=tuple(entry.submap.intrinsics),
        edges=(),
        likeness=(),
        frames=(),
        facts=saving.facts(),
        aliases=saving.aliases(0)[2],
    )
    return landmarks_of(shown, tuple(live.cameras.values()), (live.config.working_size, live.config.tracking_size))


__all__ = ["SCHEMA_VERSION", "Edge", "MapContents", "MapLandmarks", "MapSource", "load_map", "load_state", "save_map"]

Edge = tuple[int, int, float]


@dataclass(frozen=True, eq=False)
class MapContents:
    """The content of a saved map: of several maps, the one with most poses, and the active one of equals.

    Keyframes by index, edges (first, second, weight). ``landmarks`` is None unless requested, and if the map has none;
    ``maps``: how many there are with poses.
    """

    settings: Mapping[str, Any]
    cameras: Mapping[str, Camera]
    keyframes: tuple[Keyframe, ...]
    edges: tuple[Edge, ...]
    landmarks: MapLandmarks | None = None
    maps: int = 1


class MapSource(Protocol):
    """The input of ``save_map``: a mapper, or the products of one."""

    @property
    def keyframes(self) -> tuple[Keyframe, ...]: ...
    @property
    def cameras(self) -> dict[str, Camera]: ...
    @property
    def edges(self) -> list[Edge]: ...


@runtime_checkable
class Live(Protocol):
    """A mapper, of which more than the products is saved."""

    @property
    def live(self) -> LiveMap: ...


def save_map(path: str | Path, source: MapSource, settings: Mapping[str, Any] | None = None) -> None:
    """Write a whole map atomically; what a killed writer left beside the file goes.

    A mapper is written completely, so that it can be continued; products are written for display only.
    Raises ``OutputError``, also if a journal writes the file.
    """
    path = followed(path)
    lock = FileLock(path)
    try:
        clear(path)
        with atomic_path(path) as temporary:
            temporary.unlink()
            try:
                _write(temporary, source, settings)
            except OutputError as error:
                raise OutputError(str(error).replace(str(temporary), str(path))) from error
    finally:
        lock.release()


def _write(path: Path, source: MapSource, settings: Mapping[str, Any] | None) -> None:
    with MapJournal(path, settings, at_once=True) as journal:
        if isinstance(source, Live):
            journal.update(source.live)
        else:
            journal.write_products(source.keyframes, source.cameras.values(), source.edges)


def load_map(path: str | Path, landmarks: bool = False) -> MapContents:
    """Read the content of a map; ``landmarks``: include them, which takes a second for some hundred keyframes.

    Raises ``MapFileError`` when it is missing, of another schema, damaged or not a map.
    """
    with reading(path) as base:
        base.row_factory = sqlite3.Row
        shown, maps = _largest(base)
        contents = _contents(base, shown, maps)
        known = {keyframe.index for keyframe in contents.keyframes}
        for first, second, _ in contents.edges:
            if not {first, second} <= known:
                raise ValueError(f"a pair ({first}, {second}) lacks its keyframe")
        state = state_of(base, path) if landmarks and shown is not None else None
    if state is None or shown is None:
        return contents
    sizes = state.working_size, state.tracking_size
    return replace(contents, landmarks=landmarks_of(state.submaps[shown["place"]], state.cameras, sizes))


def _largest(base: sqlite3.Connection) -> tuple[sqlite3.Row | None, int]:
    """The map (a row of ``maps``) with most poses, and how many have some; None for a file of products only.

    Not the active one: a camera that is lost begins another, and its process may have been killed just then.
    """
    every = base.execute(
        "SELECT maps.*, count(w_T_c) AS poses FROM maps LEFT JOIN keyframes ON map = id GROUP BY id "
        "ORDER BY poses DESC, place"
    ).fetchall()
    begun = [row for row in every if row["poses"] and json.loads(row["facts"])["initialised"]]
    return next(iter(begun or every), None), len(begun)


def _contents(base: sqlite3.Connection, shown: sqlite3.Row | None, maps: int) -> MapContents:
    cameras = {camera.name: camera for camera in read_cameras(base)}
    views = Views.of(base, cameras, shown)
    found = base.execute(
        "SELECT * FROM keyframes JOIN images USING (number) LEFT JOIN depths USING (number) "
        "WHERE map = ? AND w_T_c IS NOT NULL ORDER BY number",
        (0 if shown is None else shown["id"],),
    )
    keyframes = tuple(views.keyframe(row) for row in found) if shown is None or maps else ()
    edges = _edges_of(base, {keyframe.index for keyframe in keyframes})
    settings = read_settings(base)
    if shown is not None and shown["place"]:
        settings.pop("world", None)  # its unit is that of the active map
    return MapContents(settings, cameras, keyframes, edges, maps=maps)


def _edges_of(base: sqlite3.Connection, known: AbstractSet[int]) -> tuple[tuple[int, int, float], ...]:
    """Edges between the keyframes ``known``, and those that lack a keyframe, for the reader to refuse."""
    every = {row[0] for row in base.execute("SELECT number FROM keyframes")}
    return tuple(
        (first, second, weight)
        for first, second, weight in base.execute("SELECT first, second, weight FROM edges ORDER BY first, second")
        if {first, second} <= known or not {first, second} <= every
    )
