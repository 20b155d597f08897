"""Point clouds as PLY: binary little endian, x y z float, red green blue uchar, confidence float."""

from __future__ import annotations

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

    Raises ``InputError`` for another kind of PLY, another kind of file, or a truncated one.
    """
    try:
        with open(path, "rb") as file:
            count, vertex = _header(file, path)
            raw = file.read(count * vertex.itemsize)
    except OSError as error:
        raise InputError(f"cloud '{path}' cannot be read: {error.strerror or error}") from error
    if len(raw) < count * vertex.itemsize:
        needed = count * vertex.itemsize
        raise InputError(f"cloud '{path}' is truncated: {count} points need {needed} bytes, it has {len(raw)}")
    vertices = np.frombuffer(raw, vertex)
    names = set(vertex.names or ())
    if not {"x", "y", "z"} <= names:
        raise InputError(f"cloud '{path}' has the properties {', '.join(sorted(names))}; x, y and z must be among them")
    points = np.stack([vertices[name] for name in "xyz"], -1).astype(np.float32)
    colored = {"red", "green", "blue"} <= names
    colors = np.stack([vertices[n] for n in ("red", "green", "blue")], -1) if colored else np.full((count, 3), 128)
    confidence = vertices["confidence"] if "confidence" in names else np.ones(count)
    return Cloud(points, colors.astype(np.uint8), confidence.astype(np.float32))


def _header(file: BinaryIO, path: str | Path) -> tuple[int, np.dtype]:
    """Number and layout of the vertices; the file is left at the first one."""
    fields: list[tuple[str, str]] = []
    count, element = -1, ""
    if file.readline(16).strip() != b"ply":
        raise InputError(f"'{path}' is not a PLY file; its first line must be 'ply'")
    for _ in range(_LONGEST_HEADER):
        match file.readline(1000).decode("ascii", "replace").split():
            case ["end_header", *_] if count >= 0:
                return count, np.dtype(fields)
            case ["format", *form] if form[:1] != ["binary_little_endian"]:
                raise InputError(f"cloud '{path}' has the format {' '.join(form)}; it must be binary_little_endian")
            case ["element", name, number] if number.isdecimal():
                element = name
                if count < 0 and element != "vertex":
                    raise InputError(f"cloud '{path}' begins with element '{element}'; it must begin with 'vertex'")
                count = int(number) if element == "vertex" else count
            case ["property", *words] if element == "vertex":
                fields.append(_field(words, path))
    raise InputError(f"cloud '{path}' has a damaged header; it must declare its vertices and end with 'end_header'")


def _field(words: list[str], path: str | Path) -> tuple[str, str]:
    """Name and NumPy type of a property, from its PLY declaration. Raises ``InputError`` for a list."""
    if len(words) != 2 or words[0] not in _TYPES:
        raise InputError(f"cloud '{path}' has the property '{' '.join(words)}'; it must be a scalar")
    return words[1], "<" + _TYPES[words[0]]
