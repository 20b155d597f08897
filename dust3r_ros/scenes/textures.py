"""Image textures in metres, filtered by their footprint, and procedural pictures of materials in rooms.

Every pattern takes a random generator and its size in texels (height, width) at ``scale`` texels per metre and gives
RGB float32 in [0, 1], albedo without light. All carry noise at several octaves, so that there are corners to track at
any distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dust3r_ros.scenes import raster
from dust3r_ros.types import Array32, Image


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture of ``width`` x ``height`` metres; ``levels`` are uint8 RGB, each half the one before."""

    width: float
    height: float
    levels: tuple[Image, ...]

    @property
    def texels_per_metre(self) -> float:
        """Density of the finest level."""
        return self.levels[0].shape[1] / self.width

    def level(self, footprint: Array32) -> Array32:
        """The level (N,) of the pyramid, between two of its pictures, whose texels are as wide as ``footprint``."""
        level = np.log2(np.maximum(footprint * self.texels_per_metre, 1.0))
        return np.minimum(level, len(self.levels) - 1).astype(np.float32)

    def sample(self, u: Array32, v: Array32, footprint: Array32) -> Array32:
        """Colours (N, 3) float32 at (u right, v down) metres, averaged over ``footprint`` (N,) metres.

        The two pyramid levels that bracket the footprint are blended (Williams, "Pyramidal
        parametrics", 1983).
        """
        level = self.level(footprint)
        finer = level.astype(np.int16)
        colors = np.empty((len(u), 3), np.float32)
        for index in np.unique(finer):
            chosen = np.flatnonzero(finer == index)
            colors[chosen] = self.blend(int(index), level[chosen], u[chosen], v[chosen])
        return colors

    def blend(self, finer: int, level: Array32, u: Array32, v: Array32) -> Array32:
        """Colours (N, 3) float32 of samples whose ``level`` lies between ``finer`` and the next."""
        colors = (1.0 - (level - finer))[:, None] * self._bilinear(finer, u, v)
        if finer + 1 < len(self.levels):
            colors += (1.0 - (finer + 1 - level))[:, None] * self._bilinear(finer + 1, u, v)
        return colors

    def _bilinear(self, index: int, u: Array32, v: Array32) -> Image:
        image = self.levels[index]
        x = (u * (image.shape[1] / self.width) - 0.5).astype(np.float32)
        y = (v * (image.shape[0] / self.height) - 0.5).astype(np.float32)
        return np.asarray(raster.sample(image, x, y), np.uint8)


def texture(image: Image, width: float, height: float) -> Texture:
    """A texture of ``width`` x ``height`` metres from a picture (H, W, 3) uint8."""
    import cv2  # imported here, since worlds for training do without it

    levels = [image]
    while min(levels[-1].shape[:2]) > 1:
        rows, columns = levels[-1].shape[:2]
        half = ((columns + 1) // 2, (rows + 1) // 2)
        levels.append(np.asarray(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA), np.uint8))
    return Texture(width, height, tuple(levels))


Pattern = Callable[[np.random.Generator, int, int, float], Array32]


def noise(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 4, stretch: float = 1.0
) -> Array32:
    """(H, W) noise around 0 with standard deviation 1; the coarsest cells are ``cell`` texels, each octave half.

    ``stretch`` makes the cells that much longer along x.
    """
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        size = max(cell / 2**octave, 1.0)
        grid = (int(np.ceil(height / size)) + 1, int(np.ceil(width / (size * stretch))) + 1)
        coarse = rng.standard_normal(grid, dtype=np.float32)
        total += 0.75**octave * raster.enlarge(coarse, width, height)
    return total / max(float(total.std()), 1e-6)


def _color(rng: np.random.Generator, low: float = 0.15, high: float = 0.9, grey: float = 0.4) -> Array32:
    color = rng.uniform(low, high, 3)
    return ((1 - grey) * color + grey * color.mean()).astype(np.float32)


def _mottle(rng: np.random.Generator, base: Array32, scale: float, strength: float) -> Array32:
    """Multiplies a picture by stains from 20 cm down to speckles of about 1 cm."""
    height, width = base.shape[:2]
    stains = noise(rng, height, width, 0.2 * scale, 3)
    speckles = noise(rng, height, width, 0.03 * scale, 2)
    return base * np.exp(strength * (0.6 * stains + 0.5 * speckles))[..., None]


def _metres(height: int, width: int, scale: float) -> tuple[Array32, Array32]:
    """v (H, 1) and u (1, W) of texels, metres."""
    v, u = np.ogrid[:height, :width]
    return v.astype(np.float32) / scale, u.astype(np.float32) / scale


def plaster(rng: np.random.Generator, height: int, width: int, scale: float) -> Array32:
    """Painted wall with stains and blotches of a second paint."""
    base = np.broadcast_to(_color(rng, 0.5, 0.85), (height, width, 3))
    blotches = noise(rng, height, width, 0.12 * scale, 3)[..., None] > 1.3
    return _mottle(rng, np.where(blotches, _color(rng, 0.3, 0.7), base), scale, 0.16)


def brick(rng: np.random.Generator, height: int, width: int, scale: float) -> Array32:
    """Running bond of 22 x 8 cm bricks, each of its own shade, in light mortar."""
    v, u = _metres(height, width, scale)
    row = np.floor(v / 0.08).astype(int)
    shifted = u + 0.11 * (np.arange(row.max() + 1)[:, None] % 2)  # a line for each row of bricks
    column = np.floor(shifted / 0.22).astype(int)
    shades = rng.normal(1.0, 0.22, (row.max() + 1, column.max() + 1, 1))
    tint = np.array([0.58, 0.33, 0.25], np.float32) * rng.uniform(0.8, 1.2, 3)
    mortar = ((v % 0.08) < 0.01) | ((shifted % 0.22) < 0.01)[row[:, 0]]
    picture = (tint * shades).astype(np.float32)[row, column[row[:, 0]]]
    picture[mortar] = 0.72
    return _mottle(rng, picture, scale, 0.12)


def planks(rng: np.random.Generator, height: int, width: int, scale: float) -> Array32:
    """Wooden boards along x, 14 cm wide, staggered joints, grain along the board."""
    v, u = _metres(height, width, scale)
    row = np.floor(v / 0.14).astype(int)
    shifted = u + rng.uniform(0, 0.9, (row.max() + 1, 1))  # a line for each row of boards
    column = np.floor(shifted / 0.9).astype(int)
    shades = rng.normal(1.0, 0.2, (row.max() + 1, column.max() + 1, 1))
    wood = np.array([0.56, 0.40, 0.26], np.float32) * rng.uniform(0.8, 1.2)
    gap = ((v % 0.14) < 0.006) | ((shifted % 0.9) < 0.006)[row[:, 0]]
    picture = (wood * shades).astype(np.float32)[row, column[row[:, 0]]]
    picture[gap] = 0.12
    grain = noise(rng, height, width, 0.02 * scale, 2, stretch=12.0)
    knots = noise(rng, height, width, 0.05 * scale, 2) > 2.1
    picture *= np.where(knots, 0.5, np.exp(0.13 * grain))[..., None]
    return _mottle(rng, picture, scale, 0.1)


def tiles(rng: np.random.Generator, height: int, width: int, scale: float) -> Array32:
    """Checker of 25 cm stone tiles in two colours, each tile of its own shade and some of a third colour."""
    v, u = _metres(height, width, scale)
    row, column = np.floor(v / 0.25).astype(int), np.floor(u / 0.25).astype(int)
    shape = (row.max() + 1, column.max() + 1)
    kind = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 2
    kind[rng.random(shape) < 0.15] = 2
    colors = np.stack([_color(rng, 0.5, 0.9), _color(rng, 0.15, 0.45), _color(rng, 0.3, 0.7, 0.1)])
    picture = (colors[kind] * rng.normal(1.0, 0.1, (*shape, 1)))[row, column].astype(np.float32)
    picture[((v % 0.25) < 0.008) | ((u % 0.25) < 0.008)] = 0.3
    return _mottle(rng, picture, scale, 0.13)


def ceiling(rng: np.random.Generator, height: int, width: int, scale: float) -> Array32:
    """Acoustic panels of 60 cm with holes and stains."""
    picture = np.full((height, width, 3), 0.82, np.float32)
    holes = noise(rng, height, width, 0.04 * scale, 2) > 1.6
    picture[holes] = 0.4
    v, u = _metres(height, width, scale)
    picture[((v % 0.6) < 0.02) | ((u % 0.6) < 0.02)] = 0.5
    return _mottle(rng, picture, scale, 0.1)


def fabric(rng: np.random.Generator, height: int, width: int, scale: float) -> Array32:
    """Woven cloth: stripes both ways over blotches."""
    v, u = _metres(height, width, scale)
    picture = np.broadcast_to(_color(rng), (height, width, 3)).copy()
    for axis in (u, v):
        period, offset = rng.uniform(0.06, 0.16), rng.uniform(0, 0.1)
        stripe = np.broadcast_to(((axis + offset) % period) < rng.uniform(0.2, 0.5) * period, (height, width))
        picture[stripe] = 0.5 * picture[stripe] + 0.5 * _color(rng)
    return _mottle(rng, picture, scale, 0.18)


def books(rng: np.random.Generator, height: int, width: int, scale: float) -> Array32:
    """A bookcase from the front: boards every 33 cm, between them spines with titles."""
    picture = np.broadcast_to(np.array([0.35, 0.24, 0.15], np.float32), (height, width, 3)).copy()
    shelf, board = int(0.33 * scale), max(int(0.025 * scale), 1)
    for top in range(0, height, shelf):
        bottom = min(top + shelf, height) - board
        picture[top:bottom] *= 0.35
        x = board
        while x < width - board:
            wide = int(rng.uniform(0.02, 0.06) * scale) + 2
            high = int(rng.uniform(0.65, 0.95) * (shelf - board))
            _spine(rng, picture[max(bottom - high, top) : max(bottom, top), x : min(x + wide, width - board)])
            x += wide + int(rng.random() < 0.1) * wide
    return _mottle(rng, picture, scale, 0.06)


def _spine(rng: np.random.Generator, area: Array32) -> None:
    if min(area.shape[:2]) < 4:
        return
    area[:] = _color(rng, 0.05, 0.95, 0.2)
    area[:, :1] *= 0.5
    ink, (rows, columns) = _color(rng, 0.05, 0.95), area.shape[:2]
    for _ in range(rng.integers(1, 5)):
        start = int(rng.uniform(0.05, 0.9) * rows)
        stop = start + max(int(rng.uniform(0.02, 0.2) * rows), 1)
        area[start:stop, columns // 5 : -(columns // 5) or None] = ink


def poster(rng: np.random.Generator, height: int, width: int, scale: float) -> Array32:
    """A printed sheet: coloured shapes over a noisy ground, lines of text, a frame."""
    ground = noise(rng, height, width, 0.4 * min(height, width), 3)[..., None]
    picture = np.clip(_color(rng) + 0.2 * ground * _color(rng), 0, 1).astype(np.float32)
    for _ in range(rng.integers(8, 16)):
        center = (rng.uniform(0, 1, 2) * [width, height]).astype(int)
        size = (rng.uniform(0.04, 0.25, 2) * min(height, width)).astype(int) + 2
        color = _color(rng, 0.02, 0.98, 0.1).tolist()
        if rng.random() < 0.5:
            turned = float(rng.uniform(0, 180))
            raster.ellipse(picture, tuple(center.tolist()), tuple(size.tolist()), turned, color)
        else:
            raster.polygon(picture, _quadrilateral(rng, center, size), color)
    _text(rng, picture)
    raster.frame(picture, (0, 0), (width - 1, height - 1), (0.1, 0.08, 0.06), max(int(0.03 * scale), 2))
    return _mottle(rng, picture, scale, 0.06)


def _quadrilateral(rng: np.random.Generator, center: np.ndarray, size: np.ndarray) -> np.ndarray:
    angles = np.sort(rng.uniform(0, 2 * np.pi, 4))
    return (center + size * np.stack([np.cos(angles), np.sin(angles)], -1)).astype(np.int32)


def _text(rng: np.random.Generator, picture: Array32) -> None:
    """Words of random block letters, five by three cells each."""
    height, width = picture.shape[:2]
    for _ in range(4):
        cells = (rng.random((5, 4 * rng.integers(3, 8))) < 0.6).astype(np.uint8)
        cells[:, 3::4] = 0
        cell = max(int(rng.uniform(0.012, 0.03) * min(height, width)), 1)
        word = np.kron(cells, np.ones((cell, cell), np.uint8))
        y, x = (int(rng.uniform(0.05, 0.8) * side) for side in (height, width))
        area = picture[y : y + word.shape[0], x : x + word.shape[1]]
        area[word[: area.shape[0], : area.shape[1]] > 0] = _color(rng, 0.0, 1.0, 0.2)


def decorated(ground: Pattern, sheets_per_area: float = 0.35) -> Pattern:
    """``ground`` with posters hung on it, ``sheets_per_area`` per square metre."""

    def pattern(rng: np.random.Generator, height: int, width: int, scale: float) -> Array32:
        picture = ground(rng, height, width, scale).copy()
        for _ in range(max(int(sheets_per_area * height * width / scale**2), 1)):
            wide, high = (rng.uniform([0.4, 0.4], [1.0, 0.9]) * scale).astype(int)
            if wide < width and high < height:
                x, y = rng.integers(0, width - wide), rng.integers(0, height - high)
                picture[y : y + high, x : x + wide] = poster(rng, high, wide, scale)
        return picture

    return pattern
