"""Noise that repeats without a seam, and other ground stuff of materials. All arrays are float32."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes import raster
from dust3r_ros.scenes.endless.sheet import SIDE
from dust3r_ros.types import Array32

Rng = np.random.Generator


def octave(rng: Rng, rows: int, columns: int) -> Array32:
    """(512, 512) smooth noise of standard deviation about 0.7, with so many cells down and across."""
    rough = np.pad(rng.standard_normal((rows, columns), dtype=np.float32), 2, mode="wrap")
    size = round(SIDE * (columns + 4) / columns), round(SIDE * (rows + 4) / rows)
    smooth = raster.enlarge(rough, *size)
    top, left = round(2 * SIDE / rows), round(2 * SIDE / columns)
    return np.asarray(smooth[top : top + SIDE, left : left + SIDE], np.float32)


def fractal(rng: Rng, cells: int, octaves: int = 5, fade: float = 0.6, stretch: float = 1.0) -> Array32:
    """(512, 512) noise of mean 0 and standard deviation 1: ``cells`` at first, twice as many in every octave.

    ``fade`` is the strength of an octave against the one before; ``stretch`` makes it that much longer along x.
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
    """An RGB colour of random brightness and saturation; ``grey`` 1 is none of the latter."""
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
    """A picture brighter and darker by noise (512, 512)."""
    return picture * np.exp(strength * noise)[..., None]


def cells(rows: int, columns: int, shift: float = 0.0) -> tuple[Array32, Array32, Array32, Array32]:
    """Where texels lie in courses of cells: row and column numbers, and place within (0 to 1) down and across.

    Every second course is shifted by ``shift`` cells; an even number of rows repeats without a seam.
    """
    v, u = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    down = (v + 0.5) * (rows / SIDE)
    row = np.floor(down)
    across = (u + 0.5) * (columns / SIDE) + shift * (row % 2)
    column = np.floor(across)
    return row, column % columns, down - row, across - column
