"""What a real camera does to an image: exposure, white balance, vignette, blur, noise, JPEG. Geometry is untouched."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.types import Array32, Image

_GREY = np.array([[0.299, 0.587, 0.114]] * 3)  # luma weights of red, green, blue (ITU-R BT.601)
_MIDDLE = 115.0  # grey level that an automatic exposure aims at


@dataclass(frozen=True)
class Exposure:
    """Settings of a camera and its driver for one pair of pictures; each picture differs a little.

    ``gain`` on all of the light, ``balance`` (3) on the channels, ``gamma`` of the response, ``vignette``: loss in the
    corners, ``noise``: standard deviation in grey levels, ``quality`` of the JPEG (100: none). ``automatic`` 0 to 1:
    how far the exposure follows the picture's brightness. ``saturation`` of colours, 0 for a grey picture.
    """

    gain: float
    balance: tuple[float, float, float]
    gamma: float
    vignette: float
    noise: float
    quality: int
    automatic: float = 0.0
    saturation: float = 1.0


def draw_exposure(rng: np.random.Generator) -> Exposure:
    """Mostly good pictures, sometimes poor ones."""
    red, green, blue = np.exp(rng.normal(0, 0.07, 3))
    return Exposure(
        float(np.exp(rng.normal(0.05, 0.22))),
        (float(red), float(green), float(blue)),
        float(np.exp(rng.normal(0, 0.15))),
        float(rng.uniform(0, 0.45) if rng.random() < 0.4 else 0),
        float(rng.exponential(2.5)) if rng.random() < 0.7 else 0.0,
        int(rng.integers(45, 98)) if rng.random() < 0.7 else 100,
        float(rng.uniform(0, 0.9)),
        0.0 if rng.random() < 0.03 else float(rng.uniform(0.35, 1.05)),
    )


def photograph(image: Image, exposure: Exposure, rng: np.random.Generator) -> Image:
    """A camera's picture (H, W, 3) uint8 RGB of ``image``; blur is drawn anew for each."""
    light = _blurred(image.astype(np.float32), rng)
    gain = exposure.gain * float(np.exp(rng.normal(0, 0.06)))
    gain *= (_MIDDLE / max(float(light.mean()), 0.2 * _MIDDLE)) ** exposure.automatic
    mixing = exposure.saturation * np.eye(3) + (1 - exposure.saturation) * _GREY
    light = np.asarray(cv2.transform(light, gain * np.array(exposure.balance)[:, None] * mixing))
    if exposure.vignette > 0:
        light *= _vignette(image.shape[0], image.shape[1], exposure.vignette)[..., None]
    np.clip(light, 0, 255, out=light)
    if abs(exposure.gamma - 1) > 0.02:
        light = 255 * cv2.pow(light / 255, exposure.gamma)
    if exposure.noise > 0:
        # Shot noise grows with the root of the light, read noise does not.
        grain = rng.standard_normal(image.shape, dtype=np.float32)
        light += exposure.noise * grain * np.sqrt(0.3 + light * (0.7 / 128))
    picture = np.clip(light + 0.5, 0, 255).astype(np.uint8)
    return picture if exposure.quality >= 100 else _jpeg(picture, exposure.quality)


def _blurred(image: Array32, rng: np.random.Generator) -> Array32:
    kind = rng.random()
    if kind < 0.12:
        return np.asarray(cv2.filter2D(image, -1, motion_kernel(rng.uniform(2, 9), rng.uniform(0, np.pi))))
    if kind < 0.35:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.6))))
    return image


def motion_kernel(length: float, angle: float) -> Array32:
    """A line of ``length`` pixels through the middle of an odd square; its sum is 1, its middle stays in place."""
    if not length > 0:
        raise InputError(f"a motion blur of {length} pixels; it must be above 0")
    reach = int(np.ceil(length / 2))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for along in np.linspace(-length / 2, length / 2, 4 * reach + 1):
        x, y = reach + along * np.cos(angle), reach + along * np.sin(angle)
        left, top = int(np.floor(x)), int(np.floor(y))
        for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
            if 0 <= column <= 2 * reach and 0 <= row <= 2 * reach:
                kernel[row, column] += (1 - abs(x - column)) * (1 - abs(y - row))
    return kernel / kernel.sum()


def _vignette(height: int, width: int, loss: float) -> Array32:
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    return (1 - loss * (x * x + y * y) / 2).astype(np.float32)


def _jpeg(picture: Image, quality: int) -> Image:
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise InputError(f"a picture of shape {picture.shape} cannot be written as JPEG")
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
