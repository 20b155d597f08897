"""What stands about outdoors. Every piece is built around (0, 0) on the ground, front towards +y."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes.endless.site import Paint, Site, tumble
from dust3r_ros.scenes.endless.stencils import BARS, GRID, LATTICE, LEAVES, MESH, SLATS, TWIGS


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
