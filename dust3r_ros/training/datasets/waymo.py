"""Waymo Open Dataset, perception (Sun et al., CVPR 2020): streets by five cameras and five lidars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.lens import ray_slopes
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, invert, transform
from dust3r_ros.io.encodings import decode_file
from dust3r_ros.layouts import reading, tfrecord
from dust3r_ros.layouts.protobuf import Message
from dust3r_ros.training.datasets import lenses
from dust3r_ros.training.datasets.layout import Layout
from dust3r_ros.training.datasets.listing import FrameRow, Part
from dust3r_ros.training.datasets.training_set import TrainingSet
from dust3r_ros.training.datasets.waymo_lidar import matrix, seen_points
from dust3r_ros.types import Array, Array32, Calibration, Image

_LONG_SIDE = 768  # pixels of the images given: in larger ones the lidar's points lie too thin to be cut to size
_NEAREST_M = 0.5  # what is closer is the car itself


class Waymo(Layout):
    """A part is a segment (one .tfrecord), which is one group of all its cameras. Rows remember the record's place."""

    most_frames = 160

    def parts(self, root: Path, split: str) -> list[Part]:
        named = root / ("training" if split == "train" else "validation")
        if not named.is_dir():
            named = root
            if split != "train":
                return []
        return [Part(file.relative_to(root).as_posix(), file, (file,)) for file in sorted(named.glob("*.tfrecord"))]

    def frames(self, root: Path, part: Part, most: int) -> Iterable[FrameRow]:
        path = part.folder
        for offset, record in tfrecord.records(path, tfrecord.opened(path)):
            with _blamed(path, offset):
                yield from _rows(part.name, path, offset, Message(record))

    def view(self, root: Path, frame: FrameRow) -> tuple[Image, Array32]:
        with _record(root, frame) as message:
            camera = int(frame.extra[-1])
            image = next(one for one in message.messages(4) if one.number(1) == camera)
            file = root / frame.image
            raw = decode_file(image.data(2), f"image of camera {camera} in '{file}' at byte {int(frame.extra[-2])}")
            depth = _depth(message, image, frame)
        height, width = depth.shape
        straight = lenses.straight_image(lenses.unpacked(frame.extra), raw, file)
        return np.asarray(cv2.resize(straight, (width, height), interpolation=cv2.INTER_AREA), np.uint8), depth

    def depth(self, root: Path, frame: FrameRow) -> Array32:
        with _record(root, frame) as message:
            image = next(one for one in message.messages(4) if one.number(1) == int(frame.extra[-1]))
            return _depth(message, image, frame)


@contextmanager
def _record(root: Path, frame: FrameRow) -> Iterator[Message]:
    """The message of a row's frame."""
    path, offset = root / frame.image, int(frame.extra[-2])
    record = tfrecord.record(path, tfrecord.opened(path), offset)
    with _blamed(path, offset):
        yield Message(record)


@contextmanager
def _blamed(path: Path, offset: int) -> Iterator[None]:
    """What is wrong with a message, said of the file."""
    try:
        yield
    except (ValueError, IndexError, StopIteration) as error:
        raise InputError(
            f"'{path}' holds at byte {offset} no frame of Waymo's perception data: {error or 'a part is missing'}"
        ) from error


def _rows(group: str, path: Path, offset: int, message: Message) -> Iterator[FrameRow]:
    calibrations = {one.number(1): one for one in message.message(1).messages(2)}
    images = message.messages(4)
    if not images:
        raise ValueError("a message without images")
    for image in sorted(images, key=lambda one: one.number(1)):
        name = image.number(1)
        if name not in calibrations:
            raise ValueError(f"camera {name} without a calibration")
        calibration = _calibration(calibrations[name])
        K = _smaller(lenses.pinhole(calibration, path), calibration)
        pose = reading.rigid(path, _pose(message, image, name))
        known = (*lenses.packed(calibration), offset, name)
        yield FrameRow(group, group, "", K, pose, size=_size(calibration), extra=known)


def _calibration(message: Message) -> Calibration:
    """In pixels with centres at integers: the set counts them from the edge."""
    numbers = message.doubles(2)
    width, height = message.number(4), message.number(5)
    if numbers.size != 9 or not np.isfinite(numbers).all() or min(numbers[0], numbers[1], width, height) <= 0:
        raise ValueError(f"a camera of {width}x{height} with intrinsics {numbers.tolist()}")
    fx, fy, cx, cy, k1, k2, p1, p2, k3 = numbers.tolist()
    return Calibration(width, height, fx, fy, cx - 0.5, cy - 0.5, "plumb_bob", (k1, k2, p1, p2, k3))


def _pose(message: Message, image: Message, name: int) -> Array:
    """Optical frame to world: the vehicle's pose at this image, the camera in the vehicle (x forward, z up)."""
    calibration = next(one for one in message.message(1).messages(2) if one.number(1) == name)
    return matrix(image.message(3)) @ matrix(calibration.message(3)) @ BODY_T_OPTICAL


def _scale(calibration: Calibration) -> float:
    return min(1.0, _LONG_SIDE / max(calibration.width, calibration.height))


def _size(calibration: Calibration) -> tuple[int, int]:
    """(width, height) of the images given."""
    scale = _scale(calibration)
    return round(calibration.width * scale), round(calibration.height * scale)


def _smaller(K: Array, calibration: Calibration) -> Array:
    width, height = _size(calibration)
    x, y = width / calibration.width, height / calibration.height
    return np.array(
        [[K[0, 0] * x, 0, (K[0, 2] + 0.5) * x - 0.5], [0, K[1, 1] * y, (K[1, 2] + 0.5) * y - 0.5], [0, 0, 1]]
    )


def _depth(message: Message, image: Message, frame: FrameRow) -> Array32:
    """Depth (H, W) of the image given, where a lidar's point is seen; the nearest of a pixel counts.

    The pixel is where the set has seen the point in the raw image; its ray is that pixel's, the lens taken out.
    """
    calibration = lenses.unpacked(frame.extra)
    points, pixels = seen_points(message, image.number(1))
    z = transform(invert(frame.w_T_c), points)[:, 2]
    slopes = ray_slopes(calibration, pixels[z > _NEAREST_M])
    rays = np.column_stack([slopes, np.ones(len(slopes))])
    return reading.splatted(rays * z[z > _NEAREST_M, None], frame.K, *_size(calibration))


TRAINING_SET = TrainingSet(
    name="waymo",
    title="Waymo Open Dataset, perception v1",
    source="Waymo, https://waymo.com/open (access after agreeing to the licence)",
    fetch="segments of the individual files of perception v1 (.tfrecord), training and validation",
    licence="Waymo Dataset Licence Agreement for Non-Commercial Use",
    layout="""
PATH/training/segment-10017090168044687777_6380_000_6400_000_with_camera_labels.tfrecord ...
PATH/validation/segment-...tfrecord ...
(or PATH/segment-...tfrecord ..., all to train with)
""",
    notes=(
        "Read without TensorFlow; v2 (Parquet) is not read. Pairs within a segment, of any two of its cameras, by\n"
        "depth, in metres. Depth is the lidars' first returns where the set sees them in the image, so it is sparse,\n"
        "and images are given at 768 x 512. Lenses are taken out; the rolling shutter and what moves are as they are."
    ),
    reader=Waymo(),
)
