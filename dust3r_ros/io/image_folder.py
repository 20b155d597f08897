"""A folder of images, with stamps from an rgb.txt in the TUM format when there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dust3r_ros.errors import InputError
from dust3r_ros.io.encodings import decode_file
from dust3r_ros.io.frames import FrameSource
from dust3r_ros.io.stamps import stamp_from_text
from dust3r_ros.types import Frame

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
NOMINAL_HZ = 30


class ImageFolder(FrameSource):
    """Images of a folder by natural order of their names, or as its rgb.txt (or its parent's) lists them.

    A folder without images of its own that holds a folder ``rgb`` stands for that one. Without
    rgb.txt the stamps are nominal: 30 Hz from 0.
    """

    def __init__(self, path: Path, camera: str = "camera") -> None:
        super().__init__(str(path))
        self._camera = camera
        self._files = _listed(path) or _plain(path)
        if not self._files and (path / "rgb").is_dir():
            self._files = _plain(path / "rgb")
        if not self._files:
            raise InputError(f"folder '{path}' holds no images; it must hold files that end in {', '.join(SUFFIXES)}")

    def __len__(self) -> int:
        return len(self._files)

    def _frames(self) -> Iterator[Frame | InputError]:
        for stamp_ns, file in self._files:
            try:
                yield Frame(stamp_ns, self._camera, decode_file(file.read_bytes(), f"image '{file}'"))
            except OSError as error:
                yield InputError(f"image '{file}' cannot be read: {error.strerror or error}")
            except InputError as error:
                yield error


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part.lower()) for part in parts]


def _plain(path: Path) -> list[tuple[int, Path]]:
    images = (file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    return [(index * 10**9 // NOMINAL_HZ, file) for index, file in enumerate(sorted(images, key=_natural))]


def _listed(path: Path) -> list[tuple[int, Path]]:
    """What an rgb.txt in the folder or, of the images in this folder, the one in its parent lists, by stamp."""
    if (path / "rgb.txt").is_file():
        return sorted(_entries(path / "rgb.txt"))
    if (path.resolve().parent / "rgb.txt").is_file():
        here = path.resolve()
        return sorted(entry for entry in _entries(here.parent / "rgb.txt") if entry[1].resolve().parent == here)
    return []


def _entries(listing: Path) -> Iterator[tuple[int, Path]]:
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{listing}' cannot be read as text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            parts = line.split(maxsplit=1)
            stamp_ns = stamp_from_text(parts[0])
            if stamp_ns is None or len(parts) < 2:
                raise InputError(f"'{listing}' line {number} is {line.strip()!r}; it must be 'seconds file name'")
            yield stamp_ns, listing.parent / parts[1].strip()
