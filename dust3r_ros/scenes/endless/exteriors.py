"""Worlds under the sky: streets and parks."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes.endless import outside
from dust3r_ros.scenes.endless.lamps import daylight
from dust3r_ros.scenes.endless.site import Site
from dust3r_ros.scenes.endless.stage import Stage


def land(site: Site, size: float) -> None:
    """Level ground of half ``size`` metres."""
    site.panel((0, 0, 0), (size, 0, 0), (0, -size, 0), site.paint("ground", scale=1.5))


def street(site: Site) -> Stage:
    """Houses on both sides of a road with what stands on streets; beyond, the sky."""
    rng = site.rng
    road, walk = rng.uniform(2.0, 4.5), rng.uniform(1.0, 3.0)
    land(site, 150)
    site.box((-60, -road, -1), (60, road, 0.02), site.paint("ground"), solid=False)
    for sign in (1, -1):
        a, b = sorted((sign * road, sign * (road + walk)))
        site.box((-60, a, -1), (60, b, 0.14), site.paint("rough"), solid=False)
        x = -rng.uniform(24, 32)
        while x < 32 and (sign > 0 or rng.random() < 0.9):
            wide, deep = rng.uniform(3, 7), rng.uniform(3, 5)
            yaw = np.pi if sign > 0 else 0.0
            with site.at((x + wide, sign * (road + walk + deep + rng.choice([0.0, 0.0, 2.0])), 0), yaw):
                outside.house(site, wide, deep, rng.choice([3.2, 6.2, 9.2]) + rng.uniform(0, 0.6))
            x += 2 * wide + rng.choice([0.0, 0.0, 1.5, 5.0])
        for x in np.arange(-18, 18, rng.uniform(3, 8)):
            with site.at((x, sign * (road + 0.5), 0.14), np.pi if sign > 0 else 0.0):
                (outside.post, outside.tree, outside.post, outside.bench)[int(rng.integers(4))](site)
        for x in np.arange(-15, 15, rng.uniform(5.5, 12)):
            if rng.random() < 0.6:
                with site.at((x, sign * (road - 1.0), 0), rng.choice([0.0, np.pi]) + rng.normal(0, 0.03)):
                    outside.car(site)
    lamps, ambient = daylight(rng)
    bounds = np.array([[-14, -road - 0.8 * walk, 0.9], [14, road + 0.8 * walk, rng.uniform(1.8, 4)]])
    return Stage(bounds, lamps, ambient, 2.5, (2.0, 26.0))


def park(site: Site) -> Stage:
    """Open land: hills, trees, rocks, fences, a path; the sky above."""
    rng = site.rng
    land(site, 200)
    for _ in range(int(rng.integers(0, 6))):
        far, angle = rng.uniform(14, 60), rng.uniform(0, 2 * np.pi)
        radii = np.array([*rng.uniform(5, 18, 2), rng.uniform(0.8, 6)])
        site.ball((far * np.cos(angle), far * np.sin(angle), 0), radii, site.paint("ground", scale=2))
    if rng.random() < 0.7:
        with site.at((0, rng.normal(0, 2), 0), rng.uniform(0, np.pi)):
            site.box((-70, -1.2, -1), (70, 1.2, 0.03), site.paint("ground"), solid=False)
    for _ in range(int(rng.integers(14, 34))):
        spot, piece = rng.normal(0, 6, 2), outside.SMALL[int(rng.integers(len(outside.SMALL)))]
        with site.at((*spot, 0), rng.uniform(0, 2 * np.pi)):
            piece(site)
    for _ in range(int(rng.integers(0, 4))):
        with site.at((*rng.normal(0, 7, 2), 0), rng.uniform(0, np.pi)):
            outside.fence(site, rng.uniform(2, 8))
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        with site.at((16 * np.cos(angle), 16 * np.sin(angle), 0), angle + np.pi / 2):
            outside.house(site, rng.uniform(3, 6), 3.0, rng.uniform(2.8, 6))
    lamps, ambient = daylight(rng)
    return Stage(np.array([[-8, -8, 0.7], [8, 8, 3.0]]), lamps, ambient, 3.0, (1.5, 12.0))
