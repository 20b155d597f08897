"""Worlds around one large building: steps, columns, walls in relief, towers, roofs."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes.endless import outside
from dust3r_ros.scenes.endless.exteriors import land
from dust3r_ros.scenes.endless.lamps import daylight
from dust3r_ros.scenes.endless.site import Paint, Site
from dust3r_ros.scenes.endless.stage import Stage


def monument(site: Site) -> Stage:
    """A building to walk around, other buildings far behind it, trees and posts before it."""
    rng = site.rng
    land(site, 200)
    half, high = rng.uniform(3, 9, 2), rng.uniform(4, 10)
    stone, trim = site.paint("front", turned=False), site.paint("rough", scale=1.5)
    base = _steps(site, half, trim)
    walls = half - rng.uniform(0, 1.8)
    site.box((*-walls, base), (*walls, base + high), stone)
    _relief(site, half, walls, base, high, trim)
    _roof(site, half, base + high, trim)
    for _ in range(int(rng.integers(2, 9))):
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(1.3, 2.5) * half.max()
        piece = outside.SMALL[int(rng.integers(len(outside.SMALL)))]
        with site.at((far * np.cos(angle), far * np.sin(angle), 0), angle):
            piece(site)
    for angle in np.arange(0, 2 * np.pi, rng.uniform(0.5, 1.5)):
        far = rng.uniform(5, 8) * half.max()
        with site.at((far * np.cos(angle), far * np.sin(angle), 0), angle + np.pi / 2):
            outside.house(site, rng.uniform(3, 8), 4.0, rng.uniform(3, 14))
    lamps, ambient = daylight(rng)
    reach = 2.2 * half.max() + high
    focus = rng.uniform(-1, 1, (12, 3)) * [half[0], half[1], 0.4 * high] + np.array([0, 0, base + 0.5 * high])
    bounds = np.array([[-reach, -reach, 1.2], [reach, reach, rng.uniform(2.0, 2.0 + high)]])
    return Stage(bounds, lamps, ambient, 2.5, (2.5, 1.5 * reach), focus)


def _steps(site: Site, half: np.ndarray, paint: Paint) -> float:
    """Steps all around; their height."""
    count, rise = int(site.rng.integers(0, 6)), site.rng.uniform(0.12, 0.25)
    for step in range(count):
        wide = half + 0.35 * (count - step)
        site.box((*-wide, step * rise), (*wide, (step + 1) * rise), paint)
    return count * rise


def _relief(site: Site, half: np.ndarray, walls: np.ndarray, base: float, high: float, trim: Paint) -> None:
    """Columns, pilasters, windows or arches on the four sides, and ledges between storeys."""
    rng = site.rng
    kind, step, thick = rng.integers(4), rng.uniform(1.3, 3.2), rng.uniform(0.15, 0.45)
    for side in range(4):
        along, away, wall = half[side % 2], half[1 - side % 2], walls[1 - side % 2]
        door = site.paint("door")
        with site.at((0, 0, base), side * np.pi / 2):
            for x in np.arange(-along + thick, along - thick + 1e-6, step):
                if kind == 0 or (kind == 3 and side % 2 == 0):  # columns before the wall
                    y = -away + thick
                    site.pole((x, y, 0), (x, y, high), thick, trim, 0.2)
                    site.box(
                        (x - 1.3 * thick, y - 1.3 * thick, high - 0.3), (x + 1.3 * thick, y + 1.3 * thick, high), trim
                    )
                elif kind == 1:
                    site.box((x - thick, -wall - 0.2, 0), (x + thick, -wall, high), trim)
                elif abs(x) < walls[side % 2] - 0.7:
                    for z in np.arange(1.8, high - 1.0, 3.2):
                        site.panel((x, -wall - 0.01, z), (0.5, 0, 0), (0, 0, -0.8), site.paint("window"))
                        site.box((x - 0.65, -wall - 0.15, z + 0.8), (x + 0.65, -wall, z + 0.95), trim)
            site.panel((0, -wall - 0.02, 1.2), (0.8, 0, 0), (0, 0, -1.2), door)
    for z in np.arange(3.2, high, 3.2)[: int(rng.integers(0, 3))]:
        out = walls + 0.12
        site.box((*-out, base + z), (*out, base + z + 0.18), trim)


def _roof(site: Site, half: np.ndarray, top: float, trim: Paint) -> None:
    """Flat with a parapet, a gable, or a dome, and perhaps towers."""
    rng = site.rng
    out, paint = half + 0.2, site.paint("rough", scale=1.5)
    site.box((*-out, top), (*out, top + 0.4), trim)
    kind = rng.integers(4)
    if kind == 0:
        s = np.sqrt(0.5)
        lying = np.diag([1, 1, rng.uniform(0.4, 0.8)]) @ np.array([[1.0, 0, 0], [0, s, -s], [0, s, s]])
        site.block((0, 0, top + 0.4), (out[0], s * out[1], s * out[1]), lying, paint)
    elif kind == 1:
        radius = 0.7 * half.min()
        site.pole((0, 0, top), (0, 0, top + 0.6 * radius), radius, trim)
        site.ball((0, 0, top + 0.6 * radius), radius, paint)
    elif kind == 2:
        site.pole((0, 0, top + 0.4), (0, 0, top + 0.4 + half.min()), half.min(), paint, rng.uniform(0.5, 1))
    for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1))[: int(rng.choice([0, 1, 2, 4]))]:
        thick, high = rng.uniform(0.8, 1.6), rng.uniform(0.2, 1.2) * top
        with site.at((x * (half[0] - thick), y * (half[1] - thick), 0)):
            site.box((-thick, -thick, 0), (thick, thick, top + high), site.paint("front", turned=False))
            site.pole((0, 0, top + high), (0, 0, top + high + 2.5 * thick), 1.3 * thick, paint, 1.0)
