"""The schema of a saved map, and conversions between its rows and the mapper's state.

Large constant data (``images``) are in a table of their own, apart from small changing data (``keyframes``), because a
row is always written as a whole.

The observations of a keyframe are those of its features, then all others, each with the id that its landmark had when
it was written. The current id follows from the mergers (``aliases``). So a pruned observation or a merged landmark
costs only a few bytes.

Every row has a seal, a checksum of all its values, in a table of its own: a number that changed on the disk, and a row
that is gone, are noticed. Triggers of the writer's connection make them, so that other programs see plain tables.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.errors import MapFileError, OutputError
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.mapping.state import FrameState, KeyframeState, PairGeometry
from dust3r_ros.sparse.landmarks import Intrinsics
from dust3r_ros.storage import packing
from dust3r_ros.tracking import Tracks, join
from dust3r_ros.types import Array, Camera, Keyframe

SCHEMA_VERSION = 9  # the only version supported
APPLICATION_ID = int.from_bytes(b"D3RM", "big")

SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE cameras (name TEXT PRIMARY KEY, place INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
    focal REAL NOT NULL, focal_std REAL NOT NULL, support INTEGER NOT NULL, fixed INTEGER NOT NULL,
    offset_x REAL NOT NULL, offset_y REAL NOT NULL, distortion_model TEXT NOT NULL, distortion TEXT NOT NULL,
    given REAL NOT NULL, given_std REAL NOT NULL, measured REAL NOT NULL, measured_std REAL NOT NULL);
CREATE TABLE maps (id INTEGER PRIMARY KEY, place INTEGER NOT NULL, kind TEXT NOT NULL, landmarks INTEGER NOT NULL,
    facts TEXT NOT NULL, focals TEXT NOT NULL, likeness BLOB NOT NULL);
CREATE TABLE keyframes (number INTEGER PRIMARY KEY, map INTEGER NOT NULL, place INTEGER NOT NULL,
    version INTEGER NOT NULL, stamp_ns INTEGER NOT NULL, camera TEXT NOT NULL, w_T_c BLOB, w_S BLOB, focal REAL,
    lens TEXT, depth_scale REAL NOT NULL, moving BLOB);
CREATE TABLE images (number INTEGER PRIMARY KEY, height INTEGER NOT NULL, width INTEGER NOT NULL, masked BLOB,
    features BLOB, corners BLOB, global_descriptor BLOB, descriptors BLOB, image BLOB NOT NULL);
CREATE TABLE depths (number INTEGER PRIMARY KEY, depth BLOB NOT NULL, confidence BLOB NOT NULL);
CREATE TABLE observations (number INTEGER PRIMARY KEY, first_id INTEGER NOT NULL, feature_ids BLOB NOT NULL,
    ids BLOB NOT NULL, offsets BLOB NOT NULL);
CREATE TABLE observation_states (number INTEGER PRIMARY KEY, seen BLOB NOT NULL, pruned BLOB NOT NULL);
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
CREATE TABLE seals (part TEXT NOT NULL, row TEXT NOT NULL, seal INTEGER NOT NULL,
    PRIMARY KEY (part, row)) WITHOUT ROWID;
"""

# Tables with one row per keyframe
OF_KEYFRAMES = ("keyframes", "images", "depths", "observations", "observation_states", "samples")
OF_MAPS = ("moments", "aliases", "frames")
# The key of each table
_KEYS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("settings", "state", "cameras"), ("name",)),
    **dict.fromkeys(OF_KEYFRAMES, ("number",)),
    **dict.fromkeys(("edges", "pairs"), ("first", "second")),
    "maps": ("id",),
    "moments": ("map", "edge"),
    "aliases": ("map", "chunk"),
    "frames": ("map", "place"),
}


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a file with SQLite's ``mode``: ro or rwc. Raises ``sqlite3.Error``."""
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
    )


def number(base: sqlite3.Connection, pragma: str) -> int:
    """The integer value of a pragma."""
    return int(base.execute(f"PRAGMA {pragma}").fetchone()[0])


def create(base: sqlite3.Connection) -> None:
    """Create all tables in an empty file."""
    base.executescript(
        f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; PRAGMA application_id = {APPLICATION_ID}; COMMIT;"
    )


def seal_writes(base: sqlite3.Connection) -> None:
    """Seal the rows that this connection writes from now on."""
    base.create_function("seal", -1, _seal, deterministic=True)
    for table, key in _KEYS.items():
        columns = ", ".join(f"NEW.{name}" for name in _columns(base, table))
        new, old = (f"'{table}', {_row_name(key, f'{row}.')}" for row in ("NEW", "OLD"))
        base.executescript(
            f"CREATE TEMP TRIGGER seal_{table} AFTER INSERT ON main.{table} BEGIN "
            f"INSERT OR REPLACE INTO seals VALUES ({new}, seal({columns})); END;"
            f"CREATE TEMP TRIGGER unseal_{table} AFTER DELETE ON main.{table} BEGIN "
            f"DELETE FROM seals WHERE (part, row) = ({old}); END;"
        )


def check_seals(base: sqlite3.Connection) -> None:
    """Raises ``ValueError`` unless every row is as it was written, and none is gone."""
    for table, key in _KEYS.items():
        seals = dict(base.execute("SELECT row, seal FROM seals WHERE part = ?", (table,)))
        columns = ", ".join(_columns(base, table))
        for name, *values in base.execute(f"SELECT {_row_name(key)}, {columns} FROM {table}"):
            if seals.pop(name, None) != _seal(*values):
                what = f"keyframe {name}" if table in OF_KEYFRAMES else f"row {name!r}"
                raise ValueError(f"{what} of its table '{table}' is not what was written")
        if seals:
            raise ValueError(f"{len(seals)} rows of its table '{table}' are gone")


def _columns(base: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in base.execute(f"PRAGMA table_info({table})")]


def _row_name(key: Sequence[str], of: str = "") -> str:
    return "'' || " + " || '/' || ".join(f"{of}{name}" for name in key)


def _seal(*values: Any) -> int:
    """CRC-32 of the values of a row as SQLite stores them."""
    crc = 0
    for value in values:
        value = value + 0.0 if isinstance(value, float) else value  # SQLite does not keep the sign of zero
        crc = zlib.crc32(value if isinstance(value, bytes) else f"|{value!r}|".encode(), crc)
    return crc


def check(base: sqlite3.Connection, path: Path) -> None:
    """Raises ``MapFileError`` for a file that is not a map of this schema."""
    if number(base, "application_id") != APPLICATION_ID:
        raise MapFileError(f"'{path}' is a database, but not a map of this program; give a map.db")
    version = number(base, "user_version")
    if version != SCHEMA_VERSION:
        other = "an older" if version < SCHEMA_VERSION else "a newer"
        raise MapFileError(
            f"map '{path}' has the schema {version} of {other} version of this program, which reads schema "
            f"{SCHEMA_VERSION}; map again from the recording, or use that version"
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns errors of SQLite while a map is written into ``OutputError``."""
    try:
        yield
    except sqlite3.Error as error:
        raise OutputError(f"map '{path}' cannot be written: {error}") from error


_PLAIN = (
    "name", "width", "height", "focal", "focal_std", "support", "fixed", "given", "given_std", "measured",
    "measured_std", "distortion_model",
)  # fmt: skip


def put(base: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    """Insert or replace one row."""
    names = ", ".join(row)
    base.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))


def camera_row(camera: Camera, place: int) -> dict[str, Any]:
    """A row of ``cameras``."""
    row = {name: getattr(camera, name) for name in _PLAIN}
    plain = {name: value if isinstance(value, str) else _number(value) for name, value in row.items()}
    x, y = (float(value) for value in camera.principal_offset)
    distortion = json.dumps([float(value) for value in camera.distortion])
    return {**plain, "place": place, "offset_x": x, "offset_y": y, "distortion": distortion}


def _number(value: Any) -> int | float:
    return int(value) if isinstance(value, int | np.integer | np.bool_) else float(value)


def readouts(cameras: Iterable[Camera]) -> dict[str, list[float]]:
    """Readouts of rolling shutters by camera, for ``state``."""
    return {item.name: [float(value) for value in item.readout] for item in cameras if any(item.readout)}


def camera(row: Mapping[str, Any], readout: Sequence[float] = (0.0, 0.0)) -> Camera:
    """The camera of a row."""
    known = {name: row[name] for name in _PLAIN}
    known["fixed"] = bool(known["fixed"])
    distortion = tuple(float(value) for value in json.loads(row["distortion"]))
    known["principal_offset"] = float(row["offset_x"]), float(row["offset_y"])
    return Camera(**known, distortion=distortion, readout=(float(readout[0]), float(readout[1])))


def lens_text(lens: Lens) -> str:
    """A lens as text, exact."""
    return json.dumps(lens_values(lens))


def lens_values(lens: Lens) -> list[float]:
    """The numbers of a lens."""
    return [lens.radius, lens.radial, *lens.center, lens.second, lens.third]


def lens_of(values: Sequence[float]) -> Lens:
    """The way back."""
    radius, radial, x, y, second, third = (float(value) for value in values)
    return Lens(radius, radial, (x, y), second, third)


def focals_text(focals: Mapping[str, tuple[Intrinsics, float]]) -> str:
    """Focals by camera, each with the focal of its working images, as text."""
    return json.dumps({name: _focal_fields(focal) | {"working": float(w)} for name, (focal, w) in focals.items()})


def _focal_fields(intrinsics: Intrinsics) -> dict[str, Any]:
    found = {entry.name: getattr(intrinsics, entry.name) for entry in fields(intrinsics)}
    return found | {"lens": lens_values(intrinsics.lens), "known": None}  # which matters only while a map begins


def intrinsics_of(values: Mapping[str, Any]) -> Intrinsics:
    """A focal of ``focals_text``."""
    given = {entry.name: values[entry.name] for entry in fields(Intrinsics) if entry.name in values}
    pairs = {name: tuple(given[name]) for name in ("measured", "rolling", "rival") if given.get(name) is not None}
    return Intrinsics(**given | pairs | {"lens": lens_of(values["lens"])})


def image_row(number: int, k: KeyframeState) -> dict[str, Any]:
    """The constant data of a keyframe: a row of ``images``."""
    height, width = k.image.shape[:2]
    return {
        "number": number,
        "height": height,
        "width": width,
        "masked": packing.pack_mask(k.masked),
        "features": packing.pack_offsets(k.features.pixels, k.center),
        "corners": None if k.corners is None else packing.pack_offsets(k.corners, k.center),
        "global_descriptor": packing.pack_array(k.global_descriptor, "<f4"),
        "descriptors": packing.squeeze(k.features.descriptors.tobytes()),
        "image": packing.pack_image(k.image),
    }


def keyframe_row(number: int, map_id: int, place: int, k: KeyframeState, scale: float) -> dict[str, Any]:
    """The changing data of a keyframe: a row of ``keyframes``; ``scale``: the factor of stored depth."""
    return {
        "number": number,
        "map": map_id,
        "place": place,
        "version": int(k.version),
        "stamp_ns": int(k.stamp_ns),
        "camera": k.camera,
        "w_T_c": None if k.w_T_c is None else packing.pack_pose(k.w_T_c),
        "w_S": None if k.w_S is None else packing.pack_pose(k.w_S),
        "lens": lens_text(k.lens),
        "depth_scale": scale,
        "moving": packing.pack_mask(k.moving),
    }


def product_rows(k: Keyframe) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Rows of ``keyframes``, ``images`` and ``depths`` for a keyframe known only as a product."""
    height, width = k.depth.shape
    scale = packing.depth_scale(k.depth)
    row = {
        "number": int(k.index), "map": 0, "place": int(k.index), "version": int(k.version), "stamp_ns": int(k.stamp_ns),
        "camera": k.camera, "w_T_c": packing.pack_pose(k.w_T_c), "focal": float(k.focal), "depth_scale": scale,
    }  # fmt: skip
    image = {"number": int(k.index), "height": height, "width": width, "image": packing.pack_image(k.image)}
    return row, image, depth_row(int(k.index), k.depth, k.confidence, scale)


def depth_row(number: int, depth: np.ndarray, confidence: np.ndarray, scale: float) -> dict[str, Any]:
    """A row of ``depths``."""
    return {
        "number": number,
        "depth": packing.pack_map(depth, scale),
        "confidence": packing.pack_map(confidence),
    }


def pair_row(first: int, second: int, pair: PairGeometry) -> dict[str, Any]:
    """A row of ``pairs``."""
    lenses = [lens_values(lens) for lens in pair.lenses]
    return {
        "first": first,
        "second": second,
        "second_T_first": packing.pack_pose(pair.second_T_first),
        "cameras": json.dumps({"focals": list(pair.focals), "lenses": lenses}),
    }


def pair_of(second_T_first: bytes, cameras: str) -> PairGeometry:
    """The way back."""
    known = json.loads(cameras)
    return PairGeometry(
        packing.unpack_pose(second_T_first),
        tuple(float(f) for f in known["focals"]),
        tuple(lens_of(values) for values in known["lenses"]),
    )


def frame_row(map_id: int, place: int, frame: FrameState, keyframe: int) -> tuple[Any, ...]:
    """A row of ``frames``; ``keyframe``: the number of the frame's reference keyframe."""
    pose: Array | None = frame.keyframe_T_frame
    blob = None if pose is None else packing.pack_pose(pose)
    unit = None if np.isnan(frame.unit) else float(frame.unit)
    return map_id, place, frame.session, int(frame.stamp_ns), frame.camera, keyframe, blob, unit


Resolve = Callable[[np.ndarray], np.ndarray]


def write_observations(base: sqlite3.Connection, number: int, k: KeyframeState, resolved: Resolve, anew: bool) -> None:
    """Write a keyframe's observations; ``anew``: landmark ids have changed since they were last written."""
    if k.seen is None or k.pruned is None:
        return
    known = None if anew else _read(base, number, k)
    places = None if known is None else _places(known, k, resolved)
    if places is None:
        known = _observations(k, resolved)
        put(base, "observations", _row(number, k, known))
        places = _places(known, k, resolved)
        assert places is not None, "all observations are there"
    seen, pruned = (packing.pack_steps(place) for place in places)
    put(base, "observation_states", {"number": number, "seen": seen, "pruned": pruned})


def read_observations(
    feature_ids: bytes, ids: bytes, offsets: bytes, states: tuple[bytes, bytes], features: Array, center: Array
) -> tuple[np.ndarray, Tracks, Tracks]:
    """Ids of features, observations kept and pruned; ids as they were written. Raises ``ValueError``."""
    own = packing.unpack_steps(feature_ids)
    if len(own) != len(features):
        raise ValueError(f"{len(features)} features have {len(own)} landmarks")
    observations = join(
        Tracks(own, features), Tracks(packing.unpack_steps(ids), packing.unpack_offsets(offsets, center))
    )
    places = [packing.unpack_steps(state) for state in states]
    if any(len(place) and not 0 <= place.min() <= place.max() < len(observations.ids) for place in places):
        raise ValueError("it refers to observations that it does not have")
    return own, observations.select(places[0]), observations.select(places[1])


def _observations(k: KeyframeState, resolved: Resolve) -> Tracks:
    """The features, and all other observations, kept or pruned."""
    assert k.seen is not None and k.pruned is not None
    features = Tracks(k.feature_ids, k.features.pixels)
    every = join(k.seen, k.pruned)
    return join(features, every.select(~np.isin(_named(every, resolved), _named(features, resolved))))


def _row(number: int, k: KeyframeState, observations: Tracks) -> dict[str, object]:
    more = observations.select(np.arange(len(k.feature_ids), len(observations.ids)))
    return {
        "number": number,
        "first_id": k.first_id,
        "feature_ids": packing.pack_steps(k.feature_ids),
        "ids": packing.pack_steps(more.ids),
        "offsets": packing.pack_offsets(more.pixels, k.center),
    }


def _read(base: sqlite3.Connection, number: int, k: KeyframeState) -> Tracks | None:
    row = base.execute("SELECT feature_ids, ids, offsets FROM observations WHERE number = ?", (number,)).fetchone()
    if row is None:
        return None
    features = Tracks(packing.unpack_steps(row[0]), k.features.pixels)
    return join(features, Tracks(packing.unpack_steps(row[1]), packing.unpack_offsets(row[2], k.center)))


def _places(observations: Tracks, k: KeyframeState, resolved: Resolve) -> tuple[np.ndarray, np.ndarray] | None:
    """The indices of ``seen`` and ``pruned`` in the observations; None if one is missing or has another id."""
    assert k.seen is not None and k.pruned is not None
    named = _named(observations, resolved)
    order = np.argsort(named, kind="stable")
    found = []
    for tracks in (k.seen, k.pruned):
        wanted = _named(tracks, resolved)
        at = np.searchsorted(named[order], wanted)
        if len(at) and (at.max() == len(order) or not np.array_equal(named[order[at]], wanted)):
            return None
        found.append(order[at])
    return found[0], found[1]


def _named(tracks: Tracks, resolved: Resolve) -> np.ndarray:
    """(N,) landmark and pixel as one item each."""
    rows = np.column_stack([resolved(tracks.ids).astype(np.float64), tracks.pixels + 0.0])  # -0.0 is 0.0, too
    return np.ascontiguousarray(rows).view("V24").ravel()
