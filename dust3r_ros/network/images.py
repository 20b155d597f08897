"""Image preparation for the network: size, crop and normalisation of the published models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dust3r_ros.errors import InputError
from dust3r_ros.network.config import PATCH
from dust3r_ros.types import Array, Image

SQUARE_SIZE = 224
"""Models of this size take square images; larger ones keep the aspect ratio."""

_LONGEST = 32


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A resized and cropped image, with the map of its pixels to the original.

    ``image`` (H, W, 3) RGB uint8, sides multiples of 16. ``scale`` (x, y): resized over original
    pixels. ``offset`` (x, y): left and top of the crop in the resized image, pixels.
    """

    image: Image
    scale: tuple[float, float]
    offset: tuple[int, int]

    def to_original(self, pixels: NDArray[np.floating]) -> Array:
        """Pixels (..., 2) as (u, v) of ``image`` -> the original image; centres at integers in both."""
        return (np.asarray(pixels, dtype=np.float64) + self.offset + 0.5) / self.scale - 0.5

    def from_original(self, pixels: NDArray[np.floating]) -> Array:
        """Pixels (..., 2) as (u, v) of the original image -> ``image``; the inverse of ``to_original``."""
        return (np.asarray(pixels, dtype=np.float64) + 0.5) * self.scale - 0.5 - self.offset


def prepare_image(image: Image, size: int = 512) -> PreparedImage:
    """Prepare an RGB image (H, W, 3) uint8 as in the training of the models of ``size`` (512 or 224).

    512: long edge to 512, then a centred crop to multiples of 16, a square to 4:3. 224: short edge to
    224, then a centred square. Lanczos when shrinking, bicubic when enlarging. Raises ``InputError`` for
    an image of another shape or type, or one so narrow that nothing is left.
    """
    check_image(image)
    if size <= 0 or size % PATCH:
        raise InputError(f"image size {size} cannot be prepared; it must be a positive multiple of {PATCH}")
    height, width = image.shape[:2]
    square = size <= SQUARE_SIZE
    scale = size / (min if square else max)(height, width)
    resized = (round(width * scale), round(height * scale))
    crop = _crop(*resized, square)
    if min(crop) == 0 or max(resized) > _LONGEST * min(resized):
        raise InputError(
            f"image of {width}x{height} pixels is too narrow; its sides may differ by a factor of {_LONGEST} "
            f"and must give at least {PATCH} pixels at {resized[0]}x{resized[1]}"
        )
    offset = ((resized[0] - crop[0]) // 2, (resized[1] - crop[1]) // 2)
    box = (*offset, offset[0] + crop[0], offset[1] + crop[1])
    from PIL import Image as Pillow  # here, since training on rendered worlds does not need it

    filter_ = Pillow.Resampling.LANCZOS if scale < 1 else Pillow.Resampling.BICUBIC
    pixels = np.asarray(Pillow.fromarray(image).resize(resized, filter_).crop(box))
    return PreparedImage(pixels, (resized[0] / width, resized[1] / height), offset)


def normalise(images: Image, device: torch.device | None = None) -> Tensor:
    """RGB uint8 (B, H, W, 3) or (H, W, 3) -> float32 (B, 3, H, W) in [-1, 1] on ``device``, B = 1 for a single one.

    A GPU gets the bytes, through pinned memory, while the caller continues. Raises ``InputError`` for another shape.
    """
    batch = images[None] if images.ndim == 3 else images
    if batch.ndim != 4 or not len(batch):
        raise InputError(f"images of shape {images.shape} cannot be normalised; they must be (B, H, W, 3)")
    check_image(batch[0])
    pixels = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
    if device is not None and device.type == "cuda":
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    return (pixels.float() / 255.0 - 0.5) / 0.5


def check_image(image: Image) -> None:
    """Raises ``InputError`` unless ``image`` is a non-empty RGB array (H, W, 3) of uint8."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InputError(
            f"image of shape {image.shape} and type {image.dtype} cannot be used; it must be (H, W, 3) uint8 RGB"
        )


def _crop(width: int, height: int, square: bool) -> tuple[int, int]:
    """(width, height) of the crop of a resized image."""
    if square:
        side = min(width, height)
        return side, side
    if width == height:
        height = height * 3 // 4  # the models saw no squares at this size
    return width // PATCH * PATCH, height // PATCH * PATCH
