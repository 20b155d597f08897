"""Anti-aliased lines and readable text on RGB pictures: lines by OpenCV, text by Pillow."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from dust3r_ros.types import Array, Image

Color = tuple[int, int, int]

_SHIFT = 4  # OpenCV draws with 2**-4 pixel precision


def polyline(image: Image, pixels: Array, color: Color, thickness: int = 2, closed: bool = False) -> None:
    """Draw straight lines through ``pixels`` (N, 2) in place; a NaN or far-off pixel interrupts the line."""
    usable = np.all(np.isfinite(pixels) & (np.abs(np.nan_to_num(pixels)) < 1e4), axis=1)
    for run in np.split(np.arange(len(pixels)), np.flatnonzero(~usable)):
        run = run[usable[run]]
        if len(run) > 1:
            fixed = np.round(pixels[run] * 2**_SHIFT).astype(np.int32).reshape(-1, 1, 2)
            cv2.polylines(image, [fixed], closed and usable.all(), color, thickness, cv2.LINE_AA, _SHIFT)


def cased(image: Image, pixels: Array, color: Color, thickness: int = 2, closed: bool = False) -> None:
    """``polyline`` with a dark rim, which is seen on any ground."""
    polyline(image, pixels, (12, 14, 18), thickness + 2, closed)
    polyline(image, pixels, color, thickness, closed)


def disc(image: Image, pixel: Array, radius: float, color: Color) -> None:
    """Draw a filled circle with a dark rim in place; nothing for a NaN or far-off pixel."""
    if np.all(np.isfinite(pixel)) and np.abs(pixel).max() < 1e4:
        center = tuple(round(float(value) * 2**_SHIFT) for value in pixel)
        cv2.circle(image, center, int((radius + 1.5) * 2**_SHIFT), (12, 14, 18), -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(image, center, int(radius * 2**_SHIFT), color, -1, cv2.LINE_AA, _SHIFT)


def text(image: Image, at: tuple[float, float], words: str, size: int, color: Color, anchor: str = "lt") -> Image:
    """The picture with ``words`` written at pixel ``at``; ``anchor`` as Pillow's (l/m/r, then t/m/b)."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    picture = Pillow.fromarray(image)
    font = _font(size)
    try:
        ImageDraw.Draw(picture).text(at, words, fill=color, font=font, anchor=anchor)
    except (ValueError, UnicodeEncodeError):  # Pillow's small bitmap font knows neither anchors nor all of Unicode
        plain = words.encode("ascii", "replace").decode()
        ImageDraw.Draw(picture).text(at, plain, fill=color, font=font)
    return np.array(picture)


def shade(image: Image, box: tuple[int, int, int, int], ground: Color) -> None:
    """Cover a box (left, top, right, bottom) with three parts of ``ground`` in place, so that text on it is read."""
    left, top, right, bottom = box
    strip = image[max(top, 0) : bottom, max(left, 0) : right]
    strip[:] = (0.25 * strip + 0.75 * np.array(ground)).astype(np.uint8)


def label(image: Image, words: str, size: int, color: Color, ground: Color) -> Image:
    """The picture with ``words`` on a strip of ``ground`` in its upper left corner."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    right, bottom = ImageDraw.Draw(Pillow.new("RGB", (1, 1))).textbbox((0, 0), words, font=_font(size))[2:]
    image = image.copy()
    shade(image, (0, 0, int(right) + 20, int(bottom) + 14), ground)
    return text(image, (10, 7), words, size, color)


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size=size)
    except TypeError:  # Pillow before 10.1 has the bitmap font only
        return ImageFont.load_default()


def time_colors(count: int) -> list[Color]:
    """``count`` colours from early (blue) to late (yellow)."""
    values = np.linspace(70, 250, max(count, 1)).astype(np.uint8).reshape(-1, 1)
    table = cv2.applyColorMap(values, cv2.COLORMAP_PLASMA)[:, 0, ::-1]
    return [(int(red), int(green), int(blue)) for red, green, blue in table]


def colored_depth(depth: Array, background: Color) -> Image:
    """Depth (H, W) as colours, near warm and far cold, by its 2nd to 98th percentile; ``background`` where it is 0."""
    known = depth > 0
    image = np.empty((*depth.shape, 3), np.uint8)
    image[:] = background
    if known.any():
        inverse = 1.0 / depth[known]
        low, high = np.percentile(inverse, [2, 98])
        level = np.clip((inverse - low) / max(high - low, 1e-12), 0, 1)
        table = cv2.applyColorMap((255 * level).astype(np.uint8).reshape(-1, 1), cv2.COLORMAP_TURBO)
        image[known] = table[:, 0, ::-1]
    return image


def fitted(image: Image, width: int, height: int, background: Color) -> Image:
    """The picture scaled into ``width`` x ``height`` with its proportions kept, the rest ``background``."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    result = np.empty((height, width, 3), np.uint8)
    result[:] = background
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    result[top : top + size[1], left : left + size[0]] = scaled
    return result
