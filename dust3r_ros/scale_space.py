"""An image at all scales: Gaussian blurs, octave by octave (Lowe, "Distinctive image features", IJCV 2004)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.types import Array32, Image

LAYERS = 3  # scales to an octave
FIRST_BLUR = 0.8  # standard deviation, pixels, of every octave's first level
_CAMERA_BLUR = 0.5  # of images as they come
_SMALLEST = 24  # pixels
_WIDE = 4.0  # standard deviations to where a kernel ends


@dataclass(frozen=True, eq=False)
class ScaleSpace:
    """Levels of ever wider blur, as float32, by octave: those of one (LAYERS + 3, H, W), each octave half as large.

    Level l is blurred by 0.8 * 2^(l / LAYERS) pixels of its octave. Octave o is every 2^o-th pixel of the image;
    unlike SIFT's the first one is the image as it is, and no octave is sampled more finely than its blur asks for.
    """

    octaves: tuple[Array32, ...]

    @classmethod
    def of(cls, gray: Image) -> ScaleSpace:
        """Of an image (H, W) uint8; one of less than 24 pixels has no octaves."""
        blurs = FIRST_BLUR * 2.0 ** (np.arange(LAYERS + 3) / LAYERS)
        steps = np.sqrt(blurs[1:] ** 2 - blurs[:-1] ** 2).tolist()
        octaves: list[Array32] = []
        base = _blurred(gray.astype(np.float32), float(np.sqrt(FIRST_BLUR**2 - _CAMERA_BLUR**2)))
        while min(base.shape) >= _SMALLEST:
            levels = np.empty((LAYERS + 3, *base.shape), np.float32)
            levels[0] = base
            for k, step in enumerate(steps):
                _blurred(levels[k], step, levels[k + 1])
            octaves.append(levels)
            base = np.ascontiguousarray(levels[LAYERS][::2, ::2])
        return cls(tuple(octaves))


def _blurred(image: Array32, sigma: float, into: Array32 | None = None) -> Array32:
    size = 2 * int(np.ceil(_WIDE * sigma)) + 1
    return np.asarray(cv2.GaussianBlur(image, (size, size), sigma, into))
