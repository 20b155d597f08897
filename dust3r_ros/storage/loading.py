"""Reads a saved map: everything that a mapper needs to continue it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.errors import Dust3rRosError, MapFileError, refuse_pointers
from dust3r_ros.features.features import Features
from dust3r_ros.geometry.pinhole import center_of
from dust3r_ros.io.files import followed
from dust3r_ros.mapping.state import FrameState, KeyframeState, MapState, Moments, PairGeometry, SubmapState
from dust3r_ros.sparse.landmarks import BLOCK
from dust3r_ros.storage import packing, rows
from dust3r_ros.storage.rows import read_observations
from dust3r_ros.tracking import Tracks, tracked_size
from dust3r_ros.types import Array, Camera, MapCounts

_KEYFRAMES = """
SELECT k.*, i.*, d.depth, d.confidence, s.first_id, s.feature_ids, s.ids, s.offsets, t.seen, t.pruned, p.sample
FROM keyframes k JOIN images i USING (number) LEFT JOIN depths d USING (number) LEFT JOIN observations s USING (number)
LEFT JOIN observation_states t USING (number) LEFT JOIN samples p USING (number) WHERE k.map = ? ORDER BY k.place
"""


@contextmanager
def reading(path: str | Path) -> Iterator[sqlite3.Connection]:
    """A map opened for reading, in a consistent state. Raises ``MapFileError``."""
    path, base = followed(path), None
    if not path.is_file():
        raise MapFileError(f"map '{path}' does not exist; give a map.db")
    refuse_pointers(path, MapFileError)
    if path.with_name(path.name + "-journal").exists():
        _undo(path)
    try:
        base = _opened(path)
        rows.check(base, path)
        rows.check_seals(base)
        yield base
    except sqlite3.Error as error:
        raise MapFileError(f"'{path}' is damaged or not a map: {error}; give a complete map.db") from error
    except Dust3rRosError:
        raise
    except Exception as error:  # damage that happens to fit its seal may raise anything
        what = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise MapFileError(f"map '{path}' is damaged: {what}") from error
    finally:
        if base is not None:
            base.close()


def _undo(path: Path) -> None:
    """Undo what a killed writer had begun; who only reads cannot, and could not read either."""
    with suppress(sqlite3.Error), closing(rows.connect(path, "rw")) as base:
        rows.number(base, "user_version")


def _log_of(path: Path) -> str:
    """The name of the log beside a file without which it is not whole; "" for none."""
    logs = [path.with_name(path.name + suffix) for suffix in ("-wal", "-journal")]
    return next((log.name for log in logs if log.exists() and log.stat().st_size > 0), "")


def _opened(path: Path, mode: str = "ro") -> sqlite3.Connection:
    """A connection that sees one state of the file. Raises ``MapFileError`` if it cannot be read, ``sqlite3.Error``."""
    base = None
    try:
        base = rows.connect(path, mode)
        base.execute("BEGIN")
        rows.number(base, "user_version")
        return base
    except sqlite3.Error as error:
        if base is not None:
            base.close()
        if not isinstance(error, sqlite3.OperationalError):
            raise
        log = _log_of(path)
        if mode == "ro" and "locked" not in str(error) and not log:
            return _opened(path, "ro&immutable=1")  # SQLite cannot create its files in a folder that is read-only
        hint = f"; with '{log}' it can only be read in a folder that you may write to" if log else ""
        raise MapFileError(f"map '{path}' cannot be opened: {error}{hint}") from error


def load_state(path: str | Path) -> MapState:
    """Read a consistent state of a map, to continue it.

    Raises ``MapFileError`` when it is missing, damaged, of another schema or not a map, and for a file with only
    products, which cannot be continued.
    """
    with reading(path) as base:
        base.row_factory = sqlite3.Row
        return state_of(base, path)


def check_map(path: str | Path) -> None:
    """Raises ``MapFileError`` as ``load_state`` does, but does not notice damage inside the file."""
    with reading(path) as base:
        _continued(base, path)


def _continued(base: sqlite3.Connection, path: str | Path) -> dict[str, Any]:
    """The whole map's values by name. Raises ``MapFileError`` for a file with only products."""
    state = {name: json.loads(value) for name, value in base.execute("SELECT name, value FROM state")}
    if "sizes" not in state and base.execute("SELECT 1 FROM keyframes").fetchone():
        raise MapFileError(f"map '{path}' holds only the products of a map; it can be shown, but not continued")
    return state


def state_of(base: sqlite3.Connection, path: str | Path) -> MapState:
    """What ``load_state`` returns, of a file that is open already; its errors."""
    state, cameras = _continued(base, path), read_cameras(base)
    working, tracking = state.get("sizes", (0, 0))  # none if the process ended before the first image
    streams = {camera.name: middle_of(camera, tracking) for camera in cameras}
    submaps = [_submap(base, dict(row), streams) for row in base.execute("SELECT * FROM maps ORDER BY place")]
    counts = state.get("counts", {})
    known = {entry.name for entry in fields(MapCounts)} & counts.keys()
    return MapState(
        settings=read_settings(base),
        cameras=cameras,
        submaps=tuple(submaps),
        appearance=state.get("appearance", {}),
        counts=MapCounts(**{name: counts[name] for name in known}),
        working_size=int(working),
        tracking_size=int(tracking),
        revision=int(state.get("revision", 0)),
        session=int(state.get("session", 0)),
        lineage=str(state["lineage"]),
        changes=int(state["changes"]),
    )


def read_settings(base: sqlite3.Connection) -> dict[str, Any]:
    """Settings by name."""
    return {name: json.loads(value) for name, value in base.execute("SELECT name, value FROM settings")}


def read_cameras(base: sqlite3.Connection) -> tuple[Camera, ...]:
    """Cameras in the order in which they appeared."""
    found = base.execute("SELECT value FROM state WHERE name = 'readouts'").fetchone()
    readouts = json.loads(found[0]) if found else {}
    every = map(dict, base.execute("SELECT * FROM cameras ORDER BY place"))
    return tuple(rows.camera(row, readouts.get(row["name"], (0.0, 0.0))) for row in every)


def middle_of(camera: Camera, tracking_size: int) -> Array:
    """(2,) the pixel of a camera's tracked image to which offsets are relative."""
    _, (width, height) = tracked_size(camera.width, camera.height, tracking_size)
    return np.array(center_of(height, width))


def _submap(base: sqlite3.Connection, row: Mapping[str, Any], middles: Mapping[str, Array]) -> SubmapState:
    map_id, focals = row["id"], json.loads(row["focals"])
    aliases = _aliases(base, map_id, row["landmarks"])
    keyframes = _keyframes(base, map_id, middles, aliases)
    place = {name: at for at, name in enumerate(keyframes)}
    return SubmapState(
        kind=row["kind"],
        names=tuple(keyframes),
        keyframes=tuple(keyframes.values()),
        intrinsics=tuple(rows.intrinsics_of(focals[name]) for name in middles),
        edges=_edges(base, place),
        likeness=tuple(packing.unpack_array(row["likeness"], "<f8", -1).tolist()),
        frames=tuple(_frames(base, map_id, place)),
        facts=json.loads(row["facts"]),
        aliases=aliases,
        pairs=_pairs(base, place),
        moments=_moments(base, map_id, place),
    )


def _keyframes(
    base: sqlite3.Connection, map_id: int, middles: Mapping[str, Array], aliases: np.ndarray
) -> dict[int, KeyframeState]:
    """The keyframes of a map by number, ordered by place."""
    found: dict[int, KeyframeState] = {}
    for row in base.execute(_KEYFRAMES, (map_id,)):
        number = int(row["number"])
        if row["place"] != len(found):
            raise ValueError(f"keyframe {number} is at place {row['place']}; it should be {len(found)}")
        try:
            found[number] = _keyframe(row, middles[row["camera"]], aliases)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise ValueError(f"keyframe {number}: {error}") from error
    return found


def _edges(base: sqlite3.Connection, place: Mapping[int, int]) -> tuple[tuple[int, int, float], ...]:
    """The edges within one map: two places and the weight."""
    found = base.execute("SELECT first, second, weight FROM edges")
    return tuple((place[a], place[b], weight) for a, b, weight in found if a in place and b in place)


def _pairs(base: sqlite3.Connection, place: Mapping[int, int]) -> dict[tuple[int, int], PairGeometry]:
    """The pairs within one map, by places."""
    found = base.execute("SELECT first, second, second_T_first, cameras FROM pairs")
    return {
        (place[a], place[b]): rows.pair_of(pose, cameras) for a, b, pose, cameras in found if a in place and b in place
    }


def _aliases(base: sqlite3.Connection, map_id: int, landmarks: int) -> np.ndarray:
    aliases = np.arange(landmarks)
    for chunk, blob in base.execute("SELECT chunk, ids FROM aliases WHERE map = ?", (map_id,)):
        away = packing.unpack_steps(blob)
        aliases[chunk * BLOCK : chunk * BLOCK + len(away)] -= away
    if len(aliases) and not (aliases.min() >= 0 and (aliases <= np.arange(landmarks)).all()):
        raise ValueError("a landmark was merged into a younger or missing one")
    return aliases


def _resolved(aliases: np.ndarray, tracks: Tracks) -> Tracks:
    """Tracks with the current ids of their landmarks."""
    ids = aliases[tracks.ids]
    while not np.array_equal(further := aliases[ids], ids):
        ids = further
    return Tracks(ids, tracks.pixels)


def _keyframe(row: sqlite3.Row, center: Array, aliases: np.ndarray) -> KeyframeState:
    height, width = row["height"], row["width"]
    features = packing.unpack_offsets(row["features"], center)
    descriptors = packing.unpack_bytes(row["descriptors"]).reshape(len(features), -1 if len(features) else 128)
    own, seen, pruned = np.zeros(0, np.int64), None, None
    if row["feature_ids"] is not None:
        states = row["seen"], row["pruned"]
        own, seen, pruned = read_observations(row["feature_ids"], row["ids"], row["offsets"], states, features, center)
        seen, pruned = _resolved(aliases, seen), _resolved(aliases, pruned)
    depth, confidence = None, None
    if row["depth"] is not None:
        depth = packing.unpack_map(row["depth"], height, width, row["depth_scale"] if row["w_S"] is None else 1.0)
        confidence = packing.unpack_map(row["confidence"], height, width)
    corners = None if row["corners"] is None else packing.unpack_offsets(row["corners"], center)
    return KeyframeState(
        version=row["version"],
        stamp_ns=row["stamp_ns"],
        camera=row["camera"],
        image=packing.unpack_image(row["image"], height, width),
        features=Features(features, descriptors),
        feature_ids=own,
        global_descriptor=packing.unpack_array(row["global_descriptor"], "<f4", -1),
        w_T_c=None if row["w_T_c"] is None else packing.unpack_pose(row["w_T_c"]),
        lens=rows.lens_of(json.loads(row["lens"])),
        center=center,
        depth=depth,
        confidence=confidence,
        masked=packing.unpack_mask(row["masked"], height, width),
        moving=packing.unpack_mask(row["moving"], height, width),
        seen=seen,
        pruned=pruned,
        first_id=row["first_id"] or 0,
        w_S=None if row["w_S"] is None else packing.unpack_matrix(row["w_S"]),
        corners=corners,
        sampled=None if row["sample"] is None else packing.unpack_array(row["sample"], "<f4", 2, -1),
    )


def _frames(base: sqlite3.Connection, map_id: int, place: Mapping[int, int]) -> list[FrameState]:
    found = base.execute(
        "SELECT stamp_ns, camera, keyframe, keyframe_T_frame, unit, session FROM frames WHERE map = ? ORDER BY place",
        (map_id,),
    )
    return [
        FrameState(
            stamp_ns,
            camera,
            place[keyframe],
            None if pose is None else packing.unpack_pose(pose),
            float("nan") if unit is None else unit,
            session,
        )
        for stamp_ns, camera, keyframe, pose, unit, session in found
    ]


def _moments(base: sqlite3.Connection, map_id: int, place: Mapping[int, int]) -> Moments | None:
    found = base.execute(
        "SELECT first, second, loop, counts, numbers FROM moments WHERE map = ? ORDER BY edge", (map_id,)
    ).fetchall()
    if not found:
        return None
    numbers = [np.frombuffer(packing.unseal(row[4]), "<f8") for row in found]
    return Moments(
        ends=np.array([(place[row[0]], place[row[1]]) for row in found], np.int64),
        numbers=np.stack(numbers).astype(np.float64),
        loop=np.array([bool(row[2]) for row in found]),
        on=np.array([bool(row[3]) for row in found]),
    )
