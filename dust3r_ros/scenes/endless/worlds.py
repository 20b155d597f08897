"""World number n of an endless row, decided by a seed and n alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dust3r_ros.scenes.endless.layouts import LAYOUTS
from dust3r_ros.scenes.endless.lighting import light_charts
from dust3r_ros.scenes.endless.scenery import Scenery
from dust3r_ros.scenes.endless.shapes import gather
from dust3r_ros.scenes.endless.site import Site
from dust3r_ros.scenes.endless.stage import Stage
from dust3r_ros.scenes.endless.stencils import stencils

_WORLD = 1  # what random numbers are for


@dataclass(frozen=True, eq=False)
class World:
    """``layout`` is the name of its kind."""

    layout: str
    scenery: Scenery
    stage: Stage


def make_world(seed: tuple[int, ...], number: int, layout: str | None = None) -> World:
    """World ``number`` of ``seed``, of a random kind or the one named ``layout``."""
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
    charts, sheet = site.charts(lit.places, replace(sky, tint=stage.sky * sky.tint))
    return World(make.__name__, Scenery(table, charts, sheet, lit.sheet, stencils()), stage)
