"""Reads COLMAP models, text or binary, and camera files of MVSNet.

The format is documented at https://colmap.github.io/format.html. COLMAP counts pixels from the corner of the image;
here, as everywhere in this package, pixel centres are at integers, so half a pixel is subtracted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array, Calibration


def camera(path: Path) -> tuple[Array, Array]:
    """K (3, 3) and ``w_T_c`` (4, 4), in the file's unit, from a file with ``extrinsic`` (world to camera, 4 x 4) and
    ``intrinsic`` (3 x 3). Raises ``InputError``.
    """
    fields = reading.text(path).split()
    if len(fields) < 27 or fields[0] != "extrinsic" or fields[17] != "intrinsic":
        raise InputError(f"'{path}' must hold 'extrinsic' with 16 numbers and 'intrinsic' with 9")
    c_T_w = reading.rigid(path, reading.floats(path, fields[1:17]).reshape(4, 4))
    M = reading.floats(path, fields[18:27]).reshape(3, 3)
    return reading.intrinsics(M[0, 0], M[1, 1], M[0, 2], M[1, 2], path), np.asarray(invert(c_T_w))


_NO_POINT = np.iinfo(np.uint64).max
_MOST_NAME = 4096  # bytes of a file name

# COLMAP's camera models by id and name: number of parameters, and their equivalent in OpenCV.
_Split = Callable[[list[float]], "tuple[list[float], str, tuple[float, ...]]"]
_MODELS: dict[int, tuple[str, int, _Split]] = {
    0: ("SIMPLE_PINHOLE", 3, lambda p: ([p[0], p[0], p[1], p[2]], "plumb_bob", ())),
    1: ("PINHOLE", 4, lambda p: (p[:4], "plumb_bob", ())),
    2: ("SIMPLE_RADIAL", 4, lambda p: ([p[0], p[0], p[1], p[2]], "plumb_bob", (p[3], 0.0, 0.0, 0.0))),
    3: ("RADIAL", 5, lambda p: ([p[0], p[0], p[1], p[2]], "plumb_bob", (p[3], p[4], 0.0, 0.0))),
    4: ("OPENCV", 8, lambda p: (p[:4], "plumb_bob", tuple(p[4:]))),
    5: ("OPENCV_FISHEYE", 8, lambda p: (p[:4], "equidistant", tuple(p[4:]))),
    6: ("FULL_OPENCV", 12, lambda p: (p[:4], "rational_polynomial", tuple(p[4:]))),
}


@dataclass(frozen=True, eq=False)
class ModelImage:
    """A registered image: file name, camera, pose, and the ids (N,) of the 3D points it sees."""

    name: str
    camera: int
    w_T_c: Array
    points: NDArray[np.uint64]


def files(folder: Path) -> tuple[Path, Path]:
    """The files of cameras and images of a model: text if it exists, else binary. Raises ``InputError``."""
    for suffix in (".txt", ".bin"):
        found = folder / f"cameras{suffix}", folder / f"images{suffix}"
        if found[0].is_file():
            reading.existing(found[1], "COLMAP model's file")
            return found
    raise InputError(f"'{folder}' holds no COLMAP model; cameras.txt and images.txt (or .bin) must be there")


def cameras(path: Path) -> dict[int, Calibration]:
    """{id: calibration} from cameras.txt or cameras.bin. Raises ``InputError`` naming the file."""
    found = _cameras_text(path) if path.suffix == ".txt" else _cameras_binary(path)
    return dict(found)


def _cameras_text(path: Path) -> Iterator[tuple[int, Calibration]]:
    by_name = {name: number for number, (name, _, _) in _MODELS.items()}
    for fields in reading.rows(path):
        if len(fields) < 4:
            raise InputError(f"'{path}' holds {' '.join(fields)[:80]!r}; it must be 'number model width height params'")
        number, width, height = (reading.whole(path, fields[at]) for at in (0, 2, 3))
        model = by_name.get(fields[1], -1)
        yield number, _calibration(path, model, fields[1], width, height, reading.floats(path, fields[4:]).tolist())


def _cameras_binary(path: Path) -> Iterator[tuple[int, Calibration]]:
    data = _Bytes(path)
    for _ in range(data.take("<Q")[0]):
        number, model, width, height = data.take("<IiQQ")
        count = _MODELS[model][1] if model in _MODELS else 0
        yield number, _calibration(path, model, str(model), width, height, list(data.take(f"<{count}d")))


def _calibration(path: Path, model: int, named: str, width: int, height: int, numbers: list[float]) -> Calibration:
    known = _MODELS.get(model)
    if known is None:
        names = ", ".join(name for name, _, _ in _MODELS.values())
        raise InputError(f"'{path}' holds a camera of model {named}; known are {names}")
    name, count, split = known
    if len(numbers) != count or min(width, height) <= 0:
        raise InputError(f"'{path}' holds a {name} of {width}x{height} with {len(numbers)} parameters, not {count}")
    (fx, fy, cx, cy), lens, coefficients = split(numbers)
    reading.intrinsics(fx, fy, cx, cy, path)
    if not np.isfinite(coefficients).all():
        raise InputError(f"'{path}' holds distortion {list(coefficients)}; the numbers must be finite")
    return Calibration(width, height, fx, fy, cx - 0.5, cy - 0.5, lens, coefficients)


def images(path: Path) -> list[ModelImage]:
    """The images of images.txt or images.bin, sorted by name. Raises ``InputError`` naming the file."""
    found = _images_text(path) if path.suffix == ".txt" else _images_binary(path)
    return sorted(found, key=lambda image: image.name)


def _images_text(path: Path) -> Iterator[ModelImage]:
    """Two lines per image; the second, with its features, may be empty."""
    lines = [line for line in reading.text(path).splitlines() if not line.startswith("#")]
    for head, features in zip(lines[::2], [*lines[1::2], ""], strict=False):
        fields = head.split(maxsplit=9)
        if not fields:
            continue
        if len(fields) != 10:
            raise InputError(f"'{path}' holds {head[:80]!r}; it must be 'number qw qx qy qz tx ty tz camera name'")
        numbers = reading.floats(path, fields[1:8])
        seen = _points_text(path, fields[9], features)
        yield ModelImage(fields[9].strip(), reading.whole(path, fields[8]), _pose(path, numbers), seen)


def _points_text(path: Path, image: str, features: str) -> NDArray[np.uint64]:
    """The ids (N,) of the 3D points in a line of features 'x y point'; -1 means none."""
    points = features.split()[2::3]
    if len(features.split()) % 3 or not all(point.lstrip("-").isdecimal() for point in points):
        raise InputError(f"'{path}' holds features of image '{image}' that are not triples 'x y point'")
    return np.array([int(point) for point in points if point != "-1"], np.uint64)


def _images_binary(path: Path) -> Iterator[ModelImage]:
    data = _Bytes(path)
    for _ in range(data.take("<Q")[0]):
        _, *numbers, camera = data.take("<I7dI")
        name = data.name()
        features = data.array(np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<u8")]), data.take("<Q")[0])
        points = features["point"][features["point"] != _NO_POINT]
        yield ModelImage(name, camera, _pose(path, np.array(numbers)), points.astype(np.uint64))


def _pose(path: Path, numbers: Array) -> Array:
    """``w_T_c`` from a quaternion (w first) and a translation from world to camera."""
    return np.asarray(invert(reading.quaternion_pose(path, numbers[4:], numbers[[1, 2, 3, 0]])))


class _Bytes:
    """A binary file, read sequentially; reading past its end raises an error naming it."""

    def __init__(self, path: Path) -> None:
        self._path, self._data, self._at = path, reading.content(path), 0

    def take(self, form: str) -> tuple:
        return struct.unpack(form, self._next(struct.calcsize(form)))

    def array(self, kind: np.dtype, count: int) -> np.ndarray:
        return np.frombuffer(self._next(kind.itemsize * count), kind)

    def name(self) -> str:
        end = self._data.find(b"\0", self._at, self._at + _MOST_NAME)
        if end < 0:
            raise InputError(f"'{self._path}' is not a file of a COLMAP model, or is truncated, at byte {self._at}")
        name = self._next(end - self._at).decode("utf-8", "replace")
        self._at += 1
        return name

    def _next(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise InputError(f"'{self._path}' is truncated at byte {len(self._data)}; it is not a complete COLMAP file")
        self._at += size
        return self._data[self._at - size : self._at]
