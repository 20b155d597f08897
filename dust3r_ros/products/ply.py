"""Point clouds as PLY: binary little endian, x y z float, red green blue uchar, confidence float."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dust3r_ros.cloud.cloud import Cloud
from dust3r_ros.errors import InputError
from dust3r_ros.io.files import atomic_path

_VERTEX = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("confidence", "<f4")]
)
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_LONGEST_HEADER = 200  # lines


def write_ply(path: str | Path, cloud: Cloud) -> None:
    """Write a cloud. Raises ``OutputError`` when the file cannot be written."""
    vertices = np.empty(len(cloud), _VERTEX)
    for axis, name in enumerate("xyz"):
        vertices[name] = cloud.points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = cloud.colors[:, channel]
    vertices["confidence"] = cloud.confidence
    kinds = {"<f4": "float", "|u1": "uchar"}
    properties = [f"property {kinds[_VERTEX[name].str]} {name}" for name in _VERTEX.names or ()]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(cloud)}", *properties, "end_header", ""]
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(vertices.data)


def read_ply(path: str | Path) -> Cloud:
    """The vertices of a binary little endian PLY file; colour defaults to grey, confidence to 1.

    Colours are 0 to 255 or, as floats, 0 to 1. Raises ``InputError`` for another kind of PLY, another kind of file, or
    a truncated one.
    """
    try:
        with open(path, "rb") as file:
            count, vertex = _header(file, path)
            needed, rest = count * vertex.itemsize, os.fstat(file.fileno()).st_size - file.tell()
            if rest < needed:
                raise InputError(f"cloud '{path}' is truncated: {count} points need {needed} bytes, it has {rest}")
            vertices = np.frombuffer(file.read(needed), vertex)
    except OSError as error:
        raise InputError(f"cloud '{path}' cannot be read: {error.strerror or error}") from error
    names = set(vertex.names or ())
    points = np.stack([vertices[name] for name in "xyz"], -1).astype(np.float32)
    colors = _colors(vertices, path) if {"red", "green", "blue"} <= names else np.full((count, 3), 128, np.uint8)
    confidence = vertices["confidence"] if "confidence" in names else np.ones(count)
    return Cloud(points, colors, confidence.astype(np.float32))


def _colors(vertices: np.ndarray, path: str | Path) -> np.ndarray:
    """(N, 3) uint8 of vertices that have colours of any type. Raises ``InputError`` for other values."""
    colors = np.stack([vertices[name] for name in ("red", "green", "blue")], -1)
    if colors.dtype.kind == "f" and not (colors > 1).any():
        colors = np.round(255 * colors)
    if not ((colors >= 0) & (colors <= 255)).all():
        raise InputError(f"cloud '{path}' has colours that are not 0 to 255 or, as floats, 0 to 1")
    return colors.astype(np.uint8)


def _header(file: BinaryIO, path: str | Path) -> tuple[int, np.dtype]:
    """Number and layout of the vertices, which have x, y and z; the file is left at the first one."""
    fields: dict[str, str] = {}
    count, element, binary = -1, "", False
    if file.readline(16).strip() != b"ply":
        raise InputError(f"'{path}' is not a PLY file; its first line must be 'ply'")
    for _ in range(_LONGEST_HEADER):
        match file.readline(1000).decode("ascii", "replace").split():
            case ["end_header", *_] if count >= 0 and binary:
                if not {"x", "y", "z"} <= fields.keys():
                    has = ", ".join(sorted(fields)) or "none"
                    raise InputError(f"cloud '{path}' has the properties {has}; x, y and z must be among them")
                return count, np.dtype(list(fields.items()))
            case ["format", *form]:
                binary = form[:1] == ["binary_little_endian"]
                if not binary:
                    raise InputError(f"cloud '{path}' has the format {' '.join(form)}; it must be binary_little_endian")
            case ["element", name, number] if number.isdecimal():
                element = name
                if count < 0 and element != "vertex":
                    raise InputError(f"cloud '{path}' begins with element '{element}'; it must begin with 'vertex'")
                count = int(number) if element == "vertex" else count
            case ["property", *words] if element == "vertex":
                _add(fields, words, path)
    raise InputError(
        f"cloud '{path}' has a damaged header; it must declare its format and vertices and end with 'end_header'"
    )


def _add(fields: dict[str, str], words: list[str], path: str | Path) -> None:
    """Add the NumPy type of a property, from its PLY declaration. Raises ``InputError`` for a list or a name again."""
    if len(words) != 2 or words[0] not in _TYPES or words[1] in fields:
        raise InputError(f"cloud '{path}' has the property '{' '.join(words)}'; it must be a scalar, and there once")
    fields[words[1]] = "<" + _TYPES[words[0]]
