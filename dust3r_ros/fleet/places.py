"""Recordings and results on this file system, or at addresses (``s3://bucket/bags``) that fsspec understands."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dust3r_ros.errors import ConfigError, Dust3rRosError, InputError, OutputError
from dust3r_ros.io.files import make_folder
from dust3r_ros.io.files import write_text as write_file

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")
# What file systems say about a file that changes with its content, by their own names.
_MARKS = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "mtime", "LastModified", "last_modified", "created")


def is_address(place: str | Path) -> bool:
    """Whether a place has a protocol, as ``s3://bucket/bags``; all others are paths."""
    return _ADDRESS.match(str(place)) is not None


def joined(place: str | Path, name: str) -> str:
    """A name below a place."""
    return f"{str(place).rstrip('/')}/{name}" if is_address(place) else str(Path(place) / name)


def name_of(place: str | Path) -> str:
    """The last part of an address."""
    return str(place).rstrip("/").rpartition("/")[2]


def _at(address: str | Path) -> tuple[Any, str]:
    """The file system of an address, and the path there. Raises ``ConfigError`` for one that cannot be used here."""
    try:
        import fsspec
    except ImportError as error:
        raise ConfigError(
            f"address '{address}' needs fsspec; install the extra 'fleet' (pip install 'dust3r_ros[fleet]')"
        ) from error
    try:
        system, path = fsspec.core.url_to_fs(str(address))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"address '{address}' cannot be used: {error}") from error
    return system, path


def canonical(place: str | Path) -> str:
    """The same text for the same place: a path without links, an address as its file system writes it.

    Raises ``ConfigError`` for an address that cannot be used here.
    """
    if not is_address(place):
        return os.path.realpath(place)
    system, path = _at(place)
    return str(system.unstrip_protocol(path)).rstrip("/")


@contextmanager
def _reported_as(address: str | Path, what: str, kind: type[Dust3rRosError]) -> Iterator[None]:
    """Errors of a file system, of which each has its own, as one of ours."""
    try:
        yield
    except Dust3rRosError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise kind(f"'{address}' cannot be {what}: {type(error).__name__}: {reason}") from error


def matching(pattern: str) -> list[str]:
    """Addresses that exist and match, sorted. Raises ``InputError`` for a file system that gives no answer."""
    with _reported_as(pattern, "looked for", InputError):
        system, path = _at(pattern)
        found = sorted(system.glob(path)) if re.search(r"[*?\[]", path) else [path] * system.exists(path)
        return [str(system.unstrip_protocol(one)).rstrip("/") for one in found]


def is_folder(address: str | Path) -> bool:
    """Whether there are files below an address. Raises ``InputError``."""
    with _reported_as(address, "read", InputError):
        system, path = _at(address)
        return bool(system.isdir(path))


def fingerprint(address: str) -> tuple[str, int]:
    """Digest and size of a file, or of all files below an address: by name, size, and what the file system says of
    their content or time, without reading them. Raises ``InputError``."""
    digest, total = hashlib.sha256(), 0
    with _reported_as(address, "read", InputError):
        system, path = _at(address)
        for name, about in sorted(system.find(path, detail=True).items()):
            marks = [str(about[mark]) for mark in _MARKS if about.get(mark) is not None]
            size = int(about.get("size") or 0)
            digest.update("\0".join([name.removeprefix(path), str(size), *marks, ""]).encode())
            total += size
    return digest.hexdigest(), total


def files_below(place: str | Path) -> set[str]:
    """Names of the files directly in a place; none if it does not exist. Raises ``InputError``."""
    if not is_address(place):
        return {path.name for path in Path(place).iterdir() if path.is_file()} if Path(place).is_dir() else set()
    with _reported_as(place, "read", InputError):
        system, path = _at(place)
        with suppress(FileNotFoundError):
            return {name_of(one["name"]) for one in system.ls(path, detail=True) if one["type"] == "file"}
    return set()


def read_text(place: str | Path) -> str | None:
    """A file's text; None if there is none. Raises ``InputError`` for an address that gives no answer."""
    if not is_address(place):
        with suppress(OSError, ValueError):
            return Path(place).read_text(encoding="utf-8")
        return None
    with _reported_as(place, "read", InputError):
        system, path = _at(place)
        system.invalidate_cache()
        with suppress(FileNotFoundError, UnicodeDecodeError):
            return str(system.cat_file(path).decode("utf-8"))
    return None


def write_text(place: str | Path, text: str) -> None:
    """Write a whole file. Raises ``OutputError``."""
    if not is_address(place):
        write_file(place, text)
        return
    with _reported_as(place, "written", OutputError):
        system, path = _at(place)
        with suppress(NotImplementedError):  # of those that know folders
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.pipe_file(path, text.encode("utf-8"))


def remove(place: str | Path) -> None:
    """Remove a file, if there is one. Raises ``OutputError``."""
    with _reported_as(place, "removed", OutputError):
        if not is_address(place):
            Path(place).unlink(missing_ok=True)
            return
        system, path = _at(place)
        with suppress(FileNotFoundError):
            system.rm_file(path)


@contextmanager
def staged(recording: str, folder: str) -> Iterator[tuple[str, str]]:
    """Paths on this machine for a recording and a folder of results.

    What has an address is copied: the recording before the block, the results after it, to a temporary folder that is
    removed. Raises ``InputError``, ``OutputError``.
    """
    with tempfile.TemporaryDirectory(prefix="dust3r-") as place:
        taken, left = recording, folder
        if is_address(recording):
            taken = str(make_folder(Path(place) / "in") / name_of(recording))
            with _reported_as(recording, "read", InputError):
                system, path = _at(recording)
                system.get(path, taken, recursive=bool(system.isdir(path)))
        if is_address(folder):
            left = str(make_folder(Path(place) / "out" / name_of(folder)))
        yield taken, left
        if is_address(folder):
            with _reported_as(folder, "written", OutputError):
                system, path = _at(folder)
                with suppress(NotImplementedError):
                    system.makedirs(path, exist_ok=True)
                for file in sorted(Path(left).iterdir()):
                    system.put_file(str(file), f"{path}/{file.name}")
