"""Images as the network takes them: checked and normalised."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dust3r_ros.errors import InputError
from dust3r_ros.types import Image


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
