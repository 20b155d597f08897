"""Ways to damage an input. Every choice comes from the ``Random`` of a case, so that a case can be repeated."""

from __future__ import annotations

import copy
import json
import math
import re
import sqlite3
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

INTEGERS = (0, 1, -1, 2, 7, 255, 65535, 65536, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 10**12, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 0.5, -1.0, 1e-320, 1e30, -1e200, 1.7e308, math.nan, math.inf, -math.inf)
TEXTS = ("", " ", "x", "nan", "\0", "a\nb", "\u2028é", "/", "../x", "{0}%s", "rgb8", "16UC1", "x" * 20_000)
BOMB = zlib.compress(bytes(1 << 30), 9)  # a megabyte that unfolds to a gigabyte
_NUMBER = re.compile(rb"-?\d+(\.\d+)?(e[-+]?\d+)?")
_IN_TEXT = (b"nan", b"inf", b"-inf", b"1e999", b"-1", b"0", b"1e308", b"1e99999999999", b"9" * 400, b"9" * 5000, b"x")
Bytes = bytearray


# Bytes


def _flip(data: Bytes, rng: Random) -> Bytes:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _cut(data: Bytes, rng: Random) -> Bytes:
    return data[: rng.choice((0, 1, rng.randrange(len(data)), rng.randrange(len(data)), len(data) - 1))]


def _part(data: Bytes, rng: Random) -> slice:
    start = rng.randrange(len(data))
    return slice(start, start + rng.choice((1, 4, 16, 64, 1000)))


def _drop(data: Bytes, rng: Random) -> Bytes:
    del data[_part(data, rng)]
    return data


def _repeat(data: Bytes, rng: Random) -> Bytes:
    part = _part(data, rng)
    return data[: part.stop] + data[part] * rng.choice((1, 1, 3, 100)) + data[part.stop :]


def _splice(data: Bytes, rng: Random) -> Bytes:
    source, at = _part(data, rng), rng.randrange(len(data))
    data[at : at + len(data[source])] = data[source]
    return data


def _blank(data: Bytes, rng: Random) -> Bytes:
    part = _part(data, rng)
    count = len(data[part])
    data[part] = rng.choice((bytes(count), b"\xff" * count, rng.randbytes(count)))
    return data


def _length(data: Bytes, rng: Random) -> Bytes:
    """A number of 2, 4 or 8 bytes, early in the file: sizes and counts are there."""
    size = rng.choice("HIQ")
    value = rng.choice((0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, rng.getrandbits(64)))
    at = rng.randrange(min(len(data), rng.choice((64, 512, len(data)))))
    raw = struct.pack(rng.choice("<>") + size, value % (1 << 8 * struct.calcsize(size)))
    data[at : at + len(raw)] = raw
    return data


def _number(data: Bytes, rng: Random) -> Bytes:
    """A number that is written as text."""
    found = [match.span() for match in _NUMBER.finditer(data[: 1 << 20])]
    if found:
        start, end = rng.choice(found)
        data[start:end] = rng.choice(_IN_TEXT)
    return data


def _lines(data: Bytes, rng: Random) -> Bytes:
    lines = data.splitlines(keepends=True)
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(3):
        case 0:
            lines[a], lines[b] = lines[b], lines[a]
        case 1:
            lines.insert(a, lines[b])
        case 2:
            del lines[a]
    return Bytes().join(lines)


_OF_BYTES = (_flip, _flip, _cut, _drop, _repeat, _splice, _blank, _length)
_OF_TEXT = (*_OF_BYTES, _number, _number, _number, _number, _lines, _lines)


def damaged(data: bytes, rng: Random, text: bool = False) -> tuple[bytes, set[str]]:
    """``data`` damaged once or a few times, and by which ways."""
    made, done = Bytes(data), set()
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        way = rng.choice(_OF_TEXT if text else _OF_BYTES)
        if made:
            made = way(made, rng)
            done.add(way.__name__.strip("_"))
    return bytes(made), done


def damage_file(path: Path, rng: Random, text: bool = False) -> set[str]:
    """Damage the bytes of a file; returns by which ways."""
    data, done = damaged(path.read_bytes(), rng, text)
    path.write_bytes(data)
    return done


# Trees of JSON and YAML


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every item as its container and key."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)


def _deep() -> list[Any]:
    made: list[Any] = []
    for _ in range(150):
        made = [made]
    return made


def damage_tree(tree: Any, rng: Random) -> Any:
    """A copy of a JSON or YAML value with one or a few items replaced, renamed, removed or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = list(_places(tree))
        if not places:
            return rng.choice((None, [], {}, "", 1))
        inside, key = rng.choice(places)
        match rng.randrange(8):
            case 0:
                del inside[key]
            case 1:
                inside[key] = [inside[key]]
            case 2:
                where, other = rng.choice(places)
                inside[key] = copy.deepcopy(where[other]) if _has(where, other) else None
            case 3 if isinstance(inside, dict):
                inside[f"{key}x"] = inside.pop(key)
            case _:
                inside[key] = _other(inside[key], rng)
    return tree


def _has(inside: Any, key: Any) -> bool:
    return key in inside if isinstance(inside, dict) else isinstance(key, int) and key < len(inside)


def _other(value: Any, rng: Random) -> Any:
    """A value in place of ``value``, mostly of its type."""
    if rng.random() < 0.2:
        return rng.choice((None, True, [], {}, "", 10**400, _deep(), [0] * 1000))
    if isinstance(value, bool):
        return rng.choice((not value, "no", 2, None))
    if isinstance(value, (int, float)):
        near = value * 1.0001 if abs(value) < 1e300 else 0.1
        return rng.choice((*INTEGERS, *FLOATS, str(value), near))
    if isinstance(value, str):
        return rng.choice((*TEXTS, value + "x", value[:-1], "A" + value[1:]))
    return rng.choice((None, 0, "x", [], {}, [value, value]))


# Cells of SQLite


def damage_database(path: Path, rng: Random) -> set[str]:
    """Change cells, or remove or copy rows, of an SQLite file; returns which."""
    base, done = sqlite3.connect(path, isolation_level=None), set()
    try:
        tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for _ in range(rng.choice((1, 1, 2, 4))):
            table = rng.choice(tables)
            names = [row[1] for row in base.execute(f"PRAGMA table_info({table})")]
            found = base.execute(f"SELECT * FROM {table}").fetchall()
            if not found:
                continue
            row, name = rng.choice(found), rng.choice(names)
            where = " AND ".join(f"{name} IS ?" for name in names)
            done.add(f"{table}.{name}")
            if rng.random() < 0.1:
                base.execute(f"DELETE FROM {table} WHERE {where}", row)
                continue
            value = _cell(row[names.index(name)], rng, [other[names.index(name)] for other in found])
            base.execute(f"UPDATE OR IGNORE {table} SET {name} = ? WHERE {where}", (value, *row))
    except sqlite3.IntegrityError:  # NULL where none may be: the file refuses it
        pass
    finally:
        base.close()
    return done


def _cell(value: Any, rng: Random, column: list[Any]) -> Any:
    if rng.random() < 0.15:
        return rng.choice((None, rng.choice(column), 0, "x", b"", b"x"))
    if isinstance(value, bytes):
        return _blob(value, rng)
    if isinstance(value, str):
        try:
            return json.dumps(damage_tree(json.loads(value), rng))
        except ValueError:
            return rng.choice(TEXTS[2:])
    if isinstance(value, float):
        return rng.choice((*FLOATS, *INTEGERS))
    return rng.choice((*INTEGERS, 1.5, math.inf, "x"))


def _blob(blob: bytes, rng: Random) -> bytes:
    """A blob damaged as it is, or what it holds, sealed again as the map seals it."""
    if rng.random() < 0.1:
        return BOMB
    if rng.random() < 0.4:
        return damaged(blob, rng)[0] if blob else b"x"
    try:
        return zlib.compress(_numbers(zlib.decompress(blob), rng), 1)
    except zlib.error:
        pass
    if len(blob) > 4 and zlib.crc32(blob[:-4]).to_bytes(4, "little") == blob[-4:]:
        inner = _numbers(blob[:-4], rng)
        return inner + zlib.crc32(inner).to_bytes(4, "little")
    return blob[:1] + _blob(blob[1:], rng) if blob[:1] in (b"4", b"8") else damaged(blob, rng)[0]


def _numbers(data: bytes, rng: Random) -> bytes:
    """Bytes in which one number of 4 or 8 bytes is another, or that have another length."""
    made, kind = Bytes(data), rng.choice(("<f4", "<f8", "<i4"))
    if len(made) < 8 or rng.random() < 0.2:
        return bytes(made[: len(made) // 2]) if rng.random() < 0.5 else bytes(made) * 2
    size = np.dtype(kind).itemsize
    at = rng.randrange(len(made) // size) * size
    with np.errstate(all="ignore"):
        value = np.array(rng.choice(FLOATS if "f" in kind else INTEGERS)).astype(kind)
    made[at : at + size] = value.tobytes()
    return bytes(made)


# Messages


def _fields(message: Any) -> list[str]:
    if hasattr(message, "get_fields_and_field_types"):
        return list(message.get_fields_and_field_types())
    return [name for name in message.__dataclass_fields__ if not name.startswith("__")]


def _is_message(value: Any) -> bool:
    return is_dataclass(value) or hasattr(value, "get_fields_and_field_types")


def _leaves(message: Any) -> Iterator[tuple[Any, str]]:
    """Every field that holds no message, as its message and name; lists of messages, too."""
    for name in _fields(message):
        value = getattr(message, name)
        if _is_message(value):
            yield from _leaves(value)
            continue
        yield message, name
        if isinstance(value, list):
            for item in value:
                if _is_message(item):
                    yield from _leaves(item)


def damage_message(message: Any, rng: Random, fits: Callable[[Any], object] = bool) -> set[str]:
    """Change one or a few fields in place, to values that their types can hold; ``fits`` raises for a message that
    cannot be sent. Returns the names of the fields.
    """
    done = set()
    leaves = list(_leaves(message))
    for _ in range(rng.choice((1, 1, 2, 4))):
        owner, name = rng.choice(leaves)
        before = getattr(owner, name)
        for _ in range(8):
            try:
                object.__setattr__(owner, name, _field(before, rng))
                fits(message)
            except Exception:  # whatever says that it does not fit
                object.__setattr__(owner, name, before)
            else:
                done.add(name)
                break
    return done


def _field(value: Any, rng: Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((*INTEGERS, value + 1, value - 1, value * 2))
    if isinstance(value, float):
        return rng.choice((*FLOATS, -value, value * 1e6))
    if isinstance(value, str):
        return rng.choice((*TEXTS, value + "x", "mono16", "bayer_rggb8", "yuyv", "32FC1", "png; compressedDepth"))
    if isinstance(value, array):
        return array(value.typecode, _sequence(np.array(value), rng).tolist())
    if isinstance(value, np.ndarray):
        return _sequence(value, rng)
    count = len(value)
    return rng.choice(([], value[: count // 2], value + value, value[::-1]))


def _sequence(values: np.ndarray, rng: Random) -> np.ndarray:
    values = values.copy()
    if not len(values) or rng.random() < 0.3:
        return rng.choice((values[:0], values[: len(values) // 2], values[:-1], np.concatenate([values, values])))
    if values.dtype == np.uint8:
        return np.frombuffer(damaged(values.tobytes(), rng)[0], np.uint8).copy()
    values[rng.randrange(len(values))] = rng.choice(FLOATS)
    return values
