"""The manifest of a run: the frames a map was made from, and the data known at each, to reproduce the map.

JSON lines. The first line has version and configuration, every other one is a frame or an event, in the order in
which they reached the mapper. Numbers are exact: decimals are the shortest that give the same float, points are
bytes. Images, masks and depth stay in the recording; the manifest has their checksums.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros import __version__
from dust3r_ros.config import MapperConfig, as_mapping, from_mapping
from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.geometry.rigid import is_rigid
from dust3r_ros.io.files import output_error
from dust3r_ros.types import Array, Array32, Calibration, Frame

FORMAT = 1
_MOST = 1 << 26  # bytes of an array
_DAMAGE = (ValueError, KeyError, TypeError, OverflowError)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FrameEntry:
    """A frame that was mapped. ``image``, ``mask``, ``depth`` are checksums; 0 where there was none."""

    stamp_ns: int
    camera: str
    image: int
    mask: int = 0
    depth: int = 0
    o_T_c: Array | None = None
    up: Array | None = None
    points: Array32 | None = None
    focal: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Event:
    """An event between frames: ``kind`` and its values, lists in place of arrays."""

    kind: str
    values: Mapping[str, Any]

    def array(self, name: str) -> Array:
        """An array-valued entry, exact (float64)."""
        return np.array(self.values[name], np.float64)

    def unpacked(self, name: str) -> np.ndarray:
        """An entry that was ``packed``."""
        return unpacked(self.values[name])

    def calibration(self, name: str = "calibration") -> Calibration:
        """A calibration-valued entry. Raises ``InputError`` if it is not one."""
        try:
            values = {field.name: self.values[name][field.name] for field in fields(Calibration)}
        except (KeyError, TypeError) as error:
            raise InputError(f"event '{self.kind}' of a manifest has no value {error} of a calibration") from error
        return Calibration(**{**values, "coefficients": tuple(values["coefficients"])})


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array as values of an event; ``unpacked`` restores it bit by bit."""
    data = zlib.compress(np.ascontiguousarray(array).tobytes())
    return {"type": array.dtype.str, "shape": list(array.shape), "data": base64.b64encode(data).decode("ascii")}


def unpacked(value: Mapping[str, Any]) -> np.ndarray:
    """Restore an array that was ``packed``."""
    return np.frombuffer(_numbers(value["data"]), value["type"]).reshape(value["shape"]).copy()


def _numbers(text: str) -> bytes:
    """Bytes that were compressed and written as text. Raises ``ValueError``."""
    return inflated(base64.b64decode(text, validate=True), "packed numbers are", _MOST)


def inflated(blob: bytes, what: str, most: int) -> bytes:
    """Bytes that were compressed. Raises ``ValueError``, "``what`` damaged", also if they are more than ``most``."""
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(blob, most)
    except zlib.error as error:
        raise ValueError(f"{what} damaged ({error})") from error
    if not inflater.eof:
        raise ValueError(f"{what} damaged (cut off, or more than {most >> 20} MiB)")
    return data


def checksum(array: Any) -> int:
    """CRC-32 of shape and bytes, never 0; 0 for None."""
    if array is None:
        return 0
    shape = ",".join(str(n) for n in array.shape).encode()
    return zlib.crc32(np.ascontiguousarray(array).data, zlib.crc32(shape)) or 1


class ManifestWriter:
    """Writes a manifest line by line, so that a killed process loses only the current line.

    A write that fails (no space) ends the manifest, not the run: ``problem`` says why from then on.
    """

    def __init__(self, path: str | Path) -> None:
        """An existing file is replaced. Raises ``OutputError`` when it cannot be written."""
        self.path = Path(path)
        self.problem = ""
        try:
            self._file: Any = open(self.path, "w", encoding="utf-8", newline="\n")  # noqa: SIM115
        except OSError as error:
            raise output_error(path, error) from error

    def header(self, config: MapperConfig, topics: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """Write the first line. ``topics``: by camera and kind ("image", "mask", "depth"), as far as known."""
        made = {"manifest": FORMAT, "version": __version__, "config": as_mapping(config)}
        self._write({**made, "topics": {name: dict(of) for name, of in (topics or {}).items()}})

    def frame(self, frame: Frame, used: bool = True, reason: str = "") -> None:
        """Write a frame as the session got it; ``used`` is false, with a reason, if the mapper refused it."""
        line: dict[str, Any] = {"stamp": frame.stamp_ns, "camera": frame.camera, "image": checksum(frame.image)}
        for name in ("mask", "depth"):
            if getattr(frame, name) is not None:
                line[name] = checksum(getattr(frame, name))
        for name in ("o_T_c", "up"):
            if getattr(frame, name) is not None:
                line[name] = np.asarray(getattr(frame, name), np.float64).tolist()
        if frame.points is not None:
            packed = zlib.compress(np.ascontiguousarray(frame.points, "<f4").tobytes())
            line["points"] = base64.b64encode(packed).decode("ascii")
        if frame.focal is not None:
            line["focal"] = frame.focal
        if not used:
            line["refused"] = reason or "refused"
        self._write(line)

    def event(self, kind: str, **values: Any) -> None:
        """Write an event: anything else that affects the map."""
        self._write({"event": kind, **values})

    def close(self) -> None:
        """Stop writing; may be called again."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._fail(error)
            self._file = None

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line, default=_plain, separators=(",", ":")) + "\n")
            self._file.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.problem = f"the manifest ends before the run does: {output_error(self.path, error)}"
        _log.warning("%s", self.problem)
        self._file = None


def _plain(value: Any) -> Any:
    """Values that JSON cannot represent."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)


@dataclass(frozen=True, eq=False)
class Manifest:
    """A manifest file; its lines are read on demand."""

    path: Path
    header: Mapping[str, Any]

    @property
    def config(self) -> MapperConfig:
        """The configuration of the run. Raises ``ConfigError`` when this version does not know it."""
        return from_mapping(MapperConfig, self.header["config"])

    @property
    def topics(self) -> Mapping[str, Mapping[str, str]]:
        """Topics of the recording by camera and kind ("image", "mask", "depth"), as far as known."""
        return self.header.get("topics", {})

    @property
    def on_time_jump(self) -> str:
        """What the run did when stamps jumped back: "submap" or "reset"."""
        jumps = any(isinstance(entry, Event) and entry.kind == "jump" for entry in self.entries())
        return "submap" if jumps else "reset"

    def entries(self) -> Iterator[FrameEntry | Event]:
        """Frames that were used, and events, in order; a truncated last line is ignored.

        Raises ``InputError`` for any other invalid line.
        """
        lines = _lines(self.path)
        next(lines, None)
        for number, line, last in lines:
            try:
                values = json.loads(line)
                if "event" in values:
                    yield Event(str(values.pop("event")), values)
                elif "refused" not in values:
                    yield _entry(values)
            except (*_DAMAGE, AttributeError, RecursionError) as error:
                if last:
                    _log.warning("%s: the last line is truncated; it is ignored", self.path)
                    return
                raise InputError(
                    f"line {number} of manifest '{self.path}' cannot be read: {' '.join(str(error).split())}"
                ) from error


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest's header; its entries are read later. Raises ``InputError`` if it is invalid or too new."""
    first = next(_lines(Path(path)), None)
    try:
        header = json.loads(first[1]) if first else None
    except ValueError:
        header = None
    if not isinstance(header, dict) or not isinstance(header.get("manifest"), int) or "config" not in header:
        raise InputError(f"'{path}' is not a manifest; its first line must have the version and the configuration")
    if header["manifest"] > FORMAT:
        raise InputError(f"manifest '{path}' has version {header['manifest']}; this package reads up to {FORMAT}")
    manifest = Manifest(Path(path), header)
    try:
        manifest.config  # noqa: B018  # raises for unknown parameters
    except (ConfigError, AttributeError, TypeError) as error:
        raise InputError(f"manifest '{path}' was written by version {header.get('version')}: {error}") from error
    return manifest


def _lines(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Number and text of each line, and whether it is the last."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            before: tuple[int, str] | None = None
            for number, line in enumerate(file, start=1):
                if before is not None:
                    yield *before, False
                before = number, line
            if before is not None:
                yield *before, True
    except OSError as error:
        raise InputError(f"manifest '{path}' cannot be read: {error.strerror or error}") from error


def _entry(values: Mapping[str, Any]) -> FrameEntry:
    if not isinstance(values["camera"], str):
        raise ValueError(f"its camera is {values['camera']!r}, which is no name")
    points = None
    if "points" in values:
        points = np.frombuffer(_numbers(values["points"]), "<f4").reshape(-1, 3)
        if not np.isfinite(points).all():
            raise ValueError("its points are not finite")
    return FrameEntry(
        _stamp(values),
        values["camera"],
        int(values["image"]),
        int(values.get("mask", 0)),
        int(values.get("depth", 0)),
        _odometry(values),
        _up(values),
        points,
        _focal(values),
    )


def _odometry(values: Mapping[str, Any]) -> Array | None:
    if "o_T_c" not in values:
        return None
    o_T_c = np.array(values["o_T_c"], np.float64).reshape(4, 4)
    if not is_rigid(o_T_c):
        raise ValueError("its odometry is not a rigid motion")
    return o_T_c


def _up(values: Mapping[str, Any]) -> Array | None:
    if "up" not in values:
        return None
    up = np.array(values["up"], np.float64).reshape(3)
    if not abs(np.linalg.norm(up) - 1.0) < 1e-2:
        raise ValueError("its direction up has not length 1")
    return up


def _focal(values: Mapping[str, Any]) -> tuple[float, float] | None:
    if "focal" not in values:
        return None
    focal, std = map(float, values["focal"])
    if not (0 < focal < math.inf and 0 < std < math.inf):
        raise ValueError(f"its focal {focal} +- {std} is none")
    return focal, std


def _stamp(values: Mapping[str, Any]) -> int:
    stamp_ns = values["stamp"]
    if type(stamp_ns) is not int or not -(2**63) <= stamp_ns < 2**63:
        raise ValueError(f"its stamp {stamp_ns!r} is none in nanoseconds")
    return stamp_ns
