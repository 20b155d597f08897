"""Worlds under a roof: rooms, corridors, works."""

from __future__ import annotations

import numpy as np

from dust3r_ros.scenes.endless.furniture import PIECES, crates
from dust3r_ros.scenes.endless.lamps import lamps_under
from dust3r_ros.scenes.endless.site import Site
from dust3r_ros.scenes.endless.stage import Stage
from dust3r_ros.scenes.endless.stencils import BARS, GRID
from dust3r_ros.types import Array


def hang_on_walls(site: Site, half: Array, height: float, count: int) -> None:
    """Pictures, windows, doors, shelves on the four walls of a hall of half sizes (2,)."""
    rng = site.rng
    for _ in range(count):
        wall = int(rng.integers(4))  # quarter turns from the wall at -y
        away, along = half[1 - wall % 2], half[wall % 2]
        kind = rng.choice(["print", "print", "window", "door", "box"])
        wide, high = rng.uniform(0.15, 0.7), rng.uniform(0.2, 0.6)
        z = rng.uniform(1.1, max(height - high - 0.2, 1.2))
        if kind == "door":
            wide, high, z = 0.45, 1.02, 1.02
        x = rng.uniform(-1, 1) * max(along - wide - 0.05, 0)
        with site.at((0, 0, 0), wall * np.pi / 2):
            if kind == "box":
                deep = rng.uniform(0.03, 0.25)
                site.box((x - wide, -away, z - high / 2), (x + wide, -away + deep, z), site.paint("furniture"))
            elif kind == "door" or (kind == "window" and min(wide, high) > 0.45):
                site.panel((x, -away + 0.01, z), (-wide, 0, 0), (0, 0, -high), site.paint(kind))
            else:
                site.box((x - wide, -away, z - high), (x + wide, -away + 0.03, z + high), site.paint(kind))


def furnish(site: Site, half: Array, count: int, middle: bool = True) -> None:
    """Pieces along the walls and on the free floor, none through another."""
    rng = site.rng
    taken: list[tuple[Array, float]] = []
    makers = list(PIECES)
    for _ in range(count):
        make = makers[int(rng.integers(len(makers)))]
        radius = PIECES[make]
        for _ in range(8):
            spot = rng.uniform(-1, 1, 2) * np.maximum(half - 0.8 * radius, 0.05)
            yaw = rng.uniform(0, 2 * np.pi)
            if not middle or rng.random() < 0.6:  # back to a wall
                side = int(rng.integers(4))
                axis, sign = side % 2, (1 if side < 2 else -1)
                spot[axis] = sign * max(half[axis] - 0.55 * radius, 0.05)
                yaw = [(np.pi / 2), np.pi, -np.pi / 2, 0.0][side] + rng.normal(0, 0.03)
            if all(np.hypot(*(spot - other)) > 0.8 * (radius + wide) for other, wide in taken):
                taken.append((spot, radius))
                with site.at((*spot, 0), yaw):
                    make(site)
                break


def shell(site: Site, half: Array, height: float) -> tuple[Array, Array]:
    """Floor, walls, ceiling, perhaps skirting; its low and high corner."""
    rng = site.rng
    low, high = np.array([*-half, 0.0]), np.array([*half, height])
    wall, other = site.paint("wall", turned=False), site.paint("wall", turned=False)
    walls = [wall, wall, other, other] if rng.random() < 0.3 else [wall, wall, wall, other]
    site.hall(low, high, walls, site.paint("ceiling"), site.paint("floor"))
    if rng.random() < 0.6:
        trim = site.paint("furniture", turned=False)
        for k, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
            a, b = low.copy(), high.copy()
            a[k], b[k] = sorted((sign * half[k], sign * (half[k] - 0.02)))
            b[2] = rng.uniform(0.06, 0.15)
            site.box(a, b, trim, solid=False)
    return low, high


def room(site: Site) -> Stage:
    """A furnished room."""
    rng = site.rng
    half, height = rng.uniform(1.4, 4.2, 2), rng.uniform(2.2, 3.4)
    low, high = shell(site, half, height)
    furnish(site, half, int(rng.integers(3, 5 + 2 * half.sum())))
    hang_on_walls(site, half, height, int(rng.integers(2, 12)))
    if rng.random() < 0.5:
        x, y = rng.uniform(-0.4, 0.4, 2) * half
        wide, deep = rng.uniform(0.2, 0.5, 2) * half
        site.box((x - wide, y - deep, 0), (x + wide, y + deep, 0.012), site.paint("cloth", scale=2), solid=False)
    if rng.random() < 0.4:
        at = rng.uniform(-0.4, 0.4, 2) * half
        site.pole((*at, height - 0.7), (*at, height), 0.008, site.paint("metal"))
        site.pole((*at, height - 0.9), (*at, height - 0.65), 0.2, site.paint("thing"), 0.5)
    if rng.random() < 0.3:
        for x in np.linspace(-half[0], half[0], int(rng.integers(3, 7)))[1:-1]:
            site.box((x - 0.07, -half[1], height - 0.2), (x + 0.07, half[1], height), site.paint("furniture"))
    lamps, ambient = lamps_under(rng, low, high)
    return Stage(
        np.array([low + np.array([0.3, 0.3, 0.5]), high - np.array([0.3, 0.3, 0.4])]), lamps, ambient, 9.0, (0.7, 6.0)
    )


def corridor(site: Site) -> Stage:
    """A long passage with doors, pillars, pipes and what was left standing."""
    rng = site.rng
    half, height = np.array([rng.uniform(5, 12), rng.uniform(0.8, 1.7)]), rng.uniform(2.2, 3.2)
    low, high = shell(site, half, height)
    door, step = site.paint("door"), rng.uniform(1.6, 4.0)
    for x in np.arange(-half[0] + 1, half[0] - 0.6, step):
        for sign in (1, -1):
            if rng.random() < 0.7:
                site.box((x - 0.45, sign * half[1] - 0.02, 0), (x + 0.45, sign * half[1] + 0.02, 2.05), door)
        if rng.random() < 0.8:
            site.box((x - 0.4, -0.15, height - 0.06), (x + 0.4, 0.15, height), site.paint("window"), solid=False)
    if rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 5))):
            y, z, pipe = rng.uniform(-0.9, 0.9) * half[1], height - rng.uniform(0.1, 0.4), site.paint("metal")
            site.pole((-half[0], y, z), (half[0], y, z), rng.uniform(0.02, 0.09), pipe)
    if rng.random() < 0.5:
        for x in np.arange(-half[0] + 2, half[0] - 1, rng.uniform(2.5, 4)):
            for sign in (1, -1):
                site.box(
                    (x - 0.12, sign * half[1] - 0.12, 0), (x + 0.12, sign * half[1] + 0.12, height), site.paint("wall")
                )
    furnish(site, half, int(rng.integers(3, 10)), middle=False)
    hang_on_walls(site, half, height, int(rng.integers(4, 14)))
    lamps, ambient = lamps_under(rng, low, high)
    return Stage(
        np.array([low + np.array([0.5, 0.25, 0.8]), high - np.array([0.5, 0.25, 0.5])]),
        lamps,
        ambient + 0.2,
        7.0,
        (1.0, 9.0),
    )


def works(site: Site) -> Stage:
    """A factory or store: rows of equal racks, columns, barrels, pipes, railings."""
    rng = site.rng
    half, height = rng.uniform(5, 9, 2), rng.uniform(3.5, 7)
    low, high = shell(site, half, height)
    steel, goods = site.paint("metal"), [site.paint("thing", scale=2) for _ in range(3)]
    rows, levels, step = rng.uniform(2.2, 3.5), int(rng.integers(2, 5)), rng.uniform(1.2, 2.4)
    for y in np.arange(-half[1] + 1, half[1] - 0.8, rows)[:4]:
        for x in np.arange(-half[0] + 1, half[0] - step, step)[:6]:
            for z in np.arange(levels) * 1.1 + 0.15:
                site.box((x, y - 0.4, z), (x + step, y + 0.4, z + 0.06), steel, solid=bool(z < 1))
                if rng.random() < 0.6:
                    a, wide = x + rng.uniform(0.1, 0.3), rng.uniform(0.4, 0.7) * step
                    top = z + rng.uniform(0.3, 0.9)
                    site.box(
                        (a, y - 0.35, z + 0.06),
                        (a + wide, y + 0.35, top),
                        goods[int(rng.integers(3))],
                        yaw=rng.normal(0, 0.05),
                    )
            site.box((x - 0.04, y - 0.4, 0), (x + 0.04, y + 0.4, 1.1 * levels), steel)
        if rng.random() < 0.3:
            site.panel(
                (0, y + 0.7, 0.55),
                (half[0] * 0.6, 0, 0),
                (0, 0, -0.5),
                steel,
                int(rng.choice([BARS, GRID])),
                (24, 1),
                solid=True,
            )
    for _ in range(int(rng.integers(2, 7))):
        with site.at((*rng.uniform(-0.9, 0.9, 2) * half, 0), rng.uniform(0, 6)):
            if rng.random() < 0.5:
                site.pole((0, 0, 0), (0, 0, 0.9), 0.3, site.paint("metal"))
            else:
                crates(site)
    for _ in range(int(rng.integers(1, 6))):
        z, y, pipe = height - rng.uniform(0.2, 1.5), rng.uniform(-0.9, 0.9) * half[1], site.paint("metal")
        site.pole((-half[0], y, z), (half[0], y, z), rng.uniform(0.04, 0.2), pipe)
    hang_on_walls(site, half, height, 6)
    lamps, ambient = lamps_under(rng, low, high)
    return Stage(
        np.array([low + np.array([0.5, 0.5, 0.8]), [*(high[:2] - 0.5), 0.8 * height]]),
        lamps,
        ambient + 0.1,
        5.0,
        (1.2, 9.0),
    )
