"""Reads files of data sets: lines of text, matrices, images, many formats of depth; every error names the file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.errors import GeometryError, InputError
from dust3r_ros.geometry.rigid import from_quaternion, is_rotation, pose
from dust3r_ros.io.encodings import decode_file
from dust3r_ros.io.trajectory import stamp_from_text
from dust3r_ros.types import Array, Array32, Image


@dataclass(frozen=True)
class Description:
    """A data set. ``layout``: lines of a directory tree; ``notes``: its conventions."""

    name: str
    title: str
    source: str
    fetch: str
    licence: str
    layout: str
    notes: str

    def where(self) -> str:
        """What to fetch, from whom, under which licence, and the expected directory layout."""
        layout = "\n".join(f"  {line}" for line in self.layout.strip("\n").splitlines())
        return (
            f"{self.title} ({self.name})\n\nFrom     {self.source}\nFetch    {self.fetch}\nLicence  {self.licence}\n\n"
            f"Expected directory layout:\n\n{layout}\n\n{self.notes}\n"
        )


SUFFIXES = (".png", ".npy", ".pfm", ".exr", ".h5", ".float3")
_HEADER = re.compile(rb"(P[fF])\s+(\d+)\s+(\d+)\s+(-?[0-9.eE+-]+)\s")
_MOST_DIMENSIONS = 4


def read(path: Path, per_unit: float = 1000.0) -> Array32:
    """(H, W) float32 from a depth file with any of ``SUFFIXES``; 0 where it is not finite or not positive.

    ``per_unit``: the value of one unit in a 16 bit PNG; floats are not scaled. Raises ``InputError`` naming a file that
    is missing, truncated or of another form.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        depth = (sixteen_bits(path) / per_unit).astype(np.float32)
    elif suffix in _READERS:
        depth = _READERS[suffix](path)
    else:
        raise InputError(f"depth file '{path}' has an unknown suffix; it must be one of {', '.join(SUFFIXES)}")
    if depth.ndim == 3 and depth.shape[2] == 1:
        depth = depth[..., 0]
    if depth.ndim != 2 or depth.size == 0:
        raise InputError(f"depth file '{path}' holds an array of shape {depth.shape}; it must be (height, width)")
    with np.errstate(invalid="ignore"):
        good = np.isfinite(depth) & (depth > 0)
    return np.where(good, depth, 0).astype(np.float32)


def pfm(path: Path) -> Array32:
    """(H, W) or (H, W, 3) of a portable float map, unscaled. Rows are stored bottom up; a negative scale means little
    endian (Debevec's PFM). Raises ``InputError``.
    """
    data = content(path)
    head = _HEADER.match(data)
    scale = _number(head.group(4)) if head else 0.0
    if head is None or not scale:
        raise InputError(f"'{path}' begins with {data[:24]!r}; a PFM must begin with Pf, width, height and scale")
    shape = (int(head.group(3)), int(head.group(2)), *([3] if head.group(1) == b"PF" else []))
    need = 4 * int(np.prod(shape))
    if len(data) - head.end() != need:
        raise InputError(f"'{path}' holds {len(data) - head.end()} bytes of pixels; {shape} floats need {need}")
    values = np.frombuffer(data, "<f4" if scale < 0 else ">f4", offset=head.end()).reshape(shape)
    return np.ascontiguousarray(values[::-1], np.float32)


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def float3(path: Path) -> Array32:
    """The array of one of Freiburg's float3 files: "float", the number of dimensions, then the dimensions, innermost
    first, one per line, then little endian floats. Raises ``InputError``.
    """
    data = content(path)
    head = _float3_head(data)
    if head is None:
        raise InputError(f"'{path}' begins with {data[:24]!r}; a float3 file must begin with float and its sizes")
    shape, start = head
    need = 4 * int(np.prod(shape))
    if len(data) - start != need:
        raise InputError(f"'{path}' holds {len(data) - start} bytes of numbers; {shape} floats need {need}")
    return np.frombuffer(data, "<f4", offset=start).reshape(shape).astype(np.float32)


def _float3_head(data: bytes) -> tuple[tuple[int, ...], int] | None:
    """The shape of a float3 file's array and the byte at which it begins; None for another kind of file."""
    lines = data[:256].split(b"\n")
    if len(lines) < 2 or lines[0] != b"float" or not lines[1].isdigit():
        return None
    count = int(lines[1])
    dims = lines[2 : 2 + count]
    if not 0 < count <= _MOST_DIMENSIONS or len(dims) != count or not all(dim.isdigit() for dim in dims):
        return None
    return tuple(int(dim) for dim in reversed(dims)), sum(len(line) + 1 for line in lines[: 2 + count])


def hdf5(path: Path, name: str = "depth") -> Array32:
    """The array ``name`` of an HDF5 file. Raises ``InputError``, also if h5py is missing."""
    with opened_hdf5(path) as file:
        try:
            return np.asarray(file[name][()], np.float32)
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"'{path}' does not hold an array '{name}': {error}") from error


def h5py_for(path: Path) -> Any:
    """The package h5py. Raises ``InputError``, naming what is to be read, if it is missing."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"reading '{path}' needs h5py: pip install h5py") from error
    return h5py


def opened_hdf5(path: Path) -> Any:
    """The open HDF5 file. Raises ``InputError`` if it or h5py is missing."""
    try:
        return h5py_for(path).File(path, "r")
    except OSError as error:
        raise InputError(f"'{path}' cannot be read as HDF5: {error}") from error


def _npy(path: Path) -> Array32:
    try:
        values = np.load(path, allow_pickle=False)
        return np.asarray(values, np.float32)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise InputError(f"'{path}' cannot be read as an array of NumPy: {error}") from error


def _exr(path: Path) -> Array32:
    """The first channel. OpenCV opens the format only if an environment variable allows it."""
    import cv2

    existing(path, "depth file")
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
    try:
        values = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    if values is None:
        raise InputError(
            f"'{path}' cannot be read as OpenEXR: it is broken, or this OpenCV is built without the format; "
            "write the depth as .npy, .pfm or 16 bit .png instead"
        )
    return np.asarray(values if values.ndim == 2 else values[..., 2], np.float32)  # OpenCV returns BGR


_READERS = {".npy": _npy, ".pfm": pfm, ".exr": _exr, ".h5": hdf5, ".float3": float3}


def existing(path: Path, what: str = "file") -> Path:
    """``path`` if it exists. Raises ``InputError`` otherwise."""
    if not path.exists():
        raise InputError(f"{what} '{path}' is missing")
    return path


def text(path: Path) -> str:
    """The text of a file. Raises ``InputError``."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"file '{path}' is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' cannot be read as text: {error}") from error


def rows(path: Path, count: int | None = None, form: str = "", separator: str | None = None) -> list[list[str]]:
    """The fields of every line that is neither empty nor a # comment.

    Each must have ``count`` fields, described by ``form``. Raises ``InputError`` naming file and line.
    """
    found = []
    for number, line in enumerate(text(path).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = [part.strip() for part in line.strip().split(separator)]
        if count is not None and len(fields) != count:
            raise InputError(f"'{path}' line {number} is {line.strip()[:80]!r}; it must be '{form}'")
        found.append(fields)
    return found


def floats(path: Path, fields: Iterable[str], finite: bool = True) -> Array:
    """Fields as numbers. Raises ``InputError`` naming the file for one that is not a number or not finite."""
    fields = list(fields)
    try:
        values = np.array([float(field) for field in fields], dtype=np.float64)
    except ValueError as error:
        raise InputError(f"'{path}' holds {' '.join(fields)[:80]!r}, which are not numbers") from error
    if finite and not np.isfinite(values).all():
        raise InputError(f"'{path}' holds {' '.join(fields)[:80]!r}; the numbers must be finite")
    return values


def whole(path: Path, field: str) -> int:
    """A field as a non-negative integer. Raises ``InputError`` naming the file."""
    if not field.isdecimal():
        raise InputError(f"'{path}' holds {field[:80]!r}; it must be a whole number")
    return int(field)


def stamp(path: Path, field: str) -> int:
    """Decimal seconds as nanoseconds. Raises ``InputError`` naming the file."""
    stamp_ns = stamp_from_text(field)
    if stamp_ns is None:
        raise InputError(f"'{path}' holds {field[:80]!r}; it must be seconds")
    return stamp_ns


def matrix(path: Path, height: int, width: int, finite: bool = True) -> Array:
    """The matrix (height, width) in a text file with exactly that many numbers. Raises ``InputError``."""
    values = floats(path, text(path).split(), finite)
    if values.size != height * width:
        raise InputError(f"'{path}' holds {values.size} numbers; it must hold {height} rows of {width}")
    return values.reshape(height, width)


def pose_file(path: Path) -> Array | None:
    """The pose (4, 4) in a text file; None if it is not finite, as for a lost frame. Raises ``InputError``."""
    T = matrix(path, 4, 4, finite=False)
    return rigid(path, T) if np.isfinite(T).all() else None


def rigid(path: Path, T: Array) -> Array:
    """(3, 4) or (4, 4) as a rigid motion (4, 4). Raises ``InputError`` naming the file if it is not one."""
    R = np.asarray(T, np.float64)[:3, :3]
    if not np.isfinite(T).all() or not is_rotation(R, 1e-2):
        raise InputError(f"'{path}' holds a pose that is not a rigid motion: {np.asarray(T).tolist()}")
    # Printed digits are few: take the nearest rotation.
    U, _, Vt = np.linalg.svd(R)
    return pose(U @ Vt, np.asarray(T, np.float64)[:3, 3])


def quaternion_pose(path: Path, translation: Array, xyzw: Array) -> Array:
    """The pose (4, 4) from a translation and a quaternion (x, y, z, w). Raises ``InputError`` naming the file."""
    try:
        return from_quaternion(translation, xyzw)
    except GeometryError as error:
        raise InputError(f"'{path}': {error}") from error


def intrinsics(fx: float, fy: float, cx: float, cy: float, path: Path | None = None) -> Array:
    """K (3, 3). Raises ``InputError``, naming ``path``, unless the focals are positive."""
    if not (np.isfinite([fx, fy, cx, cy]).all() and min(fx, fy) > 0):
        raise InputError(f"'{path}' holds intrinsics {[fx, fy, cx, cy]}; they must be finite, focals positive")
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def read_json(path: Path, kind: type = dict, data: str | None = None) -> Any:
    """The content of a JSON file (or of ``data``), which must be a ``kind``. Raises ``InputError``."""
    try:
        found = json.loads(text(path) if data is None else data)
    except ValueError as error:
        raise InputError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(found, kind):
        raise InputError(f"'{path}' holds a {type(found).__name__}; it must hold a {kind.__name__}")
    return found


def image_reader(path: Path) -> Callable[[], Image]:
    """A function that reads the image, RGB (H, W, 3) uint8. Raises ``InputError`` at once if the file is missing."""
    existing(path, "image")
    return lambda: decode_file(content(path), f"image '{path}'")


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of an image file, from its header. Raises ``InputError``."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with Pillow.open(path) as image:
            return image.size
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise InputError(f"image '{path}' cannot be read: {error}") from error


def depth_reader(path: Path, per_metre: float, none: tuple[int, ...] = ()) -> Callable[[], Array32]:
    """A function that reads 16 bit depth: (H, W) float32 metres, 0 = none. Raises ``InputError`` at once without it.

    ``per_metre``: the value of one metre in the file; ``none``: further values that mean none.
    """
    existing(path, "depth image")

    def read() -> Array32:
        values = sixteen_bits(path)
        depth = (values / per_metre).astype(np.float32)
        for value in none:
            depth[values == value] = 0
        return depth

    return read


def sixteen_bits(path: Path) -> np.ndarray:
    """(H, W) uint16 of a grey PNG. Raises ``InputError``."""
    import cv2

    raw = np.frombuffer(content(path), np.uint8)
    values = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED) if raw.size else None
    if values is None or values.ndim != 2 or values.dtype != np.uint16 or b"IEND" not in raw[-12:].tobytes():
        raise InputError(f"depth image '{path}' cannot be read as a complete 16 bit grey PNG")
    return np.asarray(values)


def registered(depth: Array32, K_depth: Array, K_image: Array, width: int, height: int) -> Array32:
    """Depth resampled for a camera in the same pose with ``K_image`` and ``width`` x ``height`` pixels.

    Nearest neighbour, so that no depth is invented between an object and its background.
    """
    M = K_depth @ np.linalg.inv(K_image)
    u = np.rint(M[0, 0] * np.arange(width) + M[0, 2]).astype(np.int64)
    v = np.rint(M[1, 1] * np.arange(height) + M[1, 2]).astype(np.int64)
    inside_u, inside_v = (u >= 0) & (u < depth.shape[1]), (v >= 0) & (v < depth.shape[0])
    result = np.zeros((height, width), np.float32)
    result[np.ix_(inside_v, inside_u)] = depth[np.ix_(v[inside_v], u[inside_u])]
    return result


def splatted(points: Array, K: Array, width: int, height: int) -> Array32:
    """Depth (height, width) of points (N, 3) in the optical frame: the nearest point per pixel, 0 = none."""
    points = points[points[:, 2] > 1e-3]
    uv = np.rint((points[:, :2] / points[:, 2:]) * K[[0, 1], [0, 1]] + K[:2, 2])
    inside = (uv >= 0).all(axis=1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    u, v = uv[inside].astype(np.int64).T
    nearest = np.full((height, width), np.inf)
    np.minimum.at(nearest, (v, u), points[inside, 2])
    return np.where(np.isfinite(nearest), nearest, 0).astype(np.float32)


def folders(path: Path, holding: str) -> list[Path]:
    """``path`` itself if it has an entry that matches ``holding``, else its subfolders that do, sorted by name."""
    if next(path.glob(holding), None) is not None:
        return [path]
    return [child for child in sorted(path.iterdir()) if child.is_dir() and next(child.glob(holding), None) is not None]


def content(path: Path) -> bytes:
    """The bytes of a file. Raises ``InputError`` naming it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror or error}") from error
