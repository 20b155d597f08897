"""Images of a camera with a lens, and their depth, as an ideal pinhole would take them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from dust3r_ros.errors import ConfigError, InputError
from dust3r_ros.geometry.undistortion import Undistortion
from dust3r_ros.types import Array, Array32, Calibration, Image

_MODELS = ("plumb_bob", "equidistant", "rational_polynomial")


def packed(calibration: Calibration) -> tuple[float, ...]:
    """A calibration as the numbers of a row: size, focals, principal point, model, eight coefficients."""
    c = calibration
    known = (*c.coefficients, *(0.0,) * 8)[:8]
    return (c.width, c.height, c.fx, c.fy, c.cx, c.cy, _MODELS.index(c.model), *known)


def unpacked(extra: tuple[float, ...]) -> Calibration:
    """Inverse of ``packed``, up to zeros after the last coefficient."""
    model = _MODELS[int(extra[6])]
    count = {"plumb_bob": 5, "equidistant": 4, "rational_polynomial": 8}[model]
    fx, fy, cx, cy = extra[2:6]
    return Calibration(int(extra[0]), int(extra[1]), fx, fy, cx, cy, model, tuple(extra[7 : 7 + count]))


@lru_cache(maxsize=8)
def ideal(calibration: Calibration) -> Undistortion:
    """The mapping from images of this camera to those of a pinhole of the same size."""
    return Undistortion.of(calibration, calibration.width, calibration.height)


def pinhole(calibration: Calibration, path: Path) -> Array:
    """K (3, 3) of the ideal images. Raises ``InputError``, naming ``path``, for an impossible lens."""
    try:
        c = ideal(calibration).ideal if not _plain(calibration) else calibration
    except ConfigError as error:
        raise InputError(f"'{path}': {error}") from error
    return np.array([[c.fx, 0.0, c.cx], [0.0, c.fy, c.cy], [0.0, 0.0, 1.0]])


def straight_image(calibration: Calibration, raw: Image, path: Path) -> Image:
    """The ideal image of a raw one. Raises ``InputError``, naming ``path``, for one of another size."""
    height, width = raw.shape[:2]
    if (width, height) != (calibration.width, calibration.height):
        raise InputError(f"image '{path}' is {width}x{height}; its camera is {calibration.width}x{calibration.height}")
    return raw if _plain(calibration) else ideal(calibration).image(raw)


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
    moved = ideal(calibration)
    return np.where(moved.valid, moved.depth(raw), 0).astype(np.float32)


def _plain(calibration: Calibration) -> bool:
    """Whether the camera is already a pinhole; its principal point may lie anywhere."""
    return calibration.model != "equidistant" and not any(calibration.coefficients)
