"""Colours as another exposure, white balance or camera would have them (Pillow's enhancers)."""

from __future__ import annotations

import numpy as np
from PIL import Image as Pillow
from PIL import ImageEnhance

from dust3r_ros.types import Image

_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
_MOST_HUE = 0.1  # of the colour circle, at strength 1


def jitter(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """``image`` (H, W, 3) uint8 RGB with random brightness, contrast, saturation (factors 1 ± ``strength``, in random
    order), hue and balance of channels; the geometry is untouched.
    """
    picture = Pillow.fromarray(image)
    for index in rng.permutation(len(_ENHANCERS)):
        picture = _ENHANCERS[index](picture).enhance(float(rng.uniform(max(1 - strength, 0.0), 1 + strength)))
    shift = round(255 * _MOST_HUE * strength * float(rng.uniform(-1, 1)))
    if shift:
        hue, saturation, value = picture.convert("HSV").split()
        turned = Pillow.fromarray(np.asarray(hue) + np.uint8(shift % 256))  # wraps round, as the circle does
        picture = Pillow.merge("HSV", (turned, saturation, value)).convert("RGB")
    gains = np.exp(0.2 * strength * rng.uniform(-1, 1, 3))
    return np.clip(np.asarray(picture) * gains + 0.5, 0, 255).astype(np.uint8)
