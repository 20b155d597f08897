"""RealEstate10K (Zhou et al., SIGGRAPH 2018): camera paths of house videos, the frames cut by the user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.datasets.recording import Dataset, Recording, View
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.layouts import reading
from dust3r_ros.types import Array

_FORM = "microseconds fx fy cx cy k1 k2 and 12 of the pose"


def read(path: Path) -> Iterator[Recording]:
    """Clips ``ID.txt`` that have a folder of frames ``ID`` beside them, in ``path`` or its train and test."""
    for folder, split in ((path, ""), (path / "train", "train"), (path / "test", "test")):
        for listing in sorted(folder.glob("*.txt")):
            frames = listing.with_suffix("")
            if frames.is_dir():
                name = listing.stem
                yield Recording(name, DATASET.name, _views(listing, frames), metric=False, split=split, scene=name)


def _views(listing: Path, frames: Path) -> tuple[View, ...]:
    lines = reading.text(listing).splitlines()
    if not lines or "://" not in lines[0]:
        raise InputError(f"'{listing}' begins with {lines[:1]}; its first line must be the video's address")
    views = []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 19:
            raise InputError(f"'{listing}' line {number} is {line[:80]!r}; it must be '{_FORM}'")
        stamp_us, file = reading.whole(listing, fields[0]), _frame(frames, fields[0])
        numbers = reading.floats(listing, fields[1:])
        K = _intrinsics(numbers[:4], file)
        w_T_c = invert(reading.rigid(listing, numbers[6:].reshape(3, 4)))
        image, name = reading.image_reader(file), f"{frames.name}/{file.name}"
        views.append(View(stamp_us * 1000, "camera", K, w_T_c, image, name=name))
    return tuple(views)


def _intrinsics(normalised: Array, file: Path) -> Array:
    """K in pixels, from intrinsics normalised by width and height, with the origin at the image's outer corner."""
    size = np.array(reading.image_size(file), np.float64)
    (fx, fy), (cx, cy) = normalised[:2] * size, normalised[2:] * size - 0.5
    return reading.intrinsics(fx, fy, cx, cy, file)


def _frame(frames: Path, stamp: str) -> Path:
    for suffix in (".jpg", ".png"):
        if (frames / f"{stamp}{suffix}").is_file():
            return frames / f"{stamp}{suffix}"
    raise InputError(f"image '{frames / stamp}.jpg' (or .png) is missing")


DATASET = Dataset(
    name="realestate10k",
    title="RealEstate10K",
    source="Google, https://google.github.io/realestate10k (camera paths); the videos from YouTube, fetched by you",
    fetch="RealEstate10K.tar.gz, and of each clip the frames at its stamps",
    licence="CC BY 4.0 (camera paths); the videos belong to their uploaders",
    layout="""
PATH/test/000c3ab189999a83.txt
PATH/test/000c3ab189999a83/53453400.jpg ...   (named by the stamp, microseconds; .jpg or .png)
""",
    notes="Clips without a folder of frames are skipped. Poses are in an arbitrary unit per clip. No depth.",
    read=read,
)
