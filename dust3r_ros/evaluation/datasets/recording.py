"""What every reader gives: recordings of views, whatever the layout on disk; poses by time."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.rigid import interpolate
from dust3r_ros.layouts.reading import Description
from dust3r_ros.types import Array, Array32, Calibration, Image


class Track:
    """Poses (4, 4) sorted by stamp, interpolated in between."""

    def __init__(self, poses: Iterable[tuple[int, Array]]) -> None:
        found = sorted(poses, key=lambda item: item[0])
        self._stamps, self._poses = [stamp for stamp, _ in found], [T for _, T in found]

    def at(self, stamp_ns: int, tolerance_ns: int) -> Array | None:
        """The pose at a stamp; None unless there is a pose at it, or one before and one after within the tolerance."""
        after = bisect_left(self._stamps, stamp_ns)
        if after < len(self._stamps) and self._stamps[after] == stamp_ns:
            return self._poses[after]
        if after == 0 or after == len(self._stamps):
            return None
        low, high = self._stamps[after - 1], self._stamps[after]
        if stamp_ns - low > tolerance_ns or high - stamp_ns > tolerance_ns:
            return None
        return interpolate(self._poses[after - 1], self._poses[after], (stamp_ns - low) / (high - low))


def nearest(stamps: list[int], stamp_ns: int, tolerance_ns: int) -> int | None:
    """Index of the nearest of sorted stamps; None where it is further away than the tolerance (nanoseconds)."""
    if not stamps:
        return None
    after = bisect_left(stamps, stamp_ns)
    around = [index for index in (after - 1, after) if 0 <= index < len(stamps)]
    best = min(around, key=lambda index: abs(stamps[index] - stamp_ns))
    return best if abs(stamps[best] - stamp_ns) <= tolerance_ns else None


def nominal(index: int) -> int:
    """Stamp in nanoseconds of image ``index`` where the data set has none: 30 images a second from 0."""
    return int(index) * 10**9 // 30


def scaled(T: Array, factor: float) -> Array:
    """A pose (4, 4) with its translation multiplied by ``factor``."""
    result = np.array(T, np.float64)
    result[:3, 3] *= factor
    return result


@dataclass(frozen=True, eq=False)
class View:
    """One image with its pose and camera, where known. Nothing is decoded before it is asked for.

    ``K`` (3, 3): pinhole intrinsics in pixels of the image as stored, pixel centres at integers; None where the
    data set gives none. ``w_T_c`` (4, 4): optical frame to world, None where it has no pose. ``calibration``: the
    same as ``K`` with the lens, where images are distorted and the data set gives it. ``name``: the image's file
    below the data set's folder.
    """

    stamp_ns: int
    camera: str
    K: Array | None
    w_T_c: Array | None
    read_image: Callable[[], Image]
    read_depth: Callable[[], Array32] | None = None
    calibration: Calibration | None = None
    name: str = ""

    def image(self) -> Image:
        """RGB (H, W, 3) uint8. Raises ``InputError`` naming the file that cannot be decoded."""
        return self.read_image()

    def depth(self) -> Array32 | None:
        """(H, W) float32 along the optical axis, in the unit of the poses, 0 = none; None where there is no depth."""
        return None if self.read_depth is None else self.read_depth()


@dataclass(frozen=True, eq=False)
class Recording:
    """One sequence, or one set of loose images.

    ``dataset`` is the data set's name, as in ``DATASETS``. ``metric``: poses and depth are in metres. ``ordered``: a
    video, in order of its stamps. ``split``: "train", "val" or "test" where the literature divides the data set,
    else "". ``scene``: what recordings of one place share, with one world frame. ``truth``: files that only this
    data set's protocol reads, by name.
    """

    name: str
    dataset: str
    views: tuple[View, ...]
    metric: bool = True
    ordered: bool = True
    split: str = ""
    scene: str = ""
    truth: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset(Description):
    """A data set to measure on. ``read`` gives the recordings below a folder, one after the other."""

    read: Callable[[Path], Iterator[Recording]]

    def open(self, path: str | Path) -> Iterator[Recording]:
        """The recordings below ``path``, in the order of their names.

        Raises ``InputError`` naming the file that is missing or broken, and for a folder without recordings.
        """
        if not Path(path).is_dir():
            raise InputError(f"'{path}' is not a folder; it must hold {self.name} ('dust3r-eval where {self.name}')")
        return self._found(Path(os.path.abspath(path)))  # recordings are called after folders, and "." is no name

    def _found(self, folder: Path) -> Iterator[Recording]:
        none, recordings = True, self.read(folder)
        while True:
            try:
                recording = next(recordings, None)
                if recording is None:
                    break
                if not recording.views:
                    raise InputError(f"recording '{recording.name}' of {self.name} in '{folder}' holds no image")
            except InputError as error:
                raise InputError(
                    f"{error} ('dust3r-eval where {self.name}' prints the expected directory layout)"
                ) from error
            none = False
            yield recording
        if none:
            raise InputError(
                f"'{folder}' holds nothing of {self.name}; "
                f"'dust3r-eval where {self.name}' prints the expected directory layout"
            )
