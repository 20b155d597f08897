"""Which recordings are asked for, under which names, and what is known of each from its folder of results."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dust3r_ros.errors import InputError
from dust3r_ros.fleet import places
from dust3r_ros.io.files import read_lines

Place = Path | str  # a path, or an address as text

RECORD = "fleet.json"
# States of a record. Files are written for the first two; the others are tried again when asked for.
MAPPED, EMPTY = "mapped", "nothing mapped"
FAILED, DIED, RUNNING, WAITING = "failed", "died", "running", "not done"
DONE = (MAPPED, EMPTY)


@dataclass(frozen=True)
class Job:
    """A recording to map: its path and its folder of results, both absolute or addresses; ``size`` in bytes.

    ``request`` is a digest of the recording, the options and the version.
    """

    name: str
    recording: str
    folder: str
    request: str
    size: int


@dataclass(frozen=True)
class Record:
    """What became of a job: content of the file ``RECORD`` in its folder.

    ``figures``: those of the index; ``joined`` among them are the members of a joined map, which has a record, too.
    ``done`` and ``expected`` count frames, ``tries`` how often it was begun.
    """

    recording: str
    request: str
    state: str
    message: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    files: Sequence[str] = ()
    done: int = 0
    expected: int = 0
    tries: int = 1
    host: str = ""
    node: str = ""
    pid: int = 0

    @property
    def members(self) -> list[str]:
        """Names of the maps that were joined into this one; none for the map of a recording."""
        return list(self.figures.get("joined", ()))

    def write(self, folder: str | Path) -> None:
        """Write it to ``folder``, a path or an address, at once. Raises ``OutputError``."""
        places.write_text(places.joined(folder, RECORD), json.dumps(asdict(self), indent=1) + "\n")


def read_record(folder: str | Path) -> Record | None:
    """The record in a folder of results; None if there is none that can be read."""
    try:
        values = json.loads(places.read_text(places.joined(folder, RECORD)) or "")
        return Record(**{item.name: values[item.name] for item in fields(Record)})
    except (ValueError, KeyError, TypeError):
        return None


def records_in(out: str | Path) -> dict[str, Record]:
    """The records below the output folder, a path or an address, by the names of their folders."""
    if places.is_address(out):
        names = [text.split("/")[-2] for text in places.matching(places.joined(out, f"*/{RECORD}"))]
    else:
        names = [path.parent.name for path in sorted(Path(out).glob(f"*/{RECORD}"))]
    found = {name: read_record(places.joined(out, name)) for name in names}
    return {name: record for name, record in found.items() if record is not None}


def is_done(job: Job, record: Record | None) -> bool:
    """Whether ``record`` is of this very request, ended by itself, and the files that it lists are still there."""
    if record is None or record.state not in DONE or record.request != job.request:
        return False
    if places.is_address(job.folder):
        return places.files_below(job.folder) >= set(record.files)
    return all((Path(job.folder) / name).is_file() for name in record.files)


def find_recordings(given: Iterable[str], listings: Iterable[str] = (), out: str = "") -> list[Place]:
    """Absolute paths of recordings, or their addresses, each once, in the order given: paths, patterns, and the lines
    of listings. The output folder ``out`` is left out, as patterns may match it.

    Lines of a listing are relative to its folder; blank ones and those that begin with ``#`` are ignored. Raises
    ``InputError`` for a path that does not exist, a pattern without matches, a listing that cannot be read.
    """
    found = [path for text in given for path in _matching(text)]
    for listing in listings:
        for number, line in read_lines(listing, f"list '{listing}' cannot be read as text"):
            try:
                found += _matching(line, os.path.dirname(listing))
            except InputError as error:
                raise InputError(f"'{listing}' line {number}: {error}") from error
    own = places.canonical(out) if out else ""
    found = [path for path in dict.fromkeys(map(_absolute, found)) if places.canonical(path) != own]
    if not found:
        raise InputError("no recording is given besides the output folder; give paths, patterns or --list FILE")
    return found


def _absolute(path: Place) -> Place:
    """The absolute path; a link keeps its name."""
    if isinstance(path, str):
        return path
    return path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()


def _matching(text: str, folder: str = "") -> Iterator[Place]:
    """What a text names or matches. A path is relative to ``folder``, whose own name is no pattern."""
    if places.is_address(text):
        found = places.matching(text)
        if not found:
            raise InputError(f"there is nothing at '{text}'; give addresses of recordings that exist")
        yield from found
        return
    path = os.path.join(folder, text)
    if os.path.lexists(path):
        yield Path(path)
        return
    if not glob.has_magic(text):
        raise InputError(f"recording '{path}' does not exist; give a folder of images, a video file or a bag")
    matches = sorted(glob.glob(os.path.join(glob.escape(folder), text), recursive=True))
    if not matches:
        raise InputError(f"pattern '{path}' matches nothing; give paths or patterns of recordings that exist")
    yield from map(Path, matches)


def name_all(recordings: Sequence[Place], known: Mapping[str, Record]) -> list[str]:
    """A folder name for each recording, all different.

    It is that of an earlier request, in whose records it is ``known``; otherwise the recording's own name without
    suffix, with as many parent folders before it as tell it from the others.
    """
    by_recording = {record.recording: name for name, record in known.items()}
    alike = Counter(_stem(path) for path in recordings)
    taken, names = set(known), []
    for path in recordings:
        name = by_recording.get(str(path))
        if name is None:
            name = next(one for one in _candidates(path, alike[_stem(path)] > 1) if one not in taken)
            taken.add(name)
        names.append(name)
    return names


def _stem(path: Place) -> str:
    if isinstance(path, str):
        name = places.name_of(path)
        return name if places.is_folder(path) else Path(name).stem
    return path.name if path.is_dir() else path.stem


def _candidates(path: Place, longer: bool) -> Iterator[str]:
    """The shortest name first."""
    if isinstance(path, str):
        parts = [part for part in path.split("://", 1)[1].rstrip("/").split("/")[:-1] if part]
    else:
        parts = [part for part in path.parent.parts if part != path.anchor]
    stem = _stem(path)
    for count in range(longer, len(parts) + 1):
        yield "-".join([*parts[len(parts) - count :], stem])
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1


def fingerprint(path: Place, out: str = "") -> tuple[str, int]:
    """Digest and size of a file, or of all files in a folder: by name, size and time of change, without reading them.

    Of a folder of images that is listed by ``rgb.txt`` beside it, that listing is part; the output folder ``out`` in it
    is not. Raises ``InputError``.
    """
    if isinstance(path, str):
        return places.fingerprint(path)
    digest, size = hashlib.sha256(), 0
    try:
        for name, file in sorted(_files(path, os.path.realpath(out) if out else "")):
            about = os.stat(file)
            digest.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
            size += about.st_size
    except OSError as error:
        raise InputError(f"recording '{path}' cannot be read: {error.strerror or error}") from error
    return digest.hexdigest(), size


def _files(path: Path, out: str) -> Iterator[tuple[str, str]]:
    """Relative name and path of every file that is not in the folder ``out``."""
    if not path.is_dir():
        yield path.name, str(path)
        return
    for folder, folders, names in os.walk(path, onerror=_refuse):
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(folder, name)) != out]
        for name in names:
            file = os.path.join(folder, name)
            with suppress(FileNotFoundError):  # a link to nothing
                os.stat(file)
                yield os.path.relpath(file, path), file
    if (path.parent / "rgb.txt").is_file():
        yield "../rgb.txt", str(path.parent / "rgb.txt")


def _refuse(error: OSError) -> None:
    raise error


def request_of(recording: str, options: Mapping[str, Any], version: str) -> str:
    """Digest of what a map depends on: the recording's fingerprint, the options, the version."""
    text = json.dumps([recording, dict(options), version], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
