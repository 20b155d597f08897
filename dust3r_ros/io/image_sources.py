"""Opens any recording: a folder of images, a video file or a bag."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from dust3r_ros.errors import InputError, refuse_pointers
from dust3r_ros.io.encodings import decode_cutout
from dust3r_ros.io.files import read_lines
from dust3r_ros.io.frames import FrameSource
from dust3r_ros.io.trajectory import stamp_from_text
from dust3r_ros.types import Frame, Image

if TYPE_CHECKING:
    from dust3r_ros.io.bags.topics import BagTopics


SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
NOMINAL_HZ = 30


class ImageFolder(FrameSource):
    """Images of a folder in natural order of their names, or as listed in its rgb.txt (or its parent's).

    For a folder without images but with a subfolder ``rgb``, the subfolder is read. Without rgb.txt the stamps are
    nominal: 30 Hz from 0. Images of another size than the first, or than that of a camera known before, are of another
    camera, named after it; where sizes differ by a percent, they are cropped or continued to the same, around their
    middle. Of photographs that say so, the focal is known roughly; those of another lens than the first, or of a zoom
    that was turned, are of another camera, too. Those that were taken upright or upside down say where up is; their
    pixels stay as they are stored. Depth images among the images are left out, as is what is transparent, and
    photographs that cannot be read.
    """

    def __init__(self, path: Path, camera: str = "camera") -> None:
        super().__init__(str(path))
        self._camera = camera
        self._focals: dict[str, tuple[float, float] | None] = {}
        self._exif = lru_cache(_LOOKED_AT)(_exif)  # those looked at first are asked again as frames
        self._files = _listed(path)
        for folder in (path, path / "rgb"):
            if not self._files and folder.is_dir():
                self._files, self.remarks = _plain(folder)
        if not self._files:
            raise InputError(f"folder '{path}' holds no images; it must hold files that end in {', '.join(SUFFIXES)}")

    def __len__(self) -> int:
        return len(self._files)

    def _frames(self) -> Iterator[Frame | InputError]:
        first = self._first_lens()
        for stamp_ns, file in self._files:
            if not self.wants(stamp_ns):
                continue
            try:
                read = self.image(self._camera, partial(_decoded, file))
                if isinstance(read, tuple):
                    yield self._frame(stamp_ns, file, *read, first)
                else:
                    yield Frame(stamp_ns, self._camera, read)
            except InputError as error:
                yield error
            except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
                yield InputError(f"image '{file}' cannot be read: {getattr(error, 'strerror', None) or error}")

    def _frame(self, stamp_ns: int, file: Path, image: Image, mask: Image | None, first: int) -> Frame:
        """The frame of an image, of another camera where its lens is not the ``first``."""
        millimetres, orientation = self._exif(file)
        lens = _lens(millimetres)
        name = self._camera if lens in (0, first) else f"{self._camera}_{lens}mm"
        camera, image = fitted(self.named.get(stamp_ns, name), image, self.sizes)
        height, width = image.shape[:2]
        if camera not in self._focals:
            self._focals[camera] = _focal(millimetres, width, height) if lens else None
        if mask is not None:
            mask = _centred(mask[..., None], height, width)[..., 0]
        up = np.array(_UP[orientation]) if self.levels and orientation in _UP else None
        return Frame(stamp_ns, camera, image, mask, up=up, focal=self._focals[camera])

    def _first_lens(self) -> int:
        """The lens of the camera that has the plain name: the first one, or one that fits that camera's known focal.

        0 for none.
        """
        lenses = (_lens(equivalent) for _, file in self._files[:_LOOKED_AT] if (equivalent := self._exif(file)[0]))
        known = self.focals.get(self._camera)
        if known is None or self._camera not in self.sizes:
            return next(lenses, 0)
        height, width = self.sizes[self._camera]
        off = {lens: abs(focal / known - 1) / std for lens in lenses for focal, std in [_focal(lens, width, height)]}
        nearest = min(off, key=off.__getitem__, default=0)
        return nearest if nearest and off[nearest] < 2.0 else 0


_LOOKED_AT = 100  # images, for the first that says its focal
_SAME_SIZE = 0.01  # of it: what rectifies images one by one crops each of them a little differently
_BY_SIZE = re.compile(r"_(\d+)x(\d+)$", re.ASCII)  # ends the name of a camera that is named after its size
_BY_LENS = re.compile(r"_\d+mm$", re.ASCII)  # or, before that, after its lens


def fitted(name: str, image: Image, sizes: dict[str, tuple[int, int]]) -> tuple[str, Image]:
    """The camera of an image, and the image in that camera's size.

    It is ``name``, or one named after it, whose height and width in ``sizes`` are about the same; else another, added.
    """
    if not image.size:  # not needed, so not decoded
        return name, image
    height, width = image.shape[:2]
    for camera, (rows, columns) in sizes.items():
        same = abs(height - rows) <= _SAME_SIZE * rows and abs(width - columns) <= _SAME_SIZE * columns
        if same and name in (camera, _unsized(camera)):
            return camera, _centred(image, rows, columns)
    camera = f"{name}_{width}x{height}" if name in sizes else name
    sizes[camera] = height, width
    return camera, image


def _unsized(camera: str) -> str:
    return _BY_SIZE.sub("", camera)


def plain_name(camera: str) -> str:
    """The name of a camera without its size and lens."""
    return _BY_LENS.sub("", _unsized(camera))


def sizes_of(cameras: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Height and width of those cameras that are named after their size."""
    named = {camera: _BY_SIZE.search(camera) for camera in cameras}
    return {camera: (int(found[2]), int(found[1])) for camera, found in named.items() if found}


_FILM_MM = math.hypot(36.0, 24.0)
_SENSORS = (4 / 3, 3 / 2)  # shapes
_EXIF, _FOCAL_35MM, _ORIENTATION = 0x8769, 0xA405, 0x0112
_FOCAL_MM, _PIXELS, _DENSITIES, _UNIT, _INCH = 0x920A, (0xA002, 0xA003), (0xA20E, 0xA20F), 0xA210, 2
_FOCALS_MM = (8.0, 2000.0)
_WHOLE_STD, _CROPPED_STD = 0.08, 0.12  # focusing and corrections of the lens crop the image, too
# Up in the pixels as stored, by orientation; of other photographs it is assumed of the first one alone.
_UP = {3: (0.0, 1.0, 0.0), 6: (-1.0, 0.0, 0.0), 8: (1.0, 0.0, 0.0)}


def _exif(file: Path) -> tuple[float, int]:
    """Focal of a photograph, mm, as its equivalent on 35 mm film, and its orientation; 0: not said. Needs Pillow."""
    try:
        from PIL import Image as Pillow
    except ImportError:
        return 0.0, 0
    try:
        with Pillow.open(file) as opened:
            if opened.format == "PNG" and "exif" not in opened.info:
                return 0.0, 0  # Pillow would decode it all to look behind the pixels
            exif = opened.getexif()
            orientation = int(exif.get(_ORIENTATION, 0))
            equivalent = _equivalent(exif.get_ifd(_EXIF))
    except Exception:  # Pillow lets errors of struct and others through; the image itself was read
        return 0.0, 0
    return equivalent if _FOCALS_MM[0] <= equivalent <= _FOCALS_MM[1] else 0.0, orientation


def _equivalent(said: Mapping[int, Any]) -> float:
    """Focal of a photograph, mm, as its equivalent on 35 mm film; 0: not said.

    Cameras of Canon say the focal itself, and how many pixels are an inch of the sensor, whose sides are whole
    thousandths of an inch. Where they are not, a program has changed the number of pixels, but not the other one.
    """
    if said.get(_FOCAL_35MM):
        return float(said[_FOCAL_35MM])
    pixels, densities = ([float(said.get(tag, 0)) for tag in tags] for tags in (_PIXELS, _DENSITIES))
    if said.get(_UNIT, _INCH) != _INCH or not all(pixels + densities):
        return 0.0
    sides = [1000.0 * count / density for count, density in zip(pixels, densities, strict=True)]
    whole = all(abs(side - round(side)) < 0.01 for side in sides)
    return float(said.get(_FOCAL_MM, 0)) * _FILM_MM / (0.0254 * math.hypot(*sides)) if whole else 0.0


def _lens(equivalent: float) -> int:
    """An equivalent, mm, to 6 bits, 0 for 0: of a zoom, what differs by less than 2 or 3 percent is one camera."""
    step = 1 << max(0, round(equivalent).bit_length() - 6)
    return round(equivalent / step) * step


def _focal(equivalent: float, width: int, height: int) -> tuple[float, float]:
    """Focal, pixels, of an image with that equivalent, mm, and its relative deviation.

    Equivalents compare diagonals (CIPA DCG-001-2020), that of the sensor with that of film. An image of a shape that
    no sensor has is part of what the sensor saw.
    """
    long, short = max(width, height), min(width, height)
    whole = any(abs(long / short / shape - 1) < 2 * _SAME_SIZE for shape in _SENSORS)
    sensors = [max(long, short * shape) * math.hypot(1.0, 1 / shape) for shape in _SENSORS]
    diagonal = math.hypot(long, short) if whole else math.sqrt(sensors[0] * sensors[1])
    return equivalent * diagonal / _FILM_MM, _WHOLE_STD if whole else _CROPPED_STD


def _centred(image: Image, height: int, width: int) -> Image:
    """An image of about that size, cropped to it, or continued by its border, on all sides alike."""
    more = height - image.shape[0], width - image.shape[1]
    if more == (0, 0):
        return image
    sides = [(max(side, 0) // 2, max(side, 0) - max(side, 0) // 2) for side in more]
    top, left = (max(-side, 0) // 2 for side in more)
    padded = np.pad(image, (*sides, (0, 0)), mode="edge")
    return np.ascontiguousarray(padded[top : top + height, left : left + width])


def _decoded(file: Path) -> tuple[Image, Image | None]:
    return decode_cutout(file.read_bytes(), f"image '{file}'")


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.name)
    found = [(0, int(part), part) if part.isdecimal() else (1, 0, part.lower()) for part in parts]
    return [*found, (2, 0, path.name)]  # names that differ in capitals have an order, too


_UNREAD = (".heic", ".heif", ".avif", ".gif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")


def _plain(path: Path) -> tuple[list[tuple[int, Path]], tuple[str, ...]]:
    """The images of a folder by nominal stamp, and what is left out that lies beside them, a sentence each."""
    files = [file for file in path.iterdir() if not file.name.startswith(".")]
    every = [file for file in files if file.suffix.lower() in SUFFIXES]
    images = [file for file in every if not _is_depth(file)] or every
    stamped = [(index * 10**9 // NOMINAL_HZ, file) for index, file in enumerate(_ordered(images))]
    return stamped, tuple(_left_out(path, files, every, len(every) - len(images)))


def _left_out(path: Path, files: list[Path], every: list[Path], depth: int) -> Iterator[str]:
    """What to say of depth images, and of photographs in a format that is not read."""
    if depth:
        yield f"{depth} depth images in '{path}' are left out"
    names = {file.stem for file in every}  # cameras write some photographs in two formats
    unread = [file for file in files if file.suffix.lower() in _UNREAD and file.stem not in names]
    if unread:
        kinds = ", ".join(sorted({file.suffix for file in unread}))
        yield f"{len(unread)} photographs in '{path}' are left out, as {kinds} is not read; make them JPEG"


def _ordered(files: list[Path]) -> list[Path]:
    decimal = [re.fullmatch(r"\d+\.(\d+)", file.stem) for file in files]
    if all(decimal) and any(len(found[1]) > 2 for found in decimal if found):  # seconds; last zeros may be left out
        return sorted(files, key=lambda file: Decimal(file.stem))
    return sorted(files, key=_natural)


_PNG_GREY_16 = b"\x10\x00"  # depth and type of colour, after the size


def _is_depth(file: Path) -> bool:
    """Whether it is called depth, and is a PNG of 16 bits without colour."""
    if "depth" not in file.stem.lower() or file.suffix.lower() != ".png":
        return False
    try:
        with open(file, "rb") as opened:
            return opened.read(26)[24:] == _PNG_GREY_16
    except OSError:
        return False


def _listed(path: Path) -> list[tuple[int, Path]]:
    """Images by stamp, from rgb.txt in the folder, or those of this folder from rgb.txt in its parent."""
    if (path / "rgb.txt").is_file():
        return sorted(_entries(path / "rgb.txt"))
    if (path.resolve().parent / "rgb.txt").is_file():
        here = path.resolve()
        return sorted(entry for entry in _entries(here.parent / "rgb.txt") if entry[1].parent.resolve() == here)
    return []


def _entries(listing: Path) -> Iterator[tuple[int, Path]]:
    for number, line in read_lines(listing, f"'{listing}' cannot be read as text"):
        parts = line.split(maxsplit=1)
        stamp_ns = stamp_from_text(parts[0])
        if stamp_ns is None or len(parts) < 2:
            raise InputError(f"'{listing}' line {number} is {line!r}; it must be 'seconds file name'")
        yield stamp_ns, listing.parent / parts[1]


_DEFAULT_HZ = 30.0
_LEAST_BYTES = 8  # of a frame in a video, even where nothing moves
_MATROSKA = b"\x1aE\xdf\xa3"  # and WebM: without a count, OpenCV's is duration times a rate, which may vary


class VideoFile(FrameSource):
    """Frames of a video, with stamps from the file or, without any, from its frame rate."""

    def __init__(self, path: Path, camera: str = "camera") -> None:
        super().__init__(str(path))
        self._path = path
        self._camera = camera
        capture = self._open()
        claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        possible = path.stat().st_size // _LEAST_BYTES  # a damaged header may claim any number
        self._count = int(claimed) if 0 < claimed <= possible else 0
        rate = capture.get(cv2.CAP_PROP_FPS)
        self._period_ns = round(1e9 / (rate if np.isfinite(rate) and 0 < rate <= 1e4 else _DEFAULT_HZ))
        with open(path, "rb") as file:
            self._counted = file.read(4) != _MATROSKA
        capture.release()

    def __len__(self) -> int:
        return self._count

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(os.path.abspath(self._path), cv2.CAP_FFMPEG)  # "10:30.mp4" would be a protocol
        if not capture.isOpened():
            refuse_pointers(Path(self._path))
            raise InputError(f"'{self._path}' is not a readable video; give a folder of images, a video file or a bag")
        return capture

    def _frames(self) -> Iterator[Frame | InputError]:
        capture = self._open()
        last = -self._period_ns
        read = longest = 0
        try:
            while True:
                if not capture.grab():
                    break
                read += 1
                stamp_ns = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                stamp_ns = stamp_ns if stamp_ns > last else last + self._period_ns
                longest, last = max(longest, stamp_ns - last), stamp_ns
                if not self.wants(last):
                    continue
                image = self.image(self._camera, partial(_retrieved, capture))
                if image is None:
                    break
                yield Frame(last, *fitted(self.named.get(last, self._camera), image, self.sizes))
        finally:
            capture.release()
        count = self._count
        if not self._counted:
            count = min(count, read + max(0, (count * self._period_ns - last - longest) // self._period_ns))
        # The container's count may be a frame or two off; more means a truncated file.
        for missing in range(read, count if count - read > 2 + 0.01 * count else read):
            yield InputError(f"frame {missing} of {count} cannot be decoded")


def _retrieved(capture: cv2.VideoCapture) -> Image | None:
    """The frame that was grabbed, None if it cannot be decoded."""
    more, pixels = capture.retrieve()
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8) if more and pixels is not None else None


_BAG_SUFFIXES = (".bag", ".mcap", ".db3")


def open_source(
    path: str | Path, topic: str | None = None, camera: str | None = None, *, topics: BagTopics | None = None
) -> FrameSource:
    """The frames of a folder of images, a video file, a ROS 1 bag or a rosbag2 (sqlite3, MCAP; folder or file).

    ``topic`` chooses among the image topics of a bag. ``camera`` names the camera (default: the topic's namespace for
    bags, else "camera"). ``topics`` replaces both, for bags. Raises ``InputError`` when there is nothing to read.
    """
    named, path = str(path), Path(path)
    if not named or not path.exists():  # an empty path, as of a variable that is not set, would be this folder
        raise InputError(f"input '{named}' does not exist; give a folder of images, a video file or a bag")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise InputError(f"input '{path}' may not be read by this user; its permissions must allow it")
    bag = _bag(path)
    if bag is not None:
        from dust3r_ros.io.bags.source import BagSource
        from dust3r_ros.io.bags.topics import BagTopics

        return BagSource(bag, topics or BagTopics((topic,) if topic else (), (camera,) if camera else ()))
    name = _only_camera(path, topic, camera, topics)
    return ImageFolder(path, name) if path.is_dir() else VideoFile(path, name)


def _only_camera(path: Path, topic: str | None, camera: str | None, topics: BagTopics | None) -> str:
    """The camera's name if ``path`` is not a bag. Raises ``InputError`` for options that need a bag."""
    if topics is not None:
        topic, camera = next(iter(topics.named), None), next(iter(topics.cameras), None)
    if topic:
        raise InputError(f"topic '{topic}' was given, but '{path}' is not a bag; leave the topic out")
    if topics is not None and len(topics.cameras) > 1:
        raise InputError(f"{len(topics.cameras)} camera names were given, but '{path}' is from one camera")
    return camera or "camera"


def is_bag(path: str | Path) -> bool:
    """Whether ``open_source`` reads it as a bag."""
    return Path(path).exists() and _bag(Path(path)) is not None


def _bag(path: Path) -> Path | None:
    """The part of ``path`` that rosbags can open; None if it is not a bag."""
    if not path.is_dir():
        return path if path.suffix.lower() in _BAG_SUFFIXES else None
    if (path / "metadata.yaml").is_file():
        return path
    files = sorted(child for child in path.iterdir() if child.suffix.lower() in _BAG_SUFFIXES)
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(
            f"folder '{path}' holds {len(files)} bags and no metadata.yaml; give one of {names}, or, "
            "where they are parts of one recording, let 'ros2 bag reindex' write it"
        )
    return files[0] if files else None
