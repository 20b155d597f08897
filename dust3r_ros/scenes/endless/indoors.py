"""Worlds under a roof: rooms, corridors, works, and their contents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dust3r_ros.scenes.endless.lighting import lamps_under
from dust3r_ros.scenes.endless.materials import BARS, GRID, HOLES, LATTICE, LEAVES, SLATS
from dust3r_ros.scenes.endless.site import Paint, Site, Stage, tumble
from dust3r_ros.types import Array


def things(site: Site, low: tuple[float, float], high: tuple[float, float], z: float, count: int, size: float) -> None:
    """``count`` small objects of about ``size`` metres on the rectangle low..high at height ``z``."""
    rng = site.rng
    for _ in range(count):
        x, y = rng.uniform(low, high)
        r, paint = size * np.exp(rng.normal(0, 0.45)), site.paint("thing", scale=2 * size)
        kind = rng.integers(7)
        with site.at((x, y, z), rng.uniform(0, 2 * np.pi)):
            if kind <= 1:
                half, tall = np.array([r, r * rng.uniform(0.3, 1.0)]) / 2, r * rng.uniform(0.3, 1.6)
                site.box([*-half, 0], [*half, tall], paint, site.paint("thing", scale=2 * size))
            elif kind == 2:
                site.pole((0, 0, 0), (0, 0, r * rng.uniform(0.6, 2.2)), r * rng.uniform(0.2, 0.5), paint)
            elif kind == 3:
                site.ball((0, 0, r / 2), r / 2 * np.array([1, 1, 1]), paint)
            elif kind == 4:
                cup = r * rng.uniform(0.3, 0.5)
                site.pole((0, 0, r * rng.uniform(0.5, 1.5)), (0, 0, 0), cup, paint, rng.uniform(0.1, 0.6))
            elif kind == 5:
                for level in range(int(rng.integers(1, 5))):
                    half = r * rng.uniform(0.35, 0.5, 2)
                    base = 0.15 * r * level
                    site.box([*-half, base], [*half, base + 0.15 * r], site.paint("thing", scale=2 * size))
            else:
                R = tumble(rng)
                half = r * rng.uniform(0.1, 0.4, 3)
                site.block((0, 0, np.abs(R[2]) @ half), half, R, paint)


def table(site: Site) -> None:
    """A table or desk with things on it."""
    rng = site.rng
    wide, deep, high, thick = rng.uniform(0.4, 1.0), rng.uniform(0.3, 0.55), rng.uniform(0.4, 0.8), 0.02
    wood, legs = site.paint("furniture"), site.paint("metal")
    site.box((-wide, -deep, high - 2 * thick), (wide, deep, high), wood)
    radius, splay = rng.uniform(0.015, 0.05), rng.uniform(0, 0.1)
    if rng.random() < 0.8:
        for x in (-1, 1):
            for y in (-1, 1):
                top = (x * (wide - 0.08), y * (deep - 0.08), high - 2 * thick)
                site.pole((top[0] + x * splay, top[1] + y * splay, 0), top, radius, legs)
    else:
        site.pole((0, 0, 0), (0, 0, high - 2 * thick), 0.06, legs)
        site.pole((0, 0, 0), (0, 0, 0.04), 0.3, legs)
    things(site, (-0.85 * wide, -0.8 * deep), (0.85 * wide, 0.8 * deep), high, int(rng.integers(0, 8)), 0.16)


def chair(site: Site) -> None:
    """Seat, back, four legs."""
    rng = site.rng
    half, seat, back = rng.uniform(0.2, 0.26), rng.uniform(0.4, 0.5), rng.uniform(0.75, 1.1)
    body, legs = site.paint("furniture"), site.paint("metal")
    cushion = site.paint("cloth") if rng.random() < 0.5 else body
    site.box((-half, -half, seat - 0.05), (half, half, seat), cushion)
    for x in (-1, 1):
        for y in (-1, 1):
            foot = np.array([x * (half - 0.03), y * (half - 0.03), 0])
            site.pole(foot, (foot[0], foot[1], back if y < 0 else seat - 0.05), 0.018, legs)
    if rng.random() < 0.6:
        site.box((-half, -half, seat + 0.15), (half, -half + 0.04, back), cushion)
    else:
        center = (0, -half + 0.02, (seat + back) / 2)
        site.panel(center, (half, 0, 0), (0, 0, (seat - back) / 2), body, SLATS, (1, 1), solid=True)


def shelf(site: Site) -> None:
    """Boards and uprights, with books and things on the boards."""
    rng = site.rng
    wide, deep, high = rng.uniform(0.3, 0.8), rng.uniform(0.12, 0.25), rng.uniform(0.8, 2.2)
    wood, levels = site.paint("furniture"), int(rng.integers(2, 6))
    for x in (-wide, wide - 0.03):
        site.box((x, -deep, 0), (x + 0.03, deep, high), wood)
    if rng.random() < 0.6:
        site.box((-wide, -deep, 0), (wide, -deep + 0.01, high), wood)
    for level in np.linspace(0.06, high - 0.02, levels):
        site.box((-wide, -deep, level - 0.03), (wide, deep, level), wood)
        room = (high - 0.06) / max(levels - 1, 1)
        if level > high - 0.1 or rng.random() < 0.2:
            continue
        if rng.random() < 0.5:
            tall, end = rng.uniform(0.5, 0.85) * room, rng.uniform(-0.2, 0.95) * wide
            site.box(
                (-wide + 0.04, -deep + 0.02, level),
                (max(end, -wide + 0.1), deep - 0.04, level + tall),
                site.paint("books"),
            )
        else:
            things(
                site, (-0.8 * wide, -0.5 * deep), (0.8 * wide, 0.5 * deep), level, int(rng.integers(1, 4)), 0.45 * room
            )


def cupboard(site: Site) -> None:
    """A closed cupboard or cabinet, perhaps with things on top."""
    rng = site.rng
    wide, deep, high = (
        rng.uniform(0.25, 0.7),
        rng.uniform(0.2, 0.35),
        rng.choice([rng.uniform(0.5, 1.1), rng.uniform(1.6, 2.1)]),
    )
    site.box((-wide, -deep, 0), (wide, deep, high), site.paint("furniture", turned=False), site.paint("furniture"))
    if high < 1.2:
        things(site, (-0.8 * wide, -0.7 * deep), (0.8 * wide, 0.7 * deep), high, int(rng.integers(0, 5)), 0.18)


def sofa(site: Site) -> None:
    """A sofa or armchair with cushions."""
    rng = site.rng
    wide, deep, cloth = rng.uniform(0.4, 1.0), rng.uniform(0.38, 0.5), site.paint("cloth")
    site.box((-wide, -deep, 0.08), (wide, deep, 0.42), cloth)
    site.box((-wide, -deep, 0.42), (wide, -deep + 0.2, rng.uniform(0.7, 0.95)), cloth)
    for x in (-wide, wide - 0.14):
        site.box((x, -deep + 0.2, 0.42), (x + 0.14, deep, 0.6), cloth)
    for _ in range(rng.integers(0, 4)):
        center = (rng.uniform(-0.7, 0.7) * wide, -deep + 0.3, 0.58)
        site.ball(center, (0.2, 0.09, 0.18), site.paint("cloth"), tumble(rng) if rng.random() < 0.3 else None)


def bed(site: Site) -> None:
    """Frame, mattress, blanket, pillows."""
    rng = site.rng
    wide, long, high = rng.uniform(0.45, 0.8), 1.0, rng.uniform(0.2, 0.4)
    wood, sheet = site.paint("furniture"), site.paint("cloth", scale=2)
    site.box((-wide, -long, 0), (wide, long, high), wood)
    site.box((-wide + 0.03, -long + 0.04, high), (wide - 0.03, long - 0.03, high + 0.16), site.paint("cloth", scale=2))
    site.box((-wide - 0.01, -0.3 * long, high + 0.02), (wide + 0.01, long - 0.02, high + 0.19), sheet)
    site.box((-wide, -long - 0.05, 0), (wide, -long, high + rng.uniform(0.3, 0.7)), wood)
    for x in (-0.5, 0.5):
        site.ball((x * wide, -0.75 * long, high + 0.2), (0.3 * wide + 0.08, 0.2, 0.09), site.paint("cloth"))


def lamp(site: Site) -> None:
    """A standing lamp."""
    high, metal = site.rng.uniform(1.2, 1.9), site.paint("metal")
    site.pole((0, 0, 0), (0, 0, 0.03), 0.16, metal)
    site.pole((0, 0, 0), (0, 0, high), 0.012, metal)
    site.pole((0, 0, high - 0.15), (0, 0, high + 0.15), 0.2, site.paint("cloth"), 0.4)


def plant(site: Site) -> None:
    """A pot with leaves: a crown of sheets with leafy outlines around a stem."""
    rng = site.rng
    pot, high = rng.uniform(0.1, 0.2), rng.uniform(0.5, 1.5)
    site.pole((0, 0, 1.4 * pot), (0, 0, 0), pot, site.paint("thing"), 0.3)
    site.pole((0, 0, pot), (0, 0, high), 0.015, site.paint("bark"))
    green, reach = site.paint("leaves", scale=0.5), rng.uniform(0.2, 0.4)
    for k in range(int(rng.integers(3, 6))):
        angle = k * np.pi / 3 + rng.uniform(0, 0.5)
        right = reach * np.array([np.cos(angle), np.sin(angle), 0])
        down = np.array([-0.4 * np.sin(angle), 0.4 * np.cos(angle), -1]) * reach
        site.panel((0, 0, high), right, down, green, LEAVES, (1, 1), solid=True)


def crates(site: Site) -> None:
    """A stack of boxes, the upper ones smaller and turned."""
    rng = site.rng
    half, z = rng.uniform(0.2, 0.4), 0.0
    for _ in range(int(rng.integers(1, 4))):
        tall = half * rng.uniform(0.6, 1.6)
        site.box(
            (-half, -0.8 * half, z),
            (half, 0.8 * half, z + tall),
            site.paint("thing"),
            site.paint("furniture"),
            rng.uniform(-0.5, 0.5),
        )
        z, half = z + tall, half * rng.uniform(0.5, 0.95)


def screen(site: Site) -> None:
    """A folding screen, grille or leaning ladder: something to see through."""
    rng = site.rng
    wide, high, paint = rng.uniform(0.3, 0.7), rng.uniform(0.8, 2.0), site.paint("furniture")
    mask = int(rng.choice([SLATS, GRID, LATTICE, HOLES]))
    repeats = (int(rng.integers(2, 8)), int(rng.integers(3, 12)))
    site.panel((0, 0, high / 2), (wide, 0, 0), (0, 0, -high / 2), paint, mask, repeats, solid=True)
    for x in (-wide, wide):
        site.pole((x, 0, 0), (x, 0, high), 0.02, paint)


def bin_(site: Site) -> None:
    """A bin, a bucket, a barrel or a pouf."""
    rng = site.rng
    radius, high = rng.uniform(0.12, 0.3), rng.uniform(0.25, 0.9)
    site.pole(
        (0, 0, high), (0, 0, 0), radius, site.paint("metal" if rng.random() < 0.5 else "cloth"), rng.uniform(0, 0.4)
    )


PIECES: dict[Callable[[Site], None], float] = {
    table: 1.0,
    chair: 0.35,
    shelf: 0.75,
    cupboard: 0.65,
    sofa: 0.9,
    bed: 1.1,
    lamp: 0.25,
    plant: 0.4,
    crates: 0.5,
    screen: 0.6,
    bin_: 0.3,
}  # with the radius each needs, metres


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
    """Furniture along the walls and on the free floor, without overlaps."""
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
    """A long passage with doors, pillars, pipes and things left standing."""
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
            _rack(site, (x, y), step, levels, steel, goods)
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


def _rack(
    site: Site, corner: tuple[float, float], wide: float, levels: int, steel: Paint, goods: Sequence[Paint]
) -> None:
    """``levels`` boards with a post at their left end, and something on most of them."""
    (x, y), rng = corner, site.rng
    for z in np.arange(levels) * 1.1 + 0.15:
        site.box((x, y - 0.4, z), (x + wide, y + 0.4, z + 0.06), steel, solid=bool(z < 1))
        if rng.random() < 0.6:
            left, length = x + rng.uniform(0.1, 0.3), rng.uniform(0.4, 0.7) * wide
            top = z + rng.uniform(0.3, 0.9)
            kind = goods[int(rng.integers(3))]
            site.box((left, y - 0.35, z + 0.06), (left + length, y + 0.35, top), kind, yaw=rng.normal(0, 0.05))
    site.box((x - 0.04, y - 0.4, 0), (x + 0.04, y + 0.4, 1.1 * levels), steel)
