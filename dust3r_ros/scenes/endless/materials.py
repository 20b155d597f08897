"""What surfaces are made of: pictures of 512 x 512 texels that repeat, RGB float32 in [0, 1], without light.

Each takes a random generator alone, which decides colours, proportions and wear.
"""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes import raster
from dust3r_ros.scenes.endless.noises import Rng, blend, cells, color, flat, fractal, octave, speckles, times
from dust3r_ros.scenes.endless.sheet import SIDE
from dust3r_ros.types import Array32


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
    """Bricks, blocks, tiles, slates, paving: cells of their own shades in joints."""
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
        picture *= (1 - 0.4 * down)[..., None]  # each row under the one above, as on a roof
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
