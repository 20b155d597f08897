"""Rectify images of a calibrated camera to an ideal pinhole: square pixels, centred, no lens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import ConfigError
from dust3r_ros.geometry.lens import LensModel
from dust3r_ros.types import Array32, Calibration, Image

MOST_PIXELS = 1 << 27  # of an image: what claims more is damaged, and would take gigabytes
_LEAST_VALID = 0.5  # of the ideal pixels must be seen by the camera
_CENTERED_PX, _SQUARE = 0.01, 1e-5  # smaller differences are ignored


@dataclass(frozen=True, eq=False)
class Undistortion:
    """Maps raw images of ``width`` x ``height`` to a pinhole of the same size with a centred principal point.

    ``focal`` (pixels) is sqrt(fx fy). With a wide lens that would crop too much: if more than a fifth of the raw
    pixels fell outside, the focal is reduced until a fifth does, at most to half. ``valid`` (H, W) bool:
    ideal pixels that the camera sees. ``maps`` is None if raw images are already ideal.
    """

    calibration: Calibration
    width: int
    height: int
    focal: float
    valid: NDArray[np.bool_]
    maps: tuple[Array32, Array32] | None = None

    @classmethod
    def of(cls, calibration: Calibration, width: int, height: int) -> Undistortion:
        """For images of ``width`` x ``height``: the calibration's size, scaled, with the same aspect ratio.

        Raises ``ConfigError`` for a calibration that cannot belong to such images or has an unknown model.
        """
        scaled = scaled_calibration(calibration, width, height)
        lens = LensModel.of(scaled)
        focal = math.sqrt(scaled.fx * scaled.fy)
        if lens.plain and _is_ideal(scaled):
            return cls(calibration, width, height, focal, np.ones((height, width), bool))
        focal = lens.wide_enough(focal)
        maps, valid = lens.maps(focal)
        if valid.mean() < _LEAST_VALID:
            raise ConfigError(
                f"calibration ({_named(calibration)}) covers {valid.mean():.0%} of a rectified image; it must "
                "cover most: the distortion does not belong to the lens, or the principal point is wrong"
            )
        return cls(calibration, width, height, focal, valid, maps)

    @property
    def identity(self) -> bool:
        """Whether raw images are already ideal."""
        return self.maps is None

    @property
    def ideal(self) -> Calibration:
        """The pinhole."""
        middle = (self.width - 1) / 2.0, (self.height - 1) / 2.0
        return Calibration(self.width, self.height, self.focal, self.focal, *middle)

    def image(self, raw: Image) -> Image:
        """The ideal image of a raw one (H, W, 3); edge pixels are repeated beyond what the camera sees.

        Raises ``ConfigError`` for an image of another size.
        """
        self._check(raw)
        if self.maps is None:
            return raw
        return np.asarray(cv2.remap(raw, *self.maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)

    def mask(self, raw: Image | None = None) -> Image | None:
        """The mask (H, W) uint8 of an ideal image: nonzero where the raw mask is or where the camera does not see.

        None if nothing is masked: no raw mask, and the camera sees every pixel.
        """
        if raw is None:
            return None if self.valid.all() else np.where(self.valid, 0, 255).astype(np.uint8)
        self._check(raw)
        if self.maps is None:
            return raw
        mask = cv2.remap((raw > 0).view(np.uint8), *self.maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        return np.where(self.valid & (mask == 0), 0, 255).astype(np.uint8)

    def depth(self, raw: Array32) -> Array32:
        """Rectify a depth image (h, w) registered to the raw image, possibly of another size; 0 where unknown.

        Depth is measured along the optical axis, which stays, so only pixels move.
        """
        if self.maps is None:
            return raw
        height, width = raw.shape
        maps, valid = self.maps, self.valid
        if (height, width) != (self.height, self.width):
            lens = LensModel.of(scaled_calibration(self.calibration, width, height))
            maps, valid = lens.maps(self.focal * width / self.width)
        moved = cv2.remap(raw, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
        return np.where(valid, moved, 0.0).astype(np.float32)

    def _check(self, raw: NDArray[np.uint8]) -> None:
        height, width = raw.shape[:2]
        if (width, height) != (self.width, self.height):
            raise ConfigError(f"image is {width}x{height}; it must be {self.width}x{self.height}")


def scaled_calibration(calibration: Calibration, width: int, height: int) -> Calibration:
    """The calibration, checked, for the same images scaled to ``width`` x ``height``.

    Raises ``ConfigError`` for impossible numbers and for images of another aspect ratio.
    """
    _check_numbers(calibration, width, height)
    c = calibration
    x, y = width / c.width, height / c.height
    cx, cy = (c.cx + 0.5) * x - 0.5, (c.cy + 0.5) * y - 0.5
    return Calibration(width, height, c.fx * x, c.fy * y, cx, cy, c.model, c.coefficients)


def _check_numbers(c: Calibration, width: int, height: int) -> None:
    """Raises ``ConfigError`` for a calibration that cannot belong to images of ``width`` x ``height``."""
    name = _named(c)
    if not all(math.isfinite(v) for v in (c.fx, c.fy, c.cx, c.cy, *c.coefficients)):
        raise ConfigError(f"calibration ({name}) holds numbers that are not finite")
    if min(c.width, c.height, width, height) <= 0:
        raise ConfigError(
            f"calibration ({name}) is for {c.width}x{c.height}, images are {width}x{height}; sizes must be positive"
        )
    if max(c.width * c.height, width * height) > MOST_PIXELS:
        raise ConfigError(f"calibration ({name}) is for {c.width}x{c.height}; at most {MOST_PIXELS} pixels are read")
    if not _plausible_focals(c):
        raise ConfigError(
            f"calibration ({name}): fx and fy must be similar and between 0.05 and 100 times the long edge, "
            f"{max(c.width, c.height)} px"
        )
    if not (abs(c.cx / c.width - 0.5) <= 1.0 and abs(c.cy / c.height - 0.5) <= 1.0):
        raise ConfigError(f"calibration ({name}): the principal point is far outside {c.width}x{c.height} pixels")
    if abs(height - c.height * width / c.width) > 1.0 and abs(width - c.width * height / c.height) > 1.0:
        raise ConfigError(
            f"calibration ({name}) is for {c.width}x{c.height}, images are {width}x{height}; "
            "the aspect ratio must be the same"
        )


def _plausible_focals(c: Calibration) -> bool:
    long = max(c.width, c.height)
    return 0.05 * long < min(c.fx, c.fy) and max(c.fx, c.fy) < 100 * long and 0.2 < c.fx / c.fy < 5


def _named(calibration: Calibration) -> str:
    c = calibration
    return f"fx {c.fx:g}, fy {c.fy:g}, cx {c.cx:g}, cy {c.cy:g}, model '{c.model}'"


def _is_ideal(calibration: Calibration) -> bool:
    c = calibration
    return (
        abs(c.fx / c.fy - 1.0) < _SQUARE
        and abs(c.cx - (c.width - 1) / 2.0) < _CENTERED_PX
        and abs(c.cy - (c.height - 1) / 2.0) < _CENTERED_PX
    )
