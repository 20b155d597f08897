"""Native images to working images and back: one scale, one centred crop.

Pixel centres lie at integers, so a native coordinate u is (u + 0.5) * scale - 0.5 - offset in the
working image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike

from dust3r_ros.errors import InputError
from dust3r_ros.types import Array, Image


@dataclass(frozen=True)
class Resize:
    """The map from native pixels (``native_width`` x ``native_height``) to working pixels (``width`` x ``height``).

    ``scale_x``, ``scale_y`` are working pixels per native pixel. They are equal when the image
    grows and differ by the rounding of the crop to whole native pixels when it shrinks.
    ``offset_x``, ``offset_y`` (working pixels): what the crop removes at the left and the top.
    """

    native_width: int
    native_height: int
    width: int
    height: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    @classmethod
    def fit(cls, width: int, height: int, long_edge: int, multiple: int = 16) -> Resize:
        """Scale so that the long edge becomes ``long_edge``, then crop to multiples of ``multiple``.

        The crop is centred to within half a native pixel.
        Raises ``InputError`` if the image is empty or so narrow that nothing would be left.
        """
        working = _working_size(width, height, long_edge, multiple)
        scale = max(working[0] / width, working[1] / height)
        if scale >= 1.0:  # resampled at exact positions: any real offset works
            scales = [scale, scale]
            offsets = [(side * scale - kept) / 2 for side, kept in zip((width, height), working, strict=True)]
        else:  # cropped before area averaging, hence at whole native pixels
            crops = [round(kept / scale) for kept in working]
            scales = [kept / crop for kept, crop in zip(working, crops, strict=True)]
            starts = [(side - crop) // 2 for side, crop in zip((width, height), crops, strict=True)]
            offsets = [start * factor for start, factor in zip(starts, scales, strict=True)]
        return cls(width, height, *working, *scales, *offsets)

    def apply(self, image: Image) -> Image:
        """The working image of a native one, (H, W) or (H, W, 3) uint8, contiguous, in memory of its own.

        Raises ``InputError`` for a size or type other than this map's.
        """
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[:2] != self._native_shape:
            raise InputError(
                f"An image of shape {image.shape} and type {image.dtype} does not fit; "
                f"it must be {self.native_width}x{self.native_height} pixels of uint8."
            )
        if self.scale_x >= 1.0 and self.scale_y >= 1.0:
            return self._grow(image)
        left, top = round(self.offset_x / self.scale_x), round(self.offset_y / self.scale_y)
        right, bottom = left + round(self.width / self.scale_x), top + round(self.height / self.scale_y)
        crop = np.ascontiguousarray(image[top:bottom, left:right])
        small = cv2.resize(crop, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(small).astype(np.uint8, copy=False)

    def _grow(self, image: Image) -> Image:
        if (self.width, self.height) == (self.native_width, self.native_height):
            return image.copy()
        native_T_working = np.array(
            [
                [1 / self.scale_x, 0.0, (self.offset_x + 0.5) / self.scale_x - 0.5],
                [0.0, 1 / self.scale_y, (self.offset_y + 0.5) / self.scale_y - 0.5],
            ]
        )
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        size = (self.width, self.height)
        source = np.ascontiguousarray(image)
        grown = cv2.warpAffine(source, native_T_working, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return grown.astype(np.uint8, copy=False)

    @property
    def _native_shape(self) -> tuple[int, int]:
        return self.native_height, self.native_width

    @property
    def _scales(self) -> Array:
        return np.array([self.scale_x, self.scale_y])

    @property
    def _offsets(self) -> Array:
        return np.array([self.offset_x, self.offset_y])

    @property
    def scale(self) -> float:
        """The one scale (working pixels per native pixel): geometric mean of both axes."""
        return float(np.sqrt(self.scale_x * self.scale_y))

    def to_working(self, pixels: ArrayLike) -> Array:
        """Working pixels (..., 2) of native pixels (..., 2)."""
        return (np.asarray(pixels, dtype=np.float64) + 0.5) * self._scales - 0.5 - self._offsets

    def to_native(self, pixels: ArrayLike) -> Array:
        """Native pixels (..., 2) of working pixels (..., 2)."""
        return (np.asarray(pixels, dtype=np.float64) + 0.5 + self._offsets) / self._scales - 0.5

    def focal_to_working(self, focal: float) -> float:
        """Focal length at working resolution of one at native resolution, pixels."""
        return focal * self.scale


def _working_size(width: int, height: int, long_edge: int, multiple: int) -> list[int]:
    """Width and height of the working image. Raises ``InputError`` if there is none."""
    if min(width, height) < 1:
        raise InputError(f"An image of {width}x{height} pixels is empty; both sides must be at least 1.")
    if multiple < 1 or long_edge < multiple:
        raise InputError(f"A long edge of {long_edge} pixels is too short; it must be at least {max(multiple, 1)}.")
    working = [round(side * long_edge / max(width, height)) // multiple * multiple for side in (width, height)]
    if min(working) == 0:
        raise InputError(
            f"An image of {width}x{height} pixels is too narrow for a long edge of {long_edge}: "
            f"its short edge would be under {multiple} pixels; use a larger working size or a wider image."
        )
    return working
