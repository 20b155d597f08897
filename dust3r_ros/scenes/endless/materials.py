"""Materials of surfaces: repeating pictures of 512 x 512 texels, RGB float32 in [0, 1], without light.

Each takes only a random generator, which decides colours, proportions and wear.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.scenes import raster
from dust3r_ros.scenes.endless.casting import STENCIL
from dust3r_ros.scenes.endless.painting import SIDE
from dust3r_ros.scenes.textures import books, poster
from dust3r_ros.types import Array32

Rng = np.random.Generator


def octave(rng: Rng, rows: int, columns: int) -> Array32:
    """(512, 512) smooth noise of standard deviation about 0.7, with that many cells down and across."""
    rough = np.pad(rng.standard_normal((rows, columns), dtype=np.float32), 2, mode="wrap")
    size = round(SIDE * (columns + 4) / columns), round(SIDE * (rows + 4) / rows)
    smooth = raster.enlarge(rough, *size)
    top, left = round(2 * SIDE / rows), round(2 * SIDE / columns)
    return np.asarray(smooth[top : top + SIDE, left : left + SIDE], np.float32)


def fractal(rng: Rng, cells: int, octaves: int = 5, fade: float = 0.6, stretch: float = 1.0) -> Array32:
    """(512, 512) noise of mean 0 and standard deviation 1: ``cells`` at first, twice as many in every octave.

    ``fade`` is the strength of an octave relative to the one before; ``stretch`` makes it that much longer along x.
    """
    total = np.zeros((SIDE, SIDE), np.float32)
    for number in range(octaves):
        rows = min(cells * 2**number, SIDE)
        total += fade**number * octave(rng, rows, max(min(round(rows / stretch), SIDE), 1))
    total -= total.mean()
    return total / max(float(total.std()), 1e-6)


def speckles(rng: Rng, blur: float = 0.0) -> Array32:
    """(512, 512) independent noise of standard deviation 1, blurred over ``blur`` texels."""
    noise = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
    if blur <= 0:
        return noise
    noise = raster.blur(np.pad(noise, 16, mode="wrap"), blur)[16:-16, 16:-16]
    return noise / max(float(noise.std()), 1e-6)


def color(rng: Rng, low: float = 0.1, high: float = 0.9, grey: float | None = None) -> Array32:
    """An RGB colour of random brightness and saturation; ``grey`` 1 is unsaturated."""
    value = rng.uniform(low, high)
    # Most things are nearly grey or brown; few are gaudy.
    saturation = (1 - grey) if grey is not None else (rng.beta(1, 5) if rng.random() < 0.8 else rng.beta(3, 2))
    hue = rng.uniform(0, 6)
    channel = np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1
    return (value * (1 - saturation + saturation * np.clip(channel, 0, 1))).astype(np.float32)


def flat(tone: Array32) -> Array32:
    """(512, 512, 3) of one colour."""
    return np.tile(tone.astype(np.float32), (SIDE, SIDE, 1))


def blend(low: Array32, high: Array32, share: Array32) -> Array32:
    """(512, 512, 3) between two colours or pictures; ``share`` (512, 512) of the second."""
    return (low + share[..., None] * (high - low)).astype(np.float32)


def times(picture: Array32, noise: Array32, strength: float) -> Array32:
    """A picture brightened and darkened by noise (512, 512)."""
    return picture * np.exp(strength * noise)[..., None]


def cells(rows: int, columns: int, shift: float = 0.0) -> tuple[Array32, Array32, Array32, Array32]:
    """Texels in courses of cells: row and column numbers, and position within the cell (0 to 1) down and across.

    Every second course is shifted by ``shift`` cells; an even number of rows repeats without a seam.
    """
    v, u = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    down = (v + 0.5) * (rows / SIDE)
    row = np.floor(down)
    across = (u + 0.5) * (columns / SIDE) + shift * (row % 2)
    column = np.floor(across)
    return row, column % columns, down - row, across - column


BARS, SLATS, GRID, MESH, LATTICE, LEAVES, HOLES, TWIGS = range(8)


@lru_cache(maxsize=1)
def stencils() -> NDArray[np.uint8]:
    """(8, 128, 128) uint8, 1 where there is something; the same for all worlds."""
    v, u = np.mgrid[:STENCIL, :STENCIL] / STENCIL
    masks = np.zeros((8, STENCIL, STENCIL), np.uint8)
    masks[BARS] = (u % 1 < 0.16) | (v < 0.03)
    masks[SLATS] = (v % 0.25 < 0.14) | (u < 0.06)
    masks[GRID] = (u < 0.12) | (v < 0.12)
    masks[MESH] = (np.abs((u + v) % 0.5 - 0.25) < 0.03) | (np.abs((u - v) % 0.5 - 0.25) < 0.03)
    masks[LATTICE] = (np.abs((u + v) % 1 - 0.5) < 0.12) | (np.abs((u - v) % 1 - 0.5) < 0.12)
    masks[HOLES] = np.hypot(u % 0.5 - 0.25, v % 0.5 - 0.25) > 0.13
    rng = np.random.default_rng(7)
    for _ in range(60):
        _around(masks[LEAVES], rng.uniform(0, STENCIL, 2), (rng.uniform(5, 13), rng.uniform(2, 5)), rng.uniform(0, 180))
    for _ in range(16):
        _around(masks[TWIGS], rng.uniform(0, STENCIL, 2), (rng.uniform(15, 45), 1.0), rng.uniform(0, 180))
    masks.setflags(write=False)
    return masks


def _around(mask: NDArray[np.uint8], center: np.ndarray, sides: tuple[float, float], angle: float) -> None:
    for x in (-STENCIL, 0, STENCIL):
        for y in (-STENCIL, 0, STENCIL):
            at = (round(center[0] + x), round(center[1] + y))
            raster.ellipse(mask, at, (round(sides[0]), round(sides[1])), angle, 1)


def painted(rng: Rng) -> Array32:
    """A plain painted wall: one colour, hardly any grain."""
    picture = flat(color(rng, 0.45, 0.95))
    picture = times(picture, fractal(rng, 3, 3), rng.uniform(0.005, 0.04))
    return times(picture, speckles(rng, rng.uniform(0, 1.5)), rng.uniform(0.0, 0.03))


def plaster(rng: Rng) -> Array32:
    """Rough or stained plaster, patches of an older coat."""
    picture = blend(flat(color(rng, 0.4, 0.9)), color(rng, 0.3, 0.8), np.clip(fractal(rng, 3) - 1.2, 0, 1))
    picture = times(picture, fractal(rng, int(rng.integers(4, 24)), 4), rng.uniform(0.03, 0.15))
    return times(picture, speckles(rng, rng.uniform(0.5, 2)), rng.uniform(0.02, 0.1))


def concrete(rng: Rng) -> Array32:
    """Grey, pitted, with the joints of slabs."""
    picture = times(flat(color(rng, 0.25, 0.7, 0.95)), fractal(rng, 2, 7, 0.75), rng.uniform(0.08, 0.25))
    pits = fractal(rng, 64, 3) > rng.uniform(1.8, 2.6)
    picture[pits] *= 0.6
    if rng.random() < 0.5:
        _, _, down, across = cells(int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        picture[(down < 0.015) | (across < 0.015)] *= 0.5
    return picture


def courses(rng: Rng) -> Array32:
    """Bricks, blocks, tiles, slates, paving: cells of individual shades with joints."""
    rows = 2 * int(rng.integers(2, 17))
    columns = max(int(rows * rng.choice([0.33, 0.5, 1.0, 1.0])), 1)
    row, column, down, across = cells(rows, columns, float(rng.choice([0, 0.5, 0.5, 0.25])))
    shade = rng.normal(1, rng.uniform(0.02, 0.3), (rows, columns))
    second = rng.random((rows, columns)) < rng.choice([0, 0, 0.15, 0.5])
    if rng.random() < 0.25:
        second = np.add.outer(np.arange(rows), np.arange(columns)) % 2 == 0  # a chequerboard
    at = row.astype(int), column.astype(int)
    base = color(rng, 0.25, 0.9) if rng.random() < 0.6 else np.array([0.55, 0.3, 0.22], np.float32)
    picture = blend(flat(base), color(rng, 0.1, 0.9), second[at].astype(np.float32)) * shade[at][..., None]
    joint = rng.uniform(0.01, 0.09)
    gap = (down < joint) | (across < joint * columns / rows)
    picture = np.where(gap[..., None], color(rng, 0.1, 0.85, 0.9), picture).astype(np.float32)
    picture = times(picture, fractal(rng, 8, 5, 0.8), rng.uniform(0.02, 0.2))
    if rng.random() < 0.3:
        picture *= (1 - 0.4 * down)[..., None]  # each row overlapped by the one above, as on a roof
    return picture


def wood(rng: Rng) -> Array32:
    """Boards along x with grain, or one sheet of it."""
    boards = int(rng.choice([1, 4, 6, 8, 12, 16]))
    row, _, down, _ = cells(boards, 1)
    shade = rng.normal(1, rng.uniform(0.02, 0.25), boards)[row.astype(int)]
    tone = np.array([0.55, 0.38, 0.22], np.float32) * rng.uniform(0.4, 1.6)
    tone = 0.8 * tone + 0.2 * color(rng, 0.2, 0.8)
    grain = fractal(rng, 32, 4, 0.9, stretch=rng.uniform(10, 40))
    rings = np.sin(6 * fractal(rng, 4, 2, 0.5, stretch=6) + 3 * grain)
    picture = times(flat(tone) * shade[..., None], grain + 0.5 * rings, rng.uniform(0.04, 0.2))
    if boards > 1:
        picture[down < rng.uniform(0.02, 0.06)] *= rng.uniform(0.2, 0.7)
    return picture.astype(np.float32)


def cloth(rng: Rng) -> Array32:
    """Stripes, plaids, plain weave, carpets."""
    picture = flat(color(rng, 0.08, 0.9))
    v, u = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE
    for axis in (u, v):
        for _ in range(rng.integers(0, 3)):
            period, wide = 1 / rng.integers(2, 40), rng.uniform(0.1, 0.6)
            stripe = ((axis + rng.uniform()) % period) < wide * period
            picture[stripe] += rng.uniform(0.3, 0.9) * (color(rng, 0.05, 0.95) - picture[stripe])
    weave = np.sin(2 * np.pi * 128 * u) * np.sin(2 * np.pi * 128 * v)
    picture = times(picture, weave + speckles(rng), rng.uniform(0.01, 0.12))
    return times(picture, fractal(rng, 6), rng.uniform(0.0, 0.12))


def stone(rng: Rng) -> Array32:
    """Marble, granite, rock."""
    warp = fractal(rng, 3, 5)
    veins = np.abs(np.sin(rng.uniform(1, 4) * warp + 2 * np.pi * octave(rng, 2, 2)))
    tones = color(rng, 0.3, 0.9, rng.uniform(0.6, 1)), color(rng, 0.05, 0.7, rng.uniform(0.4, 1))
    picture = blend(flat(tones[0]), tones[1], (veins ** rng.uniform(0.5, 4)).astype(np.float32))
    grains = fractal(rng, int(rng.choice([16, 64, 128])), 3)
    return times(picture, grains, rng.uniform(0.05, 0.4))


def ground(rng: Rng) -> Array32:
    """Grass, soil, gravel, asphalt, sand, snow."""
    kind = rng.integers(5)
    tones = [((0.25, 0.4, 0.1), (0.5, 0.5, 0.2)), ((0.3, 0.2, 0.12), (0.5, 0.4, 0.28)), ((0.5, 0.48, 0.45),) * 2]
    tones += [((0.2, 0.2, 0.21), (0.33, 0.32, 0.32)), ((0.75, 0.65, 0.48), (0.9, 0.87, 0.8))]
    low, high = (
        np.array(tone, np.float32) * rng.uniform(0.6, 1.3) * rng.uniform(0.85, 1.15, 3).astype(np.float32)
        for tone in tones[kind]
    )
    picture = blend(flat(low), high, np.clip(0.5 + 0.4 * fractal(rng, 4, 6, 0.8), 0, 1))
    strength = rng.uniform(0.1, 0.35) if kind < 3 else rng.uniform(0.04, 0.15)
    stretch = rng.choice([0.2, 0.5]) if kind == 0 else 1.0
    return times(picture, fractal(rng, 48, 4, 0.95, stretch=stretch), strength)


def leaves(rng: Rng) -> Array32:
    """Foliage, flowers, litter: leaf over leaf."""
    picture = flat(np.array([0.06, 0.09, 0.04], np.float32))
    tone = np.array([0.3, 0.45, 0.15], np.float32) * rng.uniform(0.5, 1.4) + 0.15 * color(rng)
    size, narrow = rng.uniform(8, 26), rng.uniform(0.3, 0.8)
    for _ in range(int(rng.uniform(2.0, 3.5) * SIDE**2 / (3 * narrow * size**2))):
        shade = (tone * rng.uniform(0.35, 1.5) + rng.normal(0, 0.03, 3)).tolist()
        long = size * rng.uniform(0.5, 1.3)
        _wrapped_ellipse(picture, rng.uniform(0, SIDE, 2), (long, narrow * long), rng.uniform(0, 180), shade)
    return times(picture, fractal(rng, 4), 0.2)


def dead_leaves(rng: Rng) -> Array32:
    """Discs and bars of all sizes over each other; edges are distributed as in photographs.

    Lee, Mumford, Huang, "Occlusion models for natural images", 2001: radii with density r^-3.
    """
    picture = flat(color(rng))
    palette = [color(rng, 0.02, 0.98) for _ in range(rng.integers(3, 12))]
    radii = 6 / np.sqrt(rng.uniform((6 / 160) ** 2, 1, 450))
    for radius in np.sort(radii)[::-1] if rng.random() < 0.3 else radii:
        tone = (palette[rng.integers(len(palette))] * rng.uniform(0.7, 1.3)).tolist()
        sides = (radius, radius * rng.choice([1.0, 1.0, 0.5, 0.15]))
        _wrapped_ellipse(picture, rng.uniform(0, SIDE, 2), sides, rng.uniform(0, 180), tone)
    return times(picture, fractal(rng, 4, 6, 0.8), rng.uniform(0.02, 0.2))


def _wrapped_ellipse(
    picture: Array32, center: np.ndarray, sides: tuple[float, float], angle: float, tone: list[float]
) -> None:
    reach, size = max(sides) + 1, (max(round(sides[0]), 1), max(round(sides[1]), 1))
    x, y = (float(at) for at in center)
    for left in (x, x - SIDE if x > SIDE - reach else x + SIDE):
        for top in (y, y - SIDE if y > SIDE - reach else y + SIDE):
            if left < SIDE + reach and top < SIDE + reach:
                raster.ellipse(picture, (round(left), round(top)), size, angle, tone)


def metal(rng: Rng) -> Array32:
    """Brushed, rusty, corrugated or riveted sheet."""
    picture = times(flat(color(rng, 0.2, 0.8, rng.uniform(0.5, 1))), fractal(rng, 64, 3, 0.9, stretch=30), 0.06)
    if rng.random() < 0.5:
        rust = np.clip(fractal(rng, 4, 6, 0.8) - rng.uniform(0, 2), 0, 1)
        picture = blend(picture, np.array([0.4, 0.2, 0.1], np.float32), rust)
    u = np.arange(SIDE, dtype=np.float32) / SIDE
    if rng.random() < 0.4:
        waves = np.sin(2 * np.pi * int(rng.integers(4, 33)) * u)
        picture = times(picture, np.tile(waves, (SIDE, 1)), rng.uniform(0.1, 0.5))
    elif rng.random() < 0.5:
        _, _, down, across = cells(*rng.integers(1, 5, 2))
        picture[(down < 0.02) | (across < 0.02)] *= 0.4
        picture[np.hypot(down % 0.25 - 0.1, across - 0.06) < 0.02] *= 0.5
    return times(picture, fractal(rng, 3), 0.06)


def wallpaper(rng: Rng) -> Array32:
    """One small motif over and over: dots, rings, lozenges, waves."""
    rows = 2 * int(rng.integers(2, 10))
    _, _, down, across = cells(rows, rows, float(rng.choice([0, 0.5])))
    x, y = across - 0.5, down - 0.5
    field = [np.hypot(x, y), np.abs(x) + np.abs(y), np.maximum(np.abs(x), np.abs(y)), np.abs(x)][rng.integers(4)]
    edge, width = rng.uniform(0.15, 0.45), rng.uniform(0.05, 0.3)
    picture = blend(flat(color(rng, 0.3, 0.95)), color(rng, 0.05, 0.95), (np.abs(field - edge) < width / 2) * 1.0)
    picture[field < rng.uniform(0, 0.25)] = color(rng)
    return times(picture, fractal(rng, 4), rng.uniform(0.01, 0.08))


def cloudy(rng: Rng) -> Array32:
    """Colours that run into each other at all scales (noise with the spectrum of photographs)."""
    picture = np.stack([fractal(rng, 2, 8, rng.uniform(0.5, 0.8)) for _ in range(3)], -1)
    mixed = picture @ (np.eye(3) * rng.uniform(0.1, 0.6) + 0.5).astype(np.float32)  # greyer than three noises
    return np.clip(color(rng, 0.3, 0.7) + rng.uniform(0.08, 0.25) * mixed, 0, 1).astype(np.float32)


_FONTS = raster.FONTS
_LETTERS = np.array(list("aaabcdeeeefghiijklmnooopqrssttuuvwxyzABCDEFGHIJKLMNOPRSTUVW0123456789"))


def _word(rng: Rng, longest: int = 9) -> str:
    return "".join(rng.choice(_LETTERS, rng.integers(2, longest)))


def page(rng: Rng) -> Array32:
    """Lines of words on paper, a headline, perhaps a picture."""
    picture = flat(color(rng, 0.6, 0.98, 0.8))
    ink = np.zeros((SIDE, SIDE), np.uint8)  # text can only be drawn on bytes
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
    """The front of a house: storeys of windows, all alike except for curtains and light."""
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
    """The full circle, from the zenith (top) to the nadir: clear, clouded or grey, with a glow at the horizon."""
    height = (np.arange(SIDE, dtype=np.float32)[:, None] / SIDE * 2).clip(0, 1)[..., None]
    blue = np.array([0.25, 0.45, 0.8], np.float32) * rng.uniform(0.5, 1.3)
    zenith = blue if rng.random() < 0.6 else color(rng, 0.4, 0.95, 0.9)
    horizon = np.clip(color(rng, 0.7, 1.0, rng.uniform(0.75, 1)) + 0.1 * zenith, 0, 1)
    picture = np.broadcast_to(zenith + (horizon - zenith) * height ** rng.uniform(0.7, 3), (SIDE, SIDE, 3))
    clouds = np.clip((fractal(rng, 5, 6, 0.65) - rng.uniform(-1.5, 2)) * rng.uniform(0.3, 1.2), 0, 1)
    shade = np.clip(0.85 + 0.12 * fractal(rng, 8, 5), 0.4, 1)[..., None] * rng.uniform(0.75, 1.05)
    return np.clip(blend(picture.astype(np.float32), np.ones(3, np.float32) * shade, clouds), 0, 1)
