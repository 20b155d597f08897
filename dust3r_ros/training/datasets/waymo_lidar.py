"""The lidar of a Waymo frame as points in the world, and where each is seen in a camera's image.

Conventions: dataset.proto of the Waymo Open Dataset. A range image's rows are beams, the highest first; its columns
turn from +180 to -180 degrees about the vehicle's z axis. Inclinations are listed from the lowest up. The top lidar
turns while the car drives, so its points have each a vehicle pose (roll, pitch, yaw, x, y, z) of their own.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.geometry.rigid import transform
from dust3r_ros.layouts.protobuf import Message
from dust3r_ros.types import Array

_TOP = 1
_MOST_BYTES = 1 << 28  # of a range image that is unpacked


def matrix(message: Message, field: int = 1) -> Array:
    """(4, 4) of a Transform. Raises ``ValueError`` where it is none."""
    values = message.doubles(field)
    if values.size != 16 or not np.isfinite(values).all():
        raise ValueError(f"a transform of {values.size} numbers; it must have 16")
    return values.reshape(4, 4)


def seen_points(frame: Message, camera: int) -> tuple[Array, Array]:
    """Points (N, 3) in the world that the lidars measured and camera number ``camera`` sees, at pixels (N, 2).

    Pixels are of the image as stored, lens and rolling shutter included, as the set itself projects them. First
    returns only. Raises ``ValueError`` for a frame that is not as dataset.proto has it.
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
        ranges = _floats(image, 2)[..., 0]
        projections = _integers(image, 3)
        if projections.shape != (*ranges.shape, 6):
            raise ValueError(f"projections of shape {projections.shape} for a range image of {ranges.shape}")
        pose = _floats(image, 4) if name == _TOP and len(image.data(4)) else None
        for first in (0, 3):  # a point is projected into two cameras at most
            row, column = np.nonzero((ranges > 0) & (projections[..., first] == camera))
            inside = _vehicle_points(calibrations[name], ranges, row, column)
            points.append(transform(w_T_v, inside) if pose is None else _moved(inside, pose[row, column]))
            pixels.append(projections[row, column, first + 1 : first + 3].astype(np.float64))
    return np.concatenate(points), np.concatenate(pixels)


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
    # Columns are counted in the vehicle's directions, points are made in the lidar's own.
    own = np.arctan2(v_T_l[1, 0], v_T_l[0, 0])
    azimuth = (2 * (width - column - 0.5) / width - 1) * np.pi - own
    inclination = inclinations[::-1][row]
    level = np.cos(inclination)
    rays = np.stack([np.cos(azimuth) * level, np.sin(azimuth) * level, np.sin(inclination)], axis=-1)
    return transform(v_T_l, rays * ranges[row, column][:, None])


def _moved(points: Array, poses: Array) -> Array:
    """Points (N, 3) of vehicles in the world, by (N, 6) roll, pitch, yaw, x, y, z: R = Rz Ry Rx."""
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
