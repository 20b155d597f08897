"""Worlds under the sky: streets, parks, large buildings, and their contents."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes.endless.lighting import daylight
from dust3r_ros.scenes.endless.materials import BARS, GRID, LATTICE, LEAVES, MESH, SLATS, TWIGS
from dust3r_ros.scenes.endless.site import Paint, Site, Stage, tumble


def house(site: Site, wide: float, deep: float, high: float) -> None:
    """A house of given half width and half depth: front, roof, door, windows in relief, steps."""
    rng = site.rng
    walls, trim = site.paint("front", turned=False), site.paint("wall")
    site.box((-wide, -deep, 0), (wide, deep, high), walls, site.paint("rough"))
    if rng.random() < 0.5:
        # A gable roof: a square bar lying on its edge, half of it above the walls.
        s = np.sqrt(0.5)
        R = np.array([[1.0, 0, 0], [0, s, -s], [0, s, s]])
        half = (deep + 0.3) * s
        R = np.diag([1, 1, rng.uniform(0.5, 1.1)]) @ R
        site.block((0, 0, high), (wide + 0.2, half, half), R, site.paint("rough"))
    else:
        site.box((-wide - 0.2, -deep - 0.2, high), (wide + 0.2, deep + 0.2, high + rng.uniform(0.2, 0.6)), trim)
    x = rng.uniform(-0.7, 0.7) * wide
    site.panel((x, deep + 0.01, 1.05), (-0.5, 0, 0), (0, 0, -1.05), site.paint("door"))
    site.box((x - 0.8, deep, 0), (x + 0.8, deep + 0.5, 0.15), trim)
    if rng.random() < 0.6:
        for storey in np.arange(1.6, high - 1.0, 3.0):
            for u in np.arange(-wide + 1.0, wide - 0.9, rng.uniform(1.8, 3.5)):
                if abs(u - x) > 1.0 or storey > 2.5:
                    site.panel((u, deep + 0.015, storey + 0.2), (-0.5, 0, 0), (0, 0, -0.7), site.paint("window"))
                    site.box((u - 0.6, deep, storey - 0.6), (u + 0.6, deep + 0.15, storey - 0.5), trim)
    if rng.random() < 0.4:
        z = 3.0
        site.box((-0.6 * wide, deep, z - 0.15), (0.6 * wide, deep + 1.0, z), trim)
        rail, metal = (0, deep + 1.0, z + 0.5), site.paint("metal")
        site.panel(rail, (0.6 * wide, 0, 0), (0, 0, -0.5), metal, BARS, (8 * wide, 1), solid=True)


def tree(site: Site) -> None:
    """A broad tree of several crowns, a fir, or a bare one."""
    rng = site.rng
    high, bark, green = rng.uniform(2.5, 7.0), site.paint("bark", turned=True), site.paint("leaves", scale=1.5)
    lean = rng.normal(0, 0.05, 2) * high
    kind = rng.integers(4)
    site.pole((0, 0, 0), (*lean, 0.75 * high), rng.uniform(0.05, 0.22), bark, 0.5)
    if kind == 0:
        for base in np.linspace(0.15, 0.65, int(rng.integers(2, 4))) * high:
            radius = 0.35 * (high - base)
            site.pole((0.5 * lean[0], 0.5 * lean[1], base), (*lean, base + 0.45 * high), radius, green, 1.0)
        return
    for _ in range(int(rng.integers(2, 5))):
        away = np.array([*lean, 0.75 * high]) + rng.normal(0, 0.12, 3) * high
        if kind == 1:
            site.pole((*(0.5 * lean), rng.uniform(0.3, 0.6) * high), away, 0.04, bark, 0.7)
        else:
            site.ball(away, rng.uniform(0.13, 0.28, 3) * high, green)
    mask = TWIGS if kind == 1 else LEAVES
    for angle in rng.uniform(0, np.pi, 3):
        right = 0.42 * high * np.array([np.cos(angle), np.sin(angle), 0])
        repeats = (3.0, 3.0) if mask == LEAVES else (1.0, 1.0)
        site.panel((*lean, 0.75 * high), right, (0, 0, -0.32 * high), bark if kind == 1 else green, mask, repeats, True)


def bush(site: Site) -> None:
    """A bush or hedge."""
    rng = site.rng
    green, size = site.paint("leaves"), rng.uniform(0.3, 0.9)
    if rng.random() < 0.3:
        site.box((-2 * size, -0.5 * size, 0), (2 * size, 0.5 * size, 1.3 * size), green)
        return
    for _ in range(int(rng.integers(1, 4))):
        center = [*rng.normal(0, 0.5 * size, 2), rng.uniform(0.2, 0.6) * size]
        site.ball(center, size * rng.uniform(0.5, 1.0, 3), green)


def rocks(site: Site) -> None:
    """Boulders, partly in the ground."""
    rng = site.rng
    paint = site.paint("rough")
    for _ in range(int(rng.integers(1, 5))):
        center, size = [*rng.normal(0, 0.8, 2), 0.05], rng.uniform(0.15, 0.9)
        half = size * rng.uniform(0.4, 1.0, 3)
        if rng.random() < 0.6:
            site.ball(center, half, paint, tumble(rng))
        else:
            site.block(center, 0.6 * half, tumble(rng), paint)


def car(site: Site) -> None:
    """A parked car or van."""
    rng = site.rng
    body, dark, glass = site.paint("metal"), site.paint("metal"), site.paint("window")
    long, wide, high = rng.uniform(1.8, 2.5), rng.uniform(0.8, 1.0), rng.uniform(0.5, 0.8)
    site.box((-long, -wide, 0.25), (long, wide, 0.3 + high), body)
    top, (front, back) = rng.uniform(0.4, 1.0), rng.uniform(0.3, 0.9, 2) * long
    site.box((-back, -0.9 * wide, 0.3 + high), (front, 0.9 * wide, 0.3 + high + top), body)
    for y in (-1, 1):
        center = ((front - back) / 2, y * (0.9 * wide + 0.01), 0.3 + high + top / 2)
        site.panel(center, (-y * 0.45 * (front + back), 0, 0), (0, 0, -0.4 * top), glass)
        for x in (-0.6, 0.6):
            site.pole((x * long, y * (wide - 0.15), 0.32), (x * long, y * (wide + 0.03), 0.32), 0.32, dark)


def post(site: Site) -> None:
    """A street lamp, a sign, a flag pole."""
    rng = site.rng
    high, metal = rng.uniform(2.2, 6.0), site.paint("metal")
    site.pole((0, 0, 0), (0, 0, high), rng.uniform(0.03, 0.09), metal, 0.3)
    kind = rng.integers(3)
    if kind == 0:
        site.pole((0, 0, high - 0.1), (0, rng.uniform(0.5, 1.5), high), 0.03, metal)
        site.ball((0, rng.uniform(0.4, 1.2), high), (0.15, 0.3, 0.1), site.paint("thing"))
    elif kind == 1:
        size = rng.uniform(0.25, 0.6)
        site.box((-size, 0.05, high - 2 * size), (size, 0.08, high), site.paint("print"))
    else:
        site.panel((0.6, 0, high - 0.4), (0.6, 0, 0), (0, 0.2, -0.4), site.paint("cloth"), solid=True)


def fence(site: Site, long: float) -> None:
    """A fence, railing or wall along x, of given half length."""
    rng = site.rng
    high = rng.uniform(0.7, 1.8)
    if rng.random() < 0.25:
        site.box((-long, -0.1, 0), (long, 0.1, high), site.paint("rough"))
        return
    paint: Paint = site.paint("metal" if rng.random() < 0.5 else "furniture", turned=True)
    mask = int(rng.choice([BARS, BARS, SLATS, GRID, MESH, LATTICE]))
    cell = rng.uniform(0.1, 0.35) * (1 if mask != SLATS else 6)
    repeats = (
        max(round(2 * long / cell), 1),
        1 if mask == BARS else max(round(high / (cell if mask != SLATS else 0.8)), 1),
    )
    site.panel((0, 0, high / 2 + 0.03), (long, 0, 0), (0, 0, -high / 2), paint, mask, repeats, solid=True)
    for x in np.arange(-long, long + 0.1, max(2.0, long / 4)):
        site.pole((x, 0, 0), (x, 0, high + 0.1), 0.04, paint)


def bench(site: Site) -> None:
    """A bench."""
    wood, metal = site.paint("furniture", turned=False), site.paint("metal")
    site.box((-0.8, -0.2, 0.4), (0.8, 0.2, 0.45), wood)
    for x in (-0.7, 0.65):
        site.box((x, -0.2, 0), (x + 0.05, 0.2, 0.4), metal)
    if site.rng.random() < 0.7:
        site.panel((0, -0.2, 0.7), (0.8, 0, 0), (0, 0, -0.22), wood, SLATS, (1, 1), solid=True)


SMALL = (bush, rocks, post, bench, tree, bush, tree)


def land(site: Site, size: float) -> None:
    """Level ground of half ``size`` metres."""
    site.panel((0, 0, 0), (size, 0, 0), (0, -size, 0), site.paint("ground", scale=1.5))


def street(site: Site) -> Stage:
    """Houses on both sides of a road with street furniture; beyond, the sky."""
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
                house(site, wide, deep, rng.choice([3.2, 6.2, 9.2]) + rng.uniform(0, 0.6))
            x += 2 * wide + rng.choice([0.0, 0.0, 1.5, 5.0])
        for x in np.arange(-18, 18, rng.uniform(3, 8)):
            with site.at((x, sign * (road + 0.5), 0.14), np.pi if sign > 0 else 0.0):
                (post, tree, post, bench)[int(rng.integers(4))](site)
        for x in np.arange(-15, 15, rng.uniform(5.5, 12)):
            if rng.random() < 0.6:
                with site.at((x, sign * (road - 1.0), 0), rng.choice([0.0, np.pi]) + rng.normal(0, 0.03)):
                    car(site)
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
        spot, piece = rng.normal(0, 6, 2), SMALL[int(rng.integers(len(SMALL)))]
        with site.at((*spot, 0), rng.uniform(0, 2 * np.pi)):
            piece(site)
    for _ in range(int(rng.integers(0, 4))):
        with site.at((*rng.normal(0, 7, 2), 0), rng.uniform(0, np.pi)):
            fence(site, rng.uniform(2, 8))
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        with site.at((16 * np.cos(angle), 16 * np.sin(angle), 0), angle + np.pi / 2):
            house(site, rng.uniform(3, 6), 3.0, rng.uniform(2.8, 6))
    lamps, ambient = daylight(rng)
    return Stage(np.array([[-8, -8, 0.7], [8, 8, 3.0]]), lamps, ambient, 3.0, (1.5, 12.0))


def monument(site: Site) -> Stage:
    """A building to walk around, other buildings far behind it, trees and posts in front."""
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
        piece = SMALL[int(rng.integers(len(SMALL)))]
        with site.at((far * np.cos(angle), far * np.sin(angle), 0), angle):
            piece(site)
    for angle in np.arange(0, 2 * np.pi, rng.uniform(0.5, 1.5)):
        far = rng.uniform(5, 8) * half.max()
        with site.at((far * np.cos(angle), far * np.sin(angle), 0), angle + np.pi / 2):
            house(site, rng.uniform(3, 8), 4.0, rng.uniform(3, 14))
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
                if kind == 0 or (kind == 3 and side % 2 == 0):  # columns in front of the wall
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
