"""Materials that people made to be looked at: pages, posters, book spines, doors, house fronts; and the sky."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes import raster
from dust3r_ros.scenes.endless.materials import cloudy, dead_leaves
from dust3r_ros.scenes.endless.noises import Rng, blend, cells, color, flat, fractal, times
from dust3r_ros.scenes.endless.sheet import SIDE
from dust3r_ros.scenes.patterns import books, poster
from dust3r_ros.types import Array32

_FONTS = raster.FONTS
_LETTERS = np.array(list("aaabcdeeeefghiijklmnooopqrssttuuvwxyzABCDEFGHIJKLMNOPRSTUVW0123456789"))


def _word(rng: Rng, longest: int = 9) -> str:
    return "".join(rng.choice(_LETTERS, rng.integers(2, longest)))


def page(rng: Rng) -> Array32:
    """Lines of words on paper, a headline, perhaps a picture."""
    picture = flat(color(rng, 0.6, 0.98, 0.8))
    ink = np.zeros((SIDE, SIDE), np.uint8)  # text is drawn on bytes only
    font, y = _FONTS[rng.integers(len(_FONTS))], 20
    if rng.random() < 0.5:
        top, bottom = sorted(rng.integers(40, SIDE - 40, 2))
        picture[top : bottom + 20, 30 : SIDE - 30] = dead_leaves(rng)[top : bottom + 20, 30 : SIDE - 30]
    while y < SIDE - 10:
        scale = float(rng.choice([0.4, 0.5, 0.6, 1.5], p=[0.3, 0.35, 0.3, 0.05]))
        y += round(34 * scale)
        line = " ".join(_word(rng) for _ in range(int(9 / scale**0.8)))
        if rng.random() < 0.9:
            raster.text(ink, line[: int(rng.uniform(18, 26) / scale)], (24, y), font, scale, 1)
    picture = blend(picture, color(rng, 0.0, 0.35), (ink / 255).astype(np.float32))
    return times(picture, fractal(rng, 3), 0.02)


def sign(rng: Rng) -> Array32:
    """A board with a few large words."""
    picture = flat(color(rng, 0.1, 0.95))
    raster.frame(picture, (12, 12), (SIDE - 13, SIDE - 13), color(rng, 0.02, 0.98).tolist(), int(rng.integers(4, 20)))
    y = int(rng.integers(40, 120))
    while y < SIDE - 30:
        scale = rng.uniform(1.2, 5)
        y += round(26 * scale)
        ink, font = np.zeros((SIDE, SIDE), np.uint8), _FONTS[rng.integers(len(_FONTS))]
        at, thick = (int(rng.integers(20, 80)), y), int(rng.integers(2, 9))
        raster.text(ink, _word(rng, 7), at, font, scale, thick)
        picture = blend(picture, color(rng, 0.02, 0.98), (ink / 255).astype(np.float32))
        y += int(rng.integers(10, 60))
    return times(picture, fractal(rng, 4, 6, 0.8), rng.uniform(0.01, 0.12))


def placard(rng: Rng) -> Array32:
    """A printed sheet of coloured shapes and block letters."""
    return poster(rng, SIDE, SIDE, SIDE / rng.uniform(0.5, 1.2))


def painting(rng: Rng) -> Array32:
    """Something in a frame."""
    picture = [dead_leaves, cloudy][rng.integers(2)](rng)
    wide = int(rng.integers(10, 60))
    tone = color(rng, 0.03, 0.8)
    for side in (picture[:wide], picture[-wide:], picture[:, :wide], picture[:, -wide:]):
        side[:] = tone * rng.uniform(0.7, 1.1)
    return picture


def bookcase(rng: Rng) -> Array32:
    """Shelves of books from the front."""
    return books(rng, SIDE, SIDE, SIDE / rng.uniform(1.0, 1.7))


def drawers(rng: Rng) -> Array32:
    """Fronts of drawers and doors of furniture, with handles."""
    rows, columns = (int(n) for n in rng.integers(1, 5, 2))
    _, _, down, across = cells(rows, columns)
    picture = times(flat(color(rng, 0.15, 0.95)), fractal(rng, 24, 4, 0.9, stretch=float(rng.choice([1, 20]))), 0.05)
    edge = rng.uniform(0.015, 0.05)
    picture[(down < edge) | (across < edge)] *= 0.35
    picture[(np.abs(down - 0.5) < 0.03) & (np.abs(across - rng.uniform(0.4, 0.9)) < 0.1)] = color(rng, 0.05, 0.8)
    return picture


def door(rng: Rng) -> Array32:
    """A door with panels, a frame and a handle."""
    picture = times(flat(color(rng, 0.15, 0.95)), fractal(rng, 16, 4, stretch=0.1), 0.04)
    rows, columns = int(rng.integers(1, 5)), int(rng.integers(1, 3))
    _, _, down, across = cells(rows, columns)
    inner = (np.abs(down - 0.5) < 0.38) & (np.abs(across - 0.5) < 0.36)
    picture[inner] = picture[inner] * rng.uniform(0.75, 1.15) if rng.random() < 0.7 else color(rng, 0.2, 0.8)
    rim = (np.abs(down - 0.5) < 0.4) & (np.abs(across - 0.5) < 0.39) & ~inner
    picture[rim] *= 0.6
    raster.disc(picture, (45, 270), 12, color(rng, 0.1, 0.9, 0.8).tolist())
    for side in (picture[:16], picture[:, :18], picture[:, -18:]):
        side[:] = 0.8 * picture[20, 30]
    return picture


def front(rng: Rng) -> Array32:
    """The front of a house: storeys of windows, all alike but for curtains and light."""
    rows, columns = int(rng.integers(2, 5)), int(rng.integers(2, 6))
    row, column, down, across = cells(rows, columns)
    wall = times(flat(color(rng, 0.3, 0.9)), fractal(rng, 4, 7, 0.75), rng.uniform(0.02, 0.15))
    if rng.random() < 0.4:
        course_row, _, joint, _ = cells(2 * int(rng.integers(12, 30)), 32, 0.5)
        wall = times(wall, (joint < 0.15) * -1.0 + 0.1 * (course_row % 3), 0.2)
    wide, high = rng.uniform(0.15, 0.4, 2)
    x, y = np.abs(across - 0.5), np.abs(down - 0.5)
    shade = rng.uniform(0.3, 1.6, (rows, columns))[row.astype(int), column.astype(int)]
    glass = color(rng, 0.08, 0.45, 0.8) * shade[..., None] * (1.3 - 0.6 * down)[..., None]
    glass = times(glass.astype(np.float32), fractal(rng, 8, 4), 0.25)
    frame = color(rng, 0.1, 0.95, 0.9)
    picture = np.where(((x < wide) & (y < high))[..., None], frame, wall)
    bars = np.abs(across - 0.5) < rng.choice([0.0, 0.015]), np.abs(down - rng.uniform(0.4, 0.6)) < 0.012
    inside = (x < wide - 0.03) & (y < high - 0.03) & ~bars[0] & ~bars[1]
    picture = np.where(inside[..., None], glass, picture)
    sill = (x < wide + 0.04) & (down > 0.5 + high) & (down < 0.54 + high)
    picture[sill] = 0.8 * frame
    return picture.astype(np.float32)


def window(rng: Rng) -> Array32:
    """One window with the bright outside behind it."""
    view = blend(flat(color(rng, 0.7, 1.0, 0.7)), color(rng, 0.2, 0.8), np.clip(fractal(rng, 3), 0, 1))
    _, _, down, across = cells(int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    view[(np.abs(down - 0.5) > 0.46) | (np.abs(across - 0.5) > 0.46)] = color(rng, 0.1, 0.95, 0.9)
    return view


def sky(rng: Rng) -> Array32:
    """Once around and from the zenith (above) to straight below: clear, clouded or grey, a glow at the horizon."""
    height = (np.arange(SIDE, dtype=np.float32)[:, None] / SIDE * 2).clip(0, 1)[..., None]
    blue = np.array([0.25, 0.45, 0.8], np.float32) * rng.uniform(0.5, 1.3)
    zenith = blue if rng.random() < 0.6 else color(rng, 0.4, 0.95, 0.9)
    horizon = np.clip(color(rng, 0.7, 1.0, rng.uniform(0.75, 1)) + 0.1 * zenith, 0, 1)
    picture = np.broadcast_to(zenith + (horizon - zenith) * height ** rng.uniform(0.7, 3), (SIDE, SIDE, 3))
    clouds = np.clip((fractal(rng, 5, 6, 0.65) - rng.uniform(-1.5, 2)) * rng.uniform(0.3, 1.2), 0, 1)
    shade = np.clip(0.85 + 0.12 * fractal(rng, 8, 5), 0.4, 1)[..., None] * rng.uniform(0.75, 1.05)
    return np.clip(blend(picture.astype(np.float32), np.ones(3, np.float32) * shade, clouds), 0, 1)
