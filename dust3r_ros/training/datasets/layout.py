"""The interface of a training set's reader, and the frames it finds as rows of one array shared by workers; those of
a camera with a lens as an ideal pinhole would take them.

A part is the unit of listing: a category, a scan, a recording. Its rows are sorted by group; pairs are made within a
group, whose frames share one world. The file is written under a temporary name and renamed. Its name contains a
digest of what was listed, so that a changed tree is listed again.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.geometry.undistortion import Undistortion
from dust3r_ros.io.files import atomic_path, make_folder
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array, Array32, Calibration, Image

SPLITS = ("train", "val")


class Layout(ABC):
    """A set's layout on disk. Everything raises ``InputError`` that names the file.

    ``most_frames`` are used of a group, evenly spread, which bounds the cost of overlaps. ``overlap`` (least, most) of
    pairs, see ``pairs.py``. ``per_unit``: value of 16 bit depth for one unit of the poses.
    """

    version = 1  # version of the reader's output; a new one lists and measures again
    most_frames = 64
    # Cross-view completion takes pairs that share half or more (Weinzaepfel et al., NeurIPS 2022); two-view
    # reconstruction has to cope with less. Views that share nearly everything are the same picture twice.
    overlap = (0.15, 0.95)
    per_unit = 1000.0

    @abstractmethod
    def parts(self, root: Path, split: str) -> list[Part]:
        """The parts below ``root`` that belong to ``split`` ("train" or "val"), by name; [] if there are none."""

    @abstractmethod
    def frames(self, root: Path, part: Part, most: int) -> Iterable[FrameRow]:
        """The frames of a part, those of a group in order of time if they have times.

        Of a group, ``most`` frames, evenly spread, are kept; reading the others may be skipped.
        """

    def image(self, root: Path, frame: FrameRow) -> Image:
        """RGB (H, W, 3) uint8."""
        return reading.image_reader(root / frame.image)()

    def depth(self, root: Path, frame: FrameRow) -> Array32:
        """(H, W) float32, z in the unit of the poses, 0 = none, in the pixels of ``frame.K``."""
        return reading.read(reading.existing(root / frame.depth, "depth file"), self.per_unit)

    def view(self, root: Path, frame: FrameRow) -> tuple[Image, Array32]:
        """Image and depth."""
        return self.image(root, frame), self.depth(root, frame)

    def shared(self, root: Path, part: Part, frames: Sequence[FrameRow]) -> Array32 | None:
        """(N, N) overlaps of the frames from the set's own data; None: from their depth."""
        return None

    def scene(self, group: str) -> str:
        """The scene that a group shows. Groups of one scene come one after another."""
        return group


def inner(path: Path, names: Sequence[str], root: Path) -> list[Part]:
    """The folders in ``path`` that hold the first of ``names``, as parts named relative to ``root``; listing a part
    needs all the names.
    """
    if not path.is_dir():
        return []
    found = [child for child in sorted(path.iterdir()) if (child / names[0]).exists()]
    return [Part(child.relative_to(root).as_posix(), child, tuple(child / name for name in names)) for child in found]


_T = TypeVar("_T")
_VERSION = 2  # version of rows and overlaps; a new one lists everything again
_TEXTS = ("group", "image", "depth", "mask")


@dataclass(frozen=True, eq=False)
class FrameRow:
    """One posed image with depth. File names are relative to the set's folder; "" for none.

    ``K`` (3, 3) and ``w_T_c`` (4, 4) are for the image as given by the set's reader, pixel centres at integers;
    ``size`` (width, height) is that image's, (0, 0) if no file gives it. ``extra``: numbers for this reader only,
    equally many in all rows of a part.
    """

    group: str
    image: str
    depth: str
    K: Array
    w_T_c: Array
    mask: str = ""
    size: tuple[int, int] = (0, 0)
    extra: tuple[float, ...] = ()


@dataclass(frozen=True)
class Part:
    """The unit of listing: its ``name`` within the set, its folder, the files and folders it is listed from."""

    name: str
    folder: Path
    marks: tuple[Path, ...]

    def digest(self, *about: object) -> str:
        """Digest of the listing's inputs: ``about``, and names, sizes and times of the marks."""
        seen = []
        for mark in self.marks:
            try:
                stat = mark.stat()
            except OSError as error:
                raise InputError(f"'{mark}' is needed to list '{self.name}': {error.strerror or error}") from error
            seen.append([str(mark.resolve()), stat.st_size if mark.is_file() else 0, stat.st_mtime_ns])
        text = json.dumps([_VERSION, self.name, list(map(str, about)), seen])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Listing:
    """The rows of a part, and where its groups begin: group g has the rows ``starts[g]`` to ``starts[g + 1]``."""

    path: Path
    rows: np.ndarray
    starts: np.ndarray

    @property
    def groups(self) -> int:
        return len(self.starts) - 1

    def group_of(self, row: int) -> int:
        """The group of a row."""
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def group(self, index: int) -> list[FrameRow]:
        """The frames of a group."""
        return [frame_of(row) for row in self.rows[self.starts[index] : self.starts[index + 1]]]


def listed(path: Path, make: Callable[[], Iterable[FrameRow]], most: int) -> Listing:
    """The listing in the file at ``path``, made and written if it is missing or broken.

    One without rows is not written: its files may still be on their way. Of a group, ``most`` frames are kept, evenly
    spread. Raises ``InputError`` as ``make`` does, ``OutputError`` where the file cannot be written.
    """
    found = _read(path)
    if found is None:
        make_folder(path.parent)
        rows, starts = _packed(list(make()), most)
        if not len(rows):
            return Listing(path, rows, starts)
        # The starts are written last: if they exist, the rows are complete.
        save(path, rows)
        save(_starts(path), starts)
        found = _read(path)
    if found is None:
        raise InputError(f"'{path}' cannot be read back after it was written; choose another folder for the cache")
    return found


def save(path: Path, array: np.ndarray) -> None:
    """Write an array whole or not at all. Raises ``OutputError``."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def load(path: Path) -> np.ndarray | None:
    """A memory-mapped array; None if the file is missing or broken."""
    for mode in ("r", None):  # an empty file cannot be mapped
        try:
            return np.load(path, mmap_mode=mode, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            continue
    return None


def _starts(path: Path) -> Path:
    return path.with_suffix(".starts.npy")


def _read(path: Path) -> Listing | None:
    starts, rows = load(_starts(path)), load(path)
    if starts is None or rows is None or starts.ndim != 1 or not len(starts) or starts[-1] != len(rows):
        return None
    return Listing(path, rows, np.array(starts))


def _packed(frames: Sequence[FrameRow], most: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the kept frames, sorted by group, and where the groups begin."""
    groups: dict[str, list[FrameRow]] = {}
    for frame in frames:
        groups.setdefault(frame.group, []).append(frame)
    kept = [spread(groups[name], most) for name in sorted(groups)]
    starts = np.concatenate([[0], np.cumsum([len(group) for group in kept], dtype=np.int64)]).astype(np.int64)
    return _array_of([frame for group in kept for frame in group]), starts


def _array_of(frames: Sequence[FrameRow]) -> np.ndarray:
    """One row per frame, text fields as wide as the longest text."""
    widths = {name: max((len(getattr(f, name).encode()) for f in frames), default=0) or 1 for name in _TEXTS}
    extra = len(frames[0].extra) if frames else 0
    kinds = [(name, f"S{widths[name]}") for name in _TEXTS]
    rows = np.zeros(
        len(frames),
        np.dtype([*kinds, ("K", "<f8", 4), ("pose", "<f8", (3, 4)), ("size", "<i4", 2), ("extra", "<f8", extra)]),
    )
    for row, f in zip(rows, frames, strict=True):
        for name in _TEXTS:
            row[name] = getattr(f, name).encode()
        row["K"] = f.K[0, 0], f.K[1, 1], f.K[0, 2], f.K[1, 2]
        row["pose"], row["size"], row["extra"] = f.w_T_c[:3], f.size, f.extra
    return rows


def spread(items: Sequence[_T], most: int) -> list[_T]:
    """At most ``most`` of the items, evenly spread, including first and last."""
    if len(items) <= most:
        return list(items)
    return [items[at] for at in np.unique(np.rint(np.linspace(0, len(items) - 1, most)).astype(np.int64))]


def frame_of(row: np.void) -> FrameRow:
    """A row of the array as a frame."""
    fx, fy, cx, cy = map(float, row["K"])
    w_T_c = np.eye(4)
    w_T_c[:3] = row["pose"]
    group, image, depth, mask = (bytes(row[name]).decode() for name in _TEXTS)
    K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    width, height = map(int, row["size"])
    return FrameRow(group, image, depth, K, w_T_c, mask, (width, height), tuple(map(float, row["extra"])))


_MODELS = ("plumb_bob", "equidistant", "rational_polynomial")


def packed_lens(calibration: Calibration) -> tuple[float, ...]:
    """A calibration as the numbers of a row: size, focals, principal point, model, eight coefficients."""
    c = calibration
    known = (*c.coefficients, *(0.0,) * 8)[:8]
    return (c.width, c.height, c.fx, c.fy, c.cx, c.cy, _MODELS.index(c.model), *known)


def unpacked_lens(extra: tuple[float, ...]) -> Calibration:
    """Inverse of ``packed_lens``, up to zeros after the last coefficient."""
    model = _MODELS[int(extra[6])]
    count = {"plumb_bob": 5, "equidistant": 4, "rational_polynomial": 8}[model]
    fx, fy, cx, cy = extra[2:6]
    return Calibration(int(extra[0]), int(extra[1]), fx, fy, cx, cy, model, tuple(extra[7 : 7 + count]))


@lru_cache(maxsize=8)
def _ideal(calibration: Calibration) -> Undistortion:
    """The mapping from images of this camera to those of a pinhole of the same size."""
    return Undistortion.of(calibration, calibration.width, calibration.height)


def pinhole_of(calibration: Calibration, path: Path) -> Array:
    """K (3, 3) of the ideal images. Raises ``InputError``, naming ``path``, for an impossible lens."""
    try:
        c = _ideal(calibration).ideal if not _plain(calibration) else calibration
    except ConfigError as error:
        raise InputError(f"'{path}': {error}") from error
    return np.array([[c.fx, 0.0, c.cx], [0.0, c.fy, c.cy], [0.0, 0.0, 1.0]])


def straight_image(calibration: Calibration, raw: Image, path: Path) -> Image:
    """The ideal image of a raw one. Raises ``InputError``, naming ``path``, for one of another size."""
    height, width = raw.shape[:2]
    if (width, height) != (calibration.width, calibration.height):
        raise InputError(f"image '{path}' is {width}x{height}; its camera is {calibration.width}x{calibration.height}")
    return raw if _plain(calibration) else _ideal(calibration).image(raw)


def straight_depth(calibration: Calibration, raw: Array32, path: Path) -> Array32:
    """The depth (H, W) of the ideal image from raw depth (h, w) of the same camera, possibly smaller.

    Raises ``InputError``, naming ``path``, for another aspect ratio.
    """
    height, width = raw.shape
    size = calibration.width, calibration.height
    if abs(height * size[0] - width * size[1]) > max(size):
        raise InputError(f"depth '{path}' is {width}x{height}; its camera is {size[0]}x{size[1]}, of another shape")
    if (width, height) != size:
        # Nearest: no depth is invented between an object and its background.
        raw = np.asarray(cv2.resize(raw, size, interpolation=cv2.INTER_NEAREST_EXACT), np.float32)
    if _plain(calibration):
        return raw
    moved = _ideal(calibration)
    return np.where(moved.valid, moved.depth(raw), 0).astype(np.float32)


def _plain(calibration: Calibration) -> bool:
    """Whether the camera is already a pinhole; its principal point may lie anywhere."""
    return calibration.model != "equidistant" and not any(calibration.coefficients)
