"""Colours where rays meet surfaces: paint from a sheet of textures, times light from a sheet of light.

Textures lie with their mip pyramids side by side on one sheet, so that one remap serves all surfaces of a view. Each is
``SIDE`` texels square and repeats in both directions; every level carries a border of one texel from its other side.
Levels: Williams, "Pyramidal parametrics", 1983.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dust3r_ros.scenes import raster
from dust3r_ros.scenes.endless.casting import whole
from dust3r_ros.types import Array32, Image

SIDE = 512
LEVELS = 7  # 512 down to 8 texels
_SIZES = [SIDE >> level for level in range(LEVELS)]
# Per level: x, y from the slot's corner to half a texel before its first one, and texels along a side. The first
# level lies on the left, the others in a column beside it.
LEVEL_TABLE = np.array(
    [
        [0.5] + [SIDE + 2.5] * (LEVELS - 1),
        [0.5] + [0.5 + sum(size + 2 for size in _SIZES[1:level]) for level in range(1, LEVELS)],
        _SIZES,
    ],
    np.float32,
)
SLOT = (516, SIDE + 2 + SIDE // 2 + 2)  # (height, width)
_ROW = 4  # slots side by side


def pyramid(picture: Array32) -> Image:
    """The slot (516, 772, 3) of a picture (512, 512, 3), RGB float32 in [0, 1]."""
    slot = np.zeros((*SLOT, 3), np.uint8)
    level = np.clip(picture, 0, 1)
    for number, size in enumerate(_SIZES):
        if number:
            level = raster.halve(level)
        padded = np.pad((255 * level + 0.5).astype(np.uint8), ((1, 1), (1, 1), (0, 0)), mode="wrap")
        top, left = int(LEVEL_TABLE[1, number]), int(LEVEL_TABLE[0, number])
        slot[top : top + size + 2, left : left + size + 2] = padded
    return slot


def lay_out(slots: Sequence[Image]) -> tuple[Image, Array32]:
    """The sheet of all slots, and where each begins: (x, y) (N, 2) float32."""
    rows = -(-len(slots) // _ROW)
    sheet = np.empty((rows * SLOT[0], min(_ROW, len(slots)) * SLOT[1], 3), np.uint8)
    corners = np.zeros((len(slots), 2), np.float32)
    sheet[-SLOT[0] :] = 0  # unused space
    for number, slot in enumerate(slots):
        top, left = number // _ROW * SLOT[0], number % _ROW * SLOT[1]
        sheet[top : top + SLOT[0], left : left + SLOT[1]] = slot
        corners[number] = left, top
    return sheet, corners


@dataclass(frozen=True, eq=False)
class Charts:
    """C charts: float32 numbers that map a point (s, t) to the sheets; charts come last.

    ``paint`` (6, C): repetitions of the texture u = a s + b t + c, v = d s + e t + f. ``slot`` (3, C): corner
    (x, y) of the texture on its sheet, texels per metre. ``tint`` (3, C) times the texture's RGB.
    ``light`` (4, C): x, y of the first sample on the light's sheet, and samples across and down, each less 1.
    """

    paint: Array32
    slot: Array32
    tint: Array32
    light: Array32


class Texels(NamedTuple):
    """Sampling positions (P,) in two neighbouring levels of the texture, ``blend`` being the share of the coarser, and
    on the light's sheet. ``corner``: the texture's corner on its sheet, whole numbers, from which ``fine`` and
    ``coarse`` count.
    """

    corner: tuple[Any, Any]
    fine: tuple[Any, Any]
    coarse: tuple[Any, Any]
    blend: Any
    light: tuple[Any, Any]


def texels(xp: Any, charts: Any, levels: Any, chart: Any, s: Any, t: Any, footprint: Any) -> Texels:
    """Sampling positions of points (s, t) (P,) of charts (P,), averaging over ``footprint`` (P,) metres.

    NumPy or PyTorch by ``xp``; ``levels`` is ``LEVEL_TABLE`` as such an array.
    """
    a, b, c, d, e, f = (row[chart] for row in charts.paint)
    u, v = a * s + b * t + c, d * s + e * t + f
    u, v = u - xp.floor(u), v - xp.floor(v)
    left, top, per_metre = (row[chart] for row in charts.slot)
    level = xp.log2((footprint * per_metre).clip(min=1.0)).clip(max=LEVELS - 1.0)
    lower = whole(level)  # truncation, which rounds down here
    places = []
    for number in (lower, (lower + 1).clip(max=LEVELS - 1)):
        x, y, side = (row[number] for row in levels)
        places.append((x + u * side, y + v * side))
    x, y, across, down = (row[chart] for row in charts.light)
    return Texels(
        (left, top), places[0], places[1], level - lower, (x + s.clip(0, 1) * across, y + t.clip(0, 1) * down)
    )


def paint(charts: Charts, sheet: Image, light: Array32, found: tuple[Any, Any, Any], footprint: Array32) -> Array32:
    """(P, 3) colours, 0 to 255 and above, of points ``found`` = chart, s, t (P,)."""
    where = texels(np, charts, LEVEL_TABLE, *found, footprint)
    colors, coarse = (
        raster.sample(sheet, where.corner[0] + x, where.corner[1] + y).astype(np.float32)
        for x, y in (where.fine, where.coarse)
    )
    coarse -= colors
    coarse *= where.blend.astype(np.float32)[:, None]
    colors += coarse
    shade = raster.sample(light, *where.light)
    for k in range(3):
        colors[:, k] *= shade * charts.tint[k][found[0]]
    return colors
