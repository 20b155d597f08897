"""Colours of what rays meet: paint from a sheet of textures, times light from a sheet of light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dust3r_ros.scenes import raster
from dust3r_ros.scenes.endless.casting import whole
from dust3r_ros.scenes.endless.sheet import LEVEL_TABLE, LEVELS
from dust3r_ros.types import Array32, Image


@dataclass(frozen=True, eq=False)
class Charts:
    """C charts, numbers (float32) from which follows where on the sheets a point (s, t) lies; charts come last.

    ``paint`` (6, C): repetitions of the texture u = a s + b t + c, v = d s + e t + f. ``slot`` (3, C): corner
    (x, y) of the texture on its sheet, texels per metre. ``tint`` (3, C) times the texture's RGB.
    ``light`` (4, C): x, y of the first sample on the light's sheet, and samples across and down, each less 1.
    """

    paint: Array32
    slot: Array32
    tint: Array32
    light: Array32


class Texels(NamedTuple):
    """Where to look (P,): in two neighbouring levels of the texture, ``blend`` being the share of the coarser, and on
    the light's sheet. ``corner``: of the texture on its sheet, whole numbers, which ``fine`` and ``coarse`` count from.
    """

    corner: tuple[Any, Any]
    fine: tuple[Any, Any]
    coarse: tuple[Any, Any]
    blend: Any
    light: tuple[Any, Any]


def texels(xp: Any, charts: Any, levels: Any, chart: Any, s: Any, t: Any, footprint: Any) -> Texels:
    """Where points (s, t) (P,) of charts (P,) lie; ``footprint`` (P,) metres is averaged over.

    NumPy or PyTorch by ``xp``; ``levels`` is ``LEVEL_TABLE`` as such an array.
    """
    a, b, c, d, e, f = (row[chart] for row in charts.paint)
    u, v = a * s + b * t + c, d * s + e * t + f
    u, v = u - xp.floor(u), v - xp.floor(v)
    left, top, per_metre = (row[chart] for row in charts.slot)
    level = xp.log2((footprint * per_metre).clip(min=1.0)).clip(max=LEVELS - 1.0)
    lower = whole(level)  # cut off, which is rounding down here
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
