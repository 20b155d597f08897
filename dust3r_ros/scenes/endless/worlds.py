"""World number n of an endless row, decided by a seed and n alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.scenes.endless.layouts import LAYOUTS
from dust3r_ros.scenes.endless.lighting import light_charts
from dust3r_ros.scenes.endless.painting import Charts
from dust3r_ros.scenes.endless.scenery import Scenery
from dust3r_ros.scenes.endless.shapes import Shapes, gather
from dust3r_ros.scenes.endless.sheet import lay_out
from dust3r_ros.scenes.endless.site import Site
from dust3r_ros.scenes.endless.stage import Stage
from dust3r_ros.scenes.endless.stencils import stencils
from dust3r_ros.scenes.endless.stock import material
from dust3r_ros.types import Array32

_WORLD = 1  # what random numbers are for


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A world without its textures: what is small enough to travel between processes.

    ``charts``: their slots begin at (0, 0). ``materials``: use and number of each that it needs (see ``stock``);
    ``of_chart`` (C,): which of these every chart has.
    """

    layout: str
    shapes: Shapes
    charts: Charts
    materials: Sequence[tuple[str, int]]
    of_chart: NDArray[np.int64]
    light: Array32
    stage: Stage

    def charts_at(self, corners: Array32) -> Charts:
        """The charts where material k has its slot at ``corners[k]`` (x, y) of a sheet."""
        slot = self.charts.slot.copy()
        slot[:2] += corners[self.of_chart].T
        return replace(self.charts, slot=slot)


@dataclass(frozen=True, eq=False)
class World:
    """``layout`` is the name of its kind."""

    layout: str
    scenery: Scenery
    stage: Stage


def make_world(seed: tuple[int, ...], number: int, layout: str | None = None) -> World:
    """World ``number`` of ``seed``, of a random kind or the one named ``layout``."""
    drawn = draw_up(seed, number, layout)
    sheet, corners = lay_out([material(seed, *name) for name in drawn.materials])
    return World(
        drawn.layout, Scenery(drawn.shapes, drawn.charts_at(corners), sheet, drawn.light, stencils()), drawn.stage
    )


def draw_up(seed: tuple[int, ...], number: int, layout: str | None = None) -> Blueprint:
    """The blueprint of ``make_world``'s world."""
    rng = np.random.default_rng([*seed, _WORLD, number])
    makers, shares = list(LAYOUTS), np.array(list(LAYOUTS.values()))
    make = makers[int(rng.choice(len(makers), p=shares / shares.sum()))]
    if layout is not None:
        make = {maker.__name__: maker for maker in makers}[layout]
    site = Site(rng, seed, number)
    stage = make(site)
    table = gather(site.shapes)
    lit = light_charts(site.shapes, table, stage.lamps, stage.ambient, rng, stage.density)
    sky = site.paint("sky", turned=False)
    charts, materials, of_chart = site.charts(lit.places, replace(sky, tint=stage.sky * sky.tint))
    return Blueprint(make.__name__, table, charts, materials, of_chart, lit.sheet, stage)
