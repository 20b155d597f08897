"""Waymo Open Dataset, perception (Sun et al., CVPR 2020): streets by five cameras and five lidars.

Conventions: dataset.proto of the Waymo Open Dataset. A range image's rows are beams, the highest first; its columns
turn from +180 to -180 degrees about the vehicle's z axis. Inclinations are listed from the lowest up. The top lidar
turns while the car drives, so each of its points has its own vehicle pose (roll, pitch, yaw, x, y, z).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.lens import ray_slopes
from dust3r_ros.geometry.rigid import BODY_T_OPTICAL, invert, transform
from dust3r_ros.io.encodings import decode_file
from dust3r_ros.layouts import reading, tfrecord
from dust3r_ros.layouts.tfrecord import Message
from dust3r_ros.training.datasets.layout import (
    FrameRow,
    Layout,
    Part,
    packed_lens,
    pinhole_of,
    straight_image,
    unpacked_lens,
)
from dust3r_ros.training.datasets.pairs import TrainingSet
from dust3r_ros.types import Array, Array32, Calibration, Image

_TOP = 1
_MOST_BYTES = 1 << 28  # of a range image that is unpacked


def matrix(message: Message, field: int = 1) -> Array:
    """(4, 4) of a Transform. Raises ``ValueError`` for anything else."""
    values = message.doubles(field)
    if values.size != 16 or not np.isfinite(values).all():
        raise ValueError(f"a transform of {values.size} numbers; it must have 16")
    return values.reshape(4, 4)


def seen_points(frame: Message, camera: int) -> tuple[Array, Array]:
    """Points (N, 3) in the world that the lidars measured and camera number ``camera`` sees, at pixels (N, 2).

    Pixels are those of the stored image, lens and rolling shutter included, from the set's own projections. First
    returns only. Raises ``ValueError`` for a frame that does not follow dataset.proto.
    """
    calibrations = {one.number(1): one for one in frame.message(1).messages(3)}
    w_T_v = matrix(frame.message(3))
    points, pixels = [np.zeros((0, 3))], [np.zeros((0, 2))]
    for laser in frame.messages(5):
        image = laser.message(2)
        if not len(image.data(2)) or not len(image.data(3)):
            continue
        name = laser.number(1)
        if name not in calibrations:
            raise ValueError(f"lidar {name} without a calibration")
        ranges, projections = _ranges(image)
        pose = _floats(image, 4) if name == _TOP and len(image.data(4)) else None
        for first in (0, 3):  # a point is projected into at most two cameras
            row, column = np.nonzero((ranges > 0) & (projections[..., first] == camera))
            inside = _vehicle_points(calibrations[name], ranges, row, column)
            points.append(transform(w_T_v, inside) if pose is None else _moved(inside, pose[row, column]))
            pixels.append(projections[row, column, first + 1 : first + 3].astype(np.float64))
    return np.concatenate(points), np.concatenate(pixels)


def _ranges(image: Message) -> tuple[Array, NDArray[Any]]:
    """Ranges (H, W), metres, and where they are seen (H, W, 6): camera, column, row, twice."""
    ranges = _floats(image, 2)[..., 0]
    projections = _integers(image, 3)
    if projections.shape != (*ranges.shape, 6):
        raise ValueError(f"projections of shape {projections.shape} for a range image of {ranges.shape}")
    return ranges, projections


def _vehicle_points(calibration: Message, ranges: Array, row: NDArray[Any], column: NDArray[Any]) -> Array:
    """(N, 3) in the vehicle, of cells of a range image (H, W)."""
    height, width = ranges.shape
    inclinations = calibration.doubles(2)
    if not inclinations.size:
        low, high = (float(calibration.doubles(field)[0]) for field in (3, 4))
        inclinations = low + (high - low) * (np.arange(height) + 0.5) / height
    if inclinations.size != height:
        raise ValueError(f"{inclinations.size} inclinations for a range image of {height} rows")
    v_T_l = matrix(calibration.message(5))
    # Columns count directions of the vehicle, points are computed in the lidar's frame.
    own = np.arctan2(v_T_l[1, 0], v_T_l[0, 0])
    azimuth = (2 * (width - column - 0.5) / width - 1) * np.pi - own
    inclination = inclinations[::-1][row]
    level = np.cos(inclination)
    rays = np.stack([np.cos(azimuth) * level, np.sin(azimuth) * level, np.sin(inclination)], axis=-1)
    return transform(v_T_l, rays * ranges[row, column][:, None])


def _moved(points: Array, poses: Array) -> Array:
    """Points (N, 3) from vehicle to world, by poses (N, 6) roll, pitch, yaw, x, y, z: R = Rz Ry Rx."""
    (sr, sp, sy), (cr, cp, cy) = np.sin(poses[:, :3]).T, np.cos(poses[:, :3]).T
    x, y, z = points.T
    y, z = cr * y - sr * z, sr * y + cr * z
    x, z = cp * x + sp * z, cp * z - sp * x
    x, y = cy * x - sy * y, sy * x + cy * y
    return np.stack([x, y, z], axis=-1) + poses[:, 3:]


def _floats(image: Message, field: int) -> Array:
    unpacked = Message(memoryview(_unpacked(image, field)))
    return unpacked.floats(1).astype(np.float64).reshape(_shape(unpacked))


def _integers(image: Message, field: int) -> NDArray[Any]:
    unpacked = Message(memoryview(_unpacked(image, field)))
    return unpacked.integers(1).reshape(_shape(unpacked))


def _shape(unpacked: Message) -> tuple[int, ...]:
    shape = tuple(int(size) for size in unpacked.message(2).integers(1))
    if len(shape) != 3:
        raise ValueError(f"a range image of shape {shape}; it must have three dimensions")
    return shape


def _unpacked(image: Message, field: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(bytes(image.data(field)), _MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"a range image that cannot be unpacked: {error}") from error


_LONG_SIDE = 768  # pixels of the images given: in larger ones the lidar's points are too sparse for crops
_NEAREST_M = 0.5  # closer points are the car itself


class Waymo(Layout):
    """A part is a segment (one .tfrecord), which is one group of all its cameras. Rows store the record's offset."""

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
        straight = straight_image(unpacked_lens(frame.extra), raw, file)
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
    """Turns an error in a message into one that names the file."""
    try:
        yield
    except (ValueError, IndexError, StopIteration) as error:
        raise InputError(
            f"'{path}' has no valid frame of Waymo's perception data at byte {offset}: {error or 'a part is missing'}"
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
        K = _smaller(pinhole_of(calibration, path), calibration)
        pose = reading.rigid(path, _pose(message, image, name))
        known = (*packed_lens(calibration), offset, name)
        yield FrameRow(group, group, "", K, pose, size=_size(calibration), extra=known)


def _calibration(message: Message) -> Calibration:
    """Calibration with pixel centres at integers: the set counts from the edge."""
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
    """Depth (H, W) of the image given, where a lidar point is seen; a pixel takes its nearest.

    Pixels are the set's projections into the raw image, undistorted.
    """
    calibration = unpacked_lens(frame.extra)
    points, pixels = seen_points(message, image.number(1))
    z = transform(invert(frame.w_T_c), points)[:, 2]
    slopes = ray_slopes(calibration, pixels[z > _NEAREST_M])
    seen = np.isfinite(slopes).all(axis=1)
    rays = np.column_stack([slopes, np.ones(len(slopes))])[seen]
    return reading.splatted(rays * z[z > _NEAREST_M][seen, None], frame.K, *_size(calibration))


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
        "Read without TensorFlow; v2 (Parquet) is not supported. Pairs are within a segment, between any two of its\n"
        "cameras, chosen by depth, in metres. Depth is the lidars' first returns where the set projects them into the\n"
        "image, so it is sparse; images are reduced to 768 x 512. Distortion is removed; rolling shutter and moving\n"
        "objects are not."
    ),
    reader=Waymo(),
)
