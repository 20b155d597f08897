"""Depth maps and matrices in floats: PFM, HDF5, NumPy, OpenEXR and Freiburg's float3, beside 16 bit PNG."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array32

SUFFIXES = (".png", ".npy", ".pfm", ".exr", ".h5", ".float3")
_HEADER = re.compile(rb"(P[fF])\s+(\d+)\s+(\d+)\s+(-?[0-9.eE+-]+)\s")
_MOST_DIMENSIONS = 4


def read(path: Path, per_unit: float = 1000.0) -> Array32:
    """(H, W) float32 of a depth file of any of ``SUFFIXES``; 0 where it is not finite or not above 0.

    ``per_unit``: what a 16 bit PNG holds for one unit; floats are taken as they are. Raises ``InputError`` naming the
    file that is missing, truncated or of another form.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        depth = (reading.sixteen_bits(path) / per_unit).astype(np.float32)
    elif suffix in _READERS:
        depth = _READERS[suffix](path)
    else:
        raise InputError(f"depth file '{path}' is of a kind that is not read; {', '.join(SUFFIXES)} are")
    if depth.ndim == 3 and depth.shape[2] == 1:
        depth = depth[..., 0]
    if depth.ndim != 2 or depth.size == 0:
        raise InputError(f"depth file '{path}' holds an array of shape {depth.shape}; it must be (height, width)")
    with np.errstate(invalid="ignore"):
        good = np.isfinite(depth) & (depth > 0)
    return np.where(good, depth, 0).astype(np.float32)


def pfm(path: Path) -> Array32:
    """(H, W) or (H, W, 3) of a portable float map, as it is. Rows lie from the bottom up; a scale below 0 says little
    endian (Debevec's PFM). Raises ``InputError``.
    """
    data = reading.content(path)
    head = _HEADER.match(data)
    scale = _number(head.group(4)) if head else 0.0
    if head is None or not scale:
        raise InputError(f"'{path}' begins with {data[:24]!r}; a PFM must begin with Pf, width, height and scale")
    shape = (int(head.group(3)), int(head.group(2)), *([3] if head.group(1) == b"PF" else []))
    need = 4 * int(np.prod(shape))
    if len(data) - head.end() != need:
        raise InputError(f"'{path}' holds {len(data) - head.end()} bytes of pixels; {shape} floats are {need}")
    values = np.frombuffer(data, "<f4" if scale < 0 else ">f4", offset=head.end()).reshape(shape)
    return np.ascontiguousarray(values[::-1], np.float32)


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def float3(path: Path) -> Array32:
    """An array of Freiburg's float3 files: "float", the number of dimensions, each of them from the innermost out, one
    a line, then little endian floats. Raises ``InputError``.
    """
    data = reading.content(path)
    head = data[:256].split(b"\n")
    count = int(head[1]) if len(head) > 1 and head[0] == b"float" and head[1].isdigit() else 0
    dims = head[2 : 2 + count]
    if not 0 < count <= _MOST_DIMENSIONS or len(dims) != count or not all(dim.isdigit() for dim in dims):
        raise InputError(f"'{path}' begins with {data[:24]!r}; a float3 file must begin with float and its sizes")
    shape = tuple(int(dim) for dim in reversed(dims))
    start = sum(len(line) + 1 for line in head[: 2 + count])
    need = 4 * int(np.prod(shape))
    if len(data) - start != need:
        raise InputError(f"'{path}' holds {len(data) - start} bytes of numbers; {shape} floats are {need}")
    return np.frombuffer(data, "<f4", offset=start).reshape(shape).astype(np.float32)


def hdf5(path: Path, name: str = "depth") -> Array32:
    """The array ``name`` of an HDF5 file. Raises ``InputError``, also where h5py is missing."""
    with opened_hdf5(path) as file:
        try:
            return np.asarray(file[name][()], np.float32)
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"'{path}' does not hold an array '{name}': {error}") from error


def opened_hdf5(path: Path) -> Any:
    """The open HDF5 file. Raises ``InputError`` where it or what reads it is missing."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"reading '{path}' takes h5py: pip install h5py") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"'{path}' cannot be read as HDF5: {error}") from error


def _npy(path: Path) -> Array32:
    try:
        values = np.load(path, allow_pickle=False)
        return np.asarray(values, np.float32)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise InputError(f"'{path}' cannot be read as an array of NumPy: {error}") from error


def _exr(path: Path) -> Array32:
    """The first channel. OpenCV asks for leave by a variable before it opens the format."""
    import cv2

    reading.existing(path, "depth file")
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
    return np.asarray(values if values.ndim == 2 else values[..., 2], np.float32)  # OpenCV has the channels as BGR


_READERS = {".npy": _npy, ".pfm": pfm, ".exr": _exr, ".h5": hdf5, ".float3": float3}
