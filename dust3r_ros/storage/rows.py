"""Keyframes, cameras and focals as rows of a saved map, and back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.mapping.state import FrameState, KeyframeState, PairGeometry
from dust3r_ros.sparse.views import Focal
from dust3r_ros.storage import blobs
from dust3r_ros.types import Array, Camera, Keyframe

_PLAIN = (
    "name", "width", "height", "focal", "focal_std", "support", "fixed", "given", "given_std", "told", "told_std",
)  # fmt: skip
_LENS = ("offset_x", "offset_y", "k1", "k2", "k3")


def put(base: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    """Insert or replace one row."""
    names = ", ".join(row)
    base.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))


def camera_row(camera: Camera, place: int) -> dict[str, Any]:
    """A row of ``cameras``."""
    row = {name: getattr(camera, name) for name in _PLAIN}
    lens = (float(value) for value in (*camera.principal_offset, *camera.distortion))
    plain = {name: value if isinstance(value, str) else _number(value) for name, value in row.items()}
    return {**plain, "place": place, **dict(zip(_LENS, lens, strict=True))}


def _number(value: Any) -> int | float:
    return int(value) if isinstance(value, int | np.integer | np.bool_) else float(value)


def camera(row: Mapping[str, Any]) -> Camera:
    """The camera of a row of any schema."""
    known = {name: row[name] for name in _PLAIN if name in row}
    x, y, k1, k2, k3 = (float(row.get(name, 0.0)) for name in _LENS)
    known["fixed"] = bool(known["fixed"])
    return Camera(**known, principal_offset=(x, y), distortion=(k1, k2, k3))


def lens_text(lens: Lens) -> str:
    """Exact."""
    return json.dumps([lens.radius, lens.radial, *lens.center])


def lens_of(values: Sequence[float]) -> Lens:
    """The way back."""
    radius, radial, x, y = (float(value) for value in values)
    return Lens(radius, radial, (x, y))


def focals_text(focals: Mapping[str, tuple[Focal, float]]) -> str:
    """Focals by camera, each with that of the working images."""
    return json.dumps({name: _focal_fields(focal) | {"working": float(w)} for name, (focal, w) in focals.items()})


def _focal_fields(focal: Focal) -> dict[str, Any]:
    found = {entry.name: getattr(focal, entry.name) for entry in fields(focal)}
    return found | {"lens": [focal.lens.radius, focal.lens.radial, *focal.lens.center]}


def focal_of(values: Mapping[str, Any]) -> Focal:
    """A focal of ``focals_text``."""
    known = {entry.name for entry in fields(Focal)} & values.keys()
    given = {name: values[name] for name in known}
    told = given.get("told")
    return Focal(**given | {"lens": lens_of(values["lens"])} | ({} if told is None else {"told": (told[0], told[1])}))


def image_row(number: int, k: KeyframeState) -> dict[str, Any]:
    """What stays as it is: a row of ``images``."""
    height, width = k.image.shape[:2]
    return {
        "number": number,
        "height": height,
        "width": width,
        "masked": blobs.pack_mask(k.masked),
        "features": blobs.pack_offsets(k.features.pixels, k.center),
        "corners": None if k.corners is None else blobs.pack_offsets(k.corners, k.center),
        "look": blobs.pack_array(k.look, "<f4"),
        "descriptors": blobs.squeeze(k.features.descriptors.tobytes()),
        "image": blobs.pack_image(k.image),
    }


def keyframe_row(number: int, map_id: int, place: int, k: KeyframeState, scale: float) -> dict[str, Any]:
    """What moves: a row of ``keyframes``; ``scale``: what stored depth is multiplied by."""
    return {
        "number": number,
        "map": map_id,
        "place": place,
        "version": int(k.version),
        "stamp_ns": int(k.stamp_ns),
        "camera": k.camera,
        "w_T_c": None if k.w_T_c is None else blobs.pack_pose(k.w_T_c),
        "w_S": None if k.w_S is None else blobs.pack_pose(k.w_S),
        "lens": lens_text(k.lens),
        "depth_scale": scale,
        "moving": blobs.pack_mask(k.moving),
    }


def product_rows(k: Keyframe) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Rows of ``keyframes``, ``images`` and ``depths`` for a keyframe of which no more is known."""
    height, width = k.depth.shape
    scale = blobs.depth_scale(k.depth)
    row = {
        "number": int(k.index), "map": 0, "place": int(k.index), "version": int(k.version), "stamp_ns": int(k.stamp_ns),
        "camera": k.camera, "w_T_c": blobs.pack_pose(k.w_T_c), "focal": float(k.focal), "depth_scale": scale,
    }  # fmt: skip
    image = {"number": int(k.index), "height": height, "width": width, "image": blobs.pack_image(k.image)}
    return row, image, depth_row(int(k.index), k.depth, k.confidence, scale)


def depth_row(number: int, depth: np.ndarray, confidence: np.ndarray, scale: float) -> dict[str, Any]:
    """A row of ``depths``."""
    return {
        "number": number,
        "depth": blobs.pack_map(depth, scale),
        "confidence": blobs.pack_map(confidence),
    }


def pair_row(first: int, second: int, pair: PairGeometry) -> dict[str, Any]:
    """A row of ``pairs``."""
    lenses = [[lens.radius, lens.radial, *lens.center] for lens in pair.lenses]
    return {
        "first": first,
        "second": second,
        "second_T_first": blobs.pack_pose(pair.second_T_first),
        "cameras": json.dumps({"focals": list(pair.focals), "lenses": lenses}),
    }


def pair_of(second_T_first: bytes, cameras: str) -> PairGeometry:
    """The way back."""
    known = json.loads(cameras)
    return PairGeometry(
        blobs.unpack_pose(second_T_first),
        tuple(float(f) for f in known["focals"]),
        tuple(lens_of(values) for values in known["lenses"]),
    )


def frame_row(map_id: int, place: int, frame: FrameState, keyframe: int) -> tuple[Any, ...]:
    """A row of ``frames``; ``keyframe``: the number of the one it hangs on."""
    pose: Array | None = frame.keyframe_T_frame
    blob = None if pose is None else blobs.pack_pose(pose)
    unit = None if np.isnan(frame.unit) else float(frame.unit)
    return map_id, place, frame.session, int(frame.stamp_ns), frame.camera, keyframe, blob, unit
