"""Worlds of things: close together on a table, or floating about in a hall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dust3r_ros.scenes.endless import outside
from dust3r_ros.scenes.endless.exteriors import land
from dust3r_ros.scenes.endless.furniture import things
from dust3r_ros.scenes.endless.interiors import hang_on_walls, shell
from dust3r_ros.scenes.endless.lamps import daylight, lamps_under
from dust3r_ros.scenes.endless.lighting import Lamp
from dust3r_ros.scenes.endless.site import Site, tumble
from dust3r_ros.scenes.endless.stage import Stage


def still_life(site: Site) -> Stage:
    """Things close together on a table, on the ground, or before nothing; cameras all around them."""
    rng = site.rng
    size = float(np.exp(rng.uniform(np.log(0.12), np.log(0.7))))
    spread = size * rng.uniform(1.0, 2.5)
    lamps, ambient, base, sky = _surroundings(site, spread, 12 * size + 1.5)
    if base:
        wide = 1.6 * spread + 0.1
        site.box((-wide, -wide, base - 0.04), (wide, wide, base), site.paint("furniture"), site.paint("cloth", scale=2))
        site.pole((0, 0, 0), (0, 0, base - 0.04), 0.5 * wide, site.paint("furniture"))
    things(site, (-spread, -spread), (spread, spread), base, int(rng.integers(5, 22)), size)
    middle, around = np.array([0, 0, base + 0.3 * size]), 1.5 * spread + 4 * size
    bounds = np.array([[-around, -around, base + 0.1 * size], [around, around, base + around]])
    focus = middle + rng.normal(0, 0.5 * spread, (8, 3)) * [1, 1, 0.2]
    return Stage(bounds, lamps, ambient, 7.0 / size**0.5, (1.5 * size, 2 * around), focus, sky)


def _surroundings(site: Site, spread: float, far: float) -> tuple[Sequence[Lamp], float, float, float]:
    """A room of ``far`` metres, open land, or nothing: lamps, ambient light, height of the table, brightness behind."""
    rng = site.rng
    kind = rng.random()
    if kind < 0.6:
        low, high = shell(site, np.full(2, far / 2), far)
        hang_on_walls(site, np.full(2, far / 2), far, 6)
        return *lamps_under(rng, low, high), (rng.uniform(0.3, 0.8) if rng.random() < 0.7 else 0.0), 1.0
    if kind < 0.8:  # a studio: a backdrop of one colour, as turntable pictures have it
        low, high = np.array([-far, -far, 0.0]), np.array([far, far, 2 * far])
        return *lamps_under(rng, low, high), rng.uniform(0.2, 0.8), float(rng.choice([0.0, 0.05, 0.5, 1.0]))
    land(site, 100)
    for _ in range(10):
        away = 3 * spread * np.sign(rng.normal(0, 1, 2)) + rng.uniform(-1, 1, 2)
        with site.at((*away, 0), rng.uniform(0, 6)):
            outside.SMALL[int(rng.integers(len(outside.SMALL)))](site)
    return *daylight(rng), 0.0, 1.0


def jumble(site: Site) -> Stage:
    """Blocks, balls, bars and sheets of all sizes at any angle in a large hall: nothing is where one expects it."""
    rng = site.rng
    half = rng.uniform(3, 6)
    low, high = shell(site, np.full(2, half), 2 * half * rng.uniform(0.5, 1))
    for _ in range(int(rng.integers(20, 55))):
        center, size = rng.uniform(0.95 * low + 0.05 * high, 0.05 * low + 0.95 * high), np.exp(rng.uniform(-2.3, 0.1))
        use = ["thing", "rough", "print", "leaves", "metal", "cloth", "furniture"][int(rng.integers(7))]
        R, paint, radii = tumble(rng), site.paint(use), size * np.exp(rng.normal(0, 0.6, 3))
        kind = rng.integers(5)
        if kind == 0:
            site.block(center, radii, R, paint)
        elif kind == 1:
            site.ball(center, radii, paint, R)
        elif kind == 2:
            site.pole(center - R[0] * 2 * size, center + R[0] * 2 * size, 0.1 * radii[0], paint)
        elif kind == 3:
            site.pole(center - R[0] * size, center + R[0] * size, 0.5 * radii[0], paint, rng.uniform(0, 1))
        else:
            mask = int(rng.integers(-4, 8))
            repeats = (float(rng.integers(1, 6)), float(rng.integers(1, 6)))
            site.panel(center, R[0] * radii[0], R[1] * radii[1], paint, max(mask, -1), repeats, solid=True)
    lamps, ambient = lamps_under(rng, low, high)
    return Stage(np.array([low + 0.4, high - 0.4]), lamps, ambient, 6.0, (1.0, 8.0))
