"""Drawing and resampling for textures: OpenCV's where it is installed, else NumPy's and SciPy's.

A training machine may have torch and little else. Drawings there have the same sizes and colours; resampled values
differ by rounding, outlines by half a pixel, and the letters are those of an invented script.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

try:
    import cv2
except ImportError:
    cv2 = None

_LIST = 256  # cv2.remap takes images, not lists: samples are arranged in rows of this length
_CUBIC = -0.75  # the kernel's free parameter, as in OpenCV
_HEIGHT, _ADVANCE = 21, 18  # pixels of a letter at scale 1
_CELLS = (7, 5)  # of a letter of the invented script

FONTS = (0, 2, 3, 4)  # OpenCV's Hershey fonts: simplex, duplex, complex, triplex


def enlarge(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """(height, width) float32 of ``image`` (h, w) by cubic convolution; edges are replicated."""
    if cv2 is not None:
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC))
    down, across = _cubic(image.shape[0], height), _cubic(image.shape[1], width)
    return np.asarray(down @ image @ across.T, np.float32)


def halve(image: np.ndarray) -> np.ndarray:
    """(h / 2, w / 2, 3) float32 means of 2 x 2 pixels of ``image`` (h, w, 3), h and w even."""
    if cv2 is not None:
        size = image.shape[1] // 2, image.shape[0] // 2
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    upper, lower = image[::2], image[1::2]
    return np.asarray((upper[:, ::2] + upper[:, 1::2] + lower[:, ::2] + lower[:, 1::2]) / 4, np.float32)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """``image`` (h, w) float32 blurred by a Gaussian of ``sigma`` pixels."""
    if cv2 is not None:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma))
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(image, sigma, mode="mirror", truncate=4.0))


def sample(image: Any, x: np.ndarray, y: np.ndarray) -> Any:
    """Bilinear samples (P,) or (P, C) of ``image`` (h, w[, C]) at pixels (x, y) (P,); edges are replicated."""
    if cv2 is None:
        return _bilinear(image, x, y)
    rows = -(-len(x) // _LIST)
    map_x, map_y = np.zeros((2, rows * _LIST), np.float32)
    map_x[: len(x)], map_y[: len(x)] = x, y
    maps = map_x.reshape(rows, _LIST), map_y.reshape(rows, _LIST)
    picked = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return picked.reshape(rows * _LIST, *image.shape[2:])[: len(x)]


def ellipse(
    picture: np.ndarray, center: tuple[int, int], half_axes: tuple[int, int], degrees: float, tone: Any
) -> None:
    """Fill an ellipse, turned clockwise, in ``picture`` (h, w[, 3])."""
    if cv2 is not None:
        cv2.ellipse(picture, center, half_axes, degrees, 0, 360, tone, -1)
        return
    reach = max(half_axes) + 1
    area, y, x = _around(picture, center, reach)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    along, across = (c * x + s * y) / (half_axes[0] + 0.5), (c * y - s * x) / (half_axes[1] + 0.5)
    area[along**2 + across**2 <= 1] = tone


def polygon(picture: np.ndarray, corners: np.ndarray, tone: Any) -> None:
    """Fill a polygon of ``corners`` (N, 2) int32 (x, y)."""
    if cv2 is not None:
        cv2.fillPoly(picture, [corners], tone)
        return
    low, high = corners.min(axis=0), corners.max(axis=0)
    middle = (low + high) // 2
    area, y, x = _around(picture, (int(middle[0]), int(middle[1])), int((high - low).max()) // 2 + 2)
    inside = np.zeros(np.broadcast_shapes(y.shape, x.shape), bool)
    for (x1, y1), (x2, y2) in zip(corners - middle, np.roll(corners, 1, axis=0) - middle, strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    area[inside] = tone


def frame(picture: np.ndarray, low: tuple[int, int], high: tuple[int, int], tone: Any, thick: int) -> None:
    """Draw a rectangle's outline between two corners (x, y), ``thick`` pixels across."""
    if cv2 is not None:
        cv2.rectangle(picture, low, high, tone, thick)
        return
    near, far = thick // 2, (thick + 1) // 2
    left, top, right, bottom = (max(value, 0) for value in (*low, *high))
    for rows, columns in (
        ((top - near, top + far), (left - near, right + far)),
        ((bottom - near, bottom + far), (left - near, right + far)),
        ((top - near, bottom + far), (left - near, left + far)),
        ((top - near, bottom + far), (right - near, right + far)),
    ):
        picture[max(rows[0], 0) : rows[1], max(columns[0], 0) : columns[1]] = tone


def disc(picture: np.ndarray, center: tuple[int, int], radius: int, tone: Any) -> None:
    """Fill a circle; its edge is smooth where OpenCV draws it."""
    if cv2 is not None:
        cv2.circle(picture, center, radius, tone, -1, cv2.LINE_AA)
    else:
        ellipse(picture, center, (radius, radius), 0.0, tone)


def text(ink: np.ndarray, words: str, at: tuple[int, int], font: int, scale: float, thick: int) -> None:
    """Write ``words`` into ``ink`` (h, w) uint8, 255 where there is ink; ``at`` (x, y): left end of the baseline."""
    if cv2 is not None:
        cv2.putText(ink, words, at, font, scale, 255, thick, cv2.LINE_AA)
        return
    height, advance = max(round(_HEIGHT * scale), 3), max(round(_ADVANCE * scale), 3)
    for place, letter in enumerate(words):
        left, top = at[0] + place * advance, at[1] - height
        if letter == " " or left >= ink.shape[1] or top + height <= 0 or top >= ink.shape[0]:
            continue
        glyph = _glyph(letter, font, height, max(advance - 2, 2))
        part = glyph[max(-top, 0) : ink.shape[0] - top, : ink.shape[1] - left]
        area = ink[max(top, 0) : max(top, 0) + part.shape[0], left : left + part.shape[1]]
        np.maximum(area, part, out=area)


def _bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    spread = (slice(None),) + (None,) * (image.ndim - 2)
    across, down = (x - left)[spread], (y - top)[spread]
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
    mixed = upper * (1 - down) + lower * down
    return (np.rint(mixed) if image.dtype == np.uint8 else mixed).astype(image.dtype)


@lru_cache(maxsize=512)
def _glyph(letter: str, font: int, height: int, width: int) -> np.ndarray:
    """A letter of the invented script: strokes in a grid of cells, the same at every size."""
    rng = np.random.default_rng([zlib.crc32(letter.encode()), font])
    cells = np.zeros(_CELLS, np.float32)
    for _ in range(3):
        if rng.random() < 0.5:
            cells[:, rng.integers(_CELLS[1])] = 1
        else:
            cells[rng.integers(_CELLS[0])] = 1
    cells[rng.random(_CELLS) < 0.1] = 0
    down, across = _cubic(_CELLS[0], height), _cubic(_CELLS[1], width)
    return np.asarray(255 * np.clip(2 * (down @ cells @ across.T) - 0.5, 0, 1), np.uint8)


@lru_cache(maxsize=256)
def _cubic(count: int, wanted: int) -> np.ndarray:
    """(wanted, count) weights of cubic convolution (Keys 1981)."""
    place = (np.arange(wanted) + 0.5) * (count / wanted) - 0.5
    first = np.floor(place).astype(int) - 1
    weights = np.zeros((wanted, count), np.float32)
    for step in range(4):
        x = np.abs(place - (first + step))
        near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
        far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
        np.add.at(weights, (np.arange(wanted), np.clip(first + step, 0, count - 1)), np.where(x <= 1, near, far))
    return weights


def _around(picture: np.ndarray, center: Sequence[int], reach: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The square of ``picture`` around a place, with rows (h, 1) and columns (1, w) relative to it."""
    top, left = max(center[1] - reach, 0), max(center[0] - reach, 0)
    area = picture[top : max(center[1] + reach + 1, 0), left : max(center[0] + reach + 1, 0)]
    y = np.arange(area.shape[0])[:, None] + top - center[1]
    return area, y, np.arange(area.shape[1])[None] + left - center[0]
