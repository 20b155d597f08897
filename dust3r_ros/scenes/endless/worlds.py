"""World number n of an endless series, fixed by a seed and n alone; its exact images and depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.scenes.endless import outdoors
from dust3r_ros.scenes.endless.casting import NOTHING, Eye, Seen, ShapesInView, cast, cast_list, in_view, places
from dust3r_ros.scenes.endless.indoors import corridor, hang_on_walls, room, shell, things, works
from dust3r_ros.scenes.endless.lighting import Lamp, daylight, lamps_under, light_charts
from dust3r_ros.scenes.endless.materials import stencils
from dust3r_ros.scenes.endless.outdoors import land, monument, park, street
from dust3r_ros.scenes.endless.painting import Charts, lay_out, paint
from dust3r_ros.scenes.endless.shapes import Shapes, gather
from dust3r_ros.scenes.endless.site import Site, Stage, tumble
from dust3r_ros.scenes.endless.stock import material
from dust3r_ros.scenes.world import RenderedView
from dust3r_ros.types import Array32, Image

# Four rays of a pixel at an outline, on a rotated grid.
OFFSETS = np.array([[-0.125, -0.375], [0.375, -0.125], [-0.375, 0.125], [0.125, 0.375]])
FACING = 1e-3  # least |n . ray| for the footprint of a ray


@dataclass(frozen=True, eq=False)
class Scenery:
    """Shapes, their ``charts``, the last of which is the sky's, ``sheet`` (H, W, 3) of textures, ``light`` (h, w),
    ``masks`` (M, 128, 128)."""

    shapes: Shapes
    charts: Charts
    sheet: Image
    light: Array32
    masks: NDArray[np.uint8]

    def cast(self, eye: Eye) -> Seen:
        """Shape and depth at the centres of a camera's pixels."""
        return cast(self.shapes, eye, self.masks)

    def render(self, eye: Eye) -> RenderedView:
        """Image and depth of a camera; the sky has no depth."""
        seen = self.cast(eye)
        return RenderedView(self.image(eye, seen), np.where(np.isfinite(seen.depth), seen.depth, np.float32(0)))

    def image(self, eye: Eye, seen: Seen) -> Image:
        """(H, W, 3) uint8 of what ``cast`` found: one ray per pixel, four where charts meet.

        A ray at an outline is cast against the shapes seen by the pixel and its neighbours. Each ray averages its
        texture over its footprint.
        """
        table = in_view(self.shapes, eye.w_T_c)
        x, y = np.broadcast_arrays(eye.x(np.arange(eye.width)), eye.y(np.arange(eye.height))[:, None])
        coarse = self._places(eye, table, seen.shape.ravel().astype(np.int64), seen.depth.ravel(), x.ravel(), y.ravel())
        rows, columns, candidates = outlines(seen.shape, coarse[0].reshape(x.shape))
        fine_x = eye.x(columns[:, None] + OFFSETS[:, 0])
        fine_y = eye.y(rows[:, None] + OFFSETS[:, 1])
        shape, depth = self._nearest(table, candidates, fine_x, fine_y)
        fine = self._places(eye, table, shape.ravel(), depth.ravel(), fine_x.ravel(), fine_y.ravel())
        chart, s, t, footprint = (np.concatenate(parts) for parts in zip(coarse, fine, strict=True))
        colors = paint(self.charts, self.sheet, self.light, (chart, s, t), footprint)
        image = colors[: x.size].reshape(*x.shape, 3)
        image[rows, columns] = colors[x.size :].reshape(-1, len(OFFSETS), 3).mean(axis=1)
        return (np.minimum(image, 255) + 0.5).astype(np.uint8)

    def _nearest(
        self, table: ShapesInView, candidates: NDArray[np.int64], x: Array32, y: Array32
    ) -> tuple[NDArray[np.int64], Array32]:
        """Shape and depth (n, 4) of the rays (n, 4) of outline pixels with ``candidates`` (n, 5)."""
        pixel, place = np.nonzero(candidates != NOTHING)
        index = candidates[pixel, place]
        depth = np.full((*candidates.shape, x.shape[1]), np.inf, np.float32)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            depth[pixel, place] = cast_list(np, table, index, x[pixel], y[pixel], self.masks)
        best = depth.argmin(axis=1)
        depth = np.take_along_axis(depth, best[:, None], 1)[:, 0]
        return np.where(np.isfinite(depth), np.take_along_axis(candidates, best, 1), NOTHING), depth

    def _places(
        self, eye: Eye, table: ShapesInView, index: Any, depth: Array32, x: Array32, y: Array32
    ) -> tuple[Any, ...]:
        """Chart, s, t and footprint (P,) of what rays see at ``depth`` on the shapes ``index``."""
        hit = index != NOTHING
        chart = np.full(len(index), self.charts.tint.shape[1] - 1)
        s, t = np.zeros((2, len(index)), np.float32)
        footprint = np.zeros(len(index), np.float32)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            chart[hit], s[hit], t[hit], facing = places(np, table, index[hit], depth[hit], x[hit], y[hit])
        # A pixel's cone of solid angle 1 / (focal^2 |ray|^3) covers the area z^2 / (focal^2 |n . ray|).
        footprint[hit] = depth[hit] / (np.float32(eye.focal) * np.sqrt(np.maximum(facing, FACING)))
        sky = ~hit
        if sky.any():
            s[sky], t[sky] = sky_place(np, eye.w_T_c[:3, :3].astype(np.float32), x[sky], y[sky])
        return chart, s, t, footprint


def sky_place(xp: Any, rotation: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """(s, t) on the sky's chart: once around the horizon, and from the zenith down to straight below."""
    east, north, up = (rotation[k, 0] * x + rotation[k, 1] * y + rotation[k, 2] for k in range(3))
    around = xp.arctan2(north, east) * (0.5 / np.pi)
    height = xp.arctan2(up, xp.sqrt(east * east + north * north))
    return around, (0.5 - height / np.pi).clip(0.001, 0.999)


def outlines(
    shape: NDArray[np.int16], chart: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows, columns (n,) of pixels whose chart differs from a neighbour's, and the shapes seen by them and their
    neighbours (n, 5).

    A shape that repeats among the five is named once; the other places are -1.
    """
    down, right = chart[1:] != chart[:-1], chart[:, 1:] != chart[:, :-1]
    edge = np.zeros(chart.shape, bool)
    for part, differs in ((edge[1:], down), (edge[:-1], down), (edge[:, 1:], right), (edge[:, :-1], right)):
        part |= differs
    rows, columns = np.nonzero(edge)
    padded = np.pad(shape, 1, mode="edge")
    places = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    found = np.sort([padded[rows + i, columns + j] for i, j in places], axis=0).T.astype(np.int64)
    found[:, 1:][found[:, 1:] == found[:, :-1]] = NOTHING
    return rows, columns, found


def still_life(site: Site) -> Stage:
    """Things close together on a table, on the ground, or against nothing; cameras all around them."""
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
    if kind < 0.8:  # a studio: a backdrop of one colour, as in turntable pictures
        low, high = np.array([-far, -far, 0.0]), np.array([far, far, 2 * far])
        return *lamps_under(rng, low, high), rng.uniform(0.2, 0.8), float(rng.choice([0.0, 0.05, 0.5, 1.0]))
    land(site, 100)
    for _ in range(10):
        away = 3 * spread * np.sign(rng.normal(0, 1, 2)) + rng.uniform(-1, 1, 2)
        with site.at((*away, 0), rng.uniform(0, 6)):
            outdoors.SMALL[int(rng.integers(len(outdoors.SMALL)))](site)
    return *daylight(rng), 0.0, 1.0


def jumble(site: Site) -> Stage:
    """Blocks, balls, bars and sheets of all sizes at any angle in a large hall."""
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


LAYOUTS: dict[Callable[[Site], Stage], float] = {
    room: 0.26,
    corridor: 0.08,
    street: 0.14,
    park: 0.1,
    monument: 0.1,
    still_life: 0.15,
    jumble: 0.12,
    works: 0.06,
}  # with the share of worlds of each


_WORLD = 1  # purposes of random numbers


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A world without its textures, small enough to send between processes.

    ``charts``: their slots are at (0, 0). ``materials``: use and number of each one needed (see ``stock``);
    ``of_chart`` (C,): index of each chart's material.
    """

    layout: str
    shapes: Shapes
    charts: Charts
    materials: Sequence[tuple[str, int]]
    of_chart: NDArray[np.int64]
    light: Array32
    stage: Stage

    def charts_at(self, corners: Array32) -> Charts:
        """The charts with the slot of material k at ``corners[k]`` (x, y) of a sheet."""
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
    site = Site(rng, number)
    stage = make(site)
    table = gather(site.shapes)
    lit = light_charts(site.shapes, table, stage.lamps, stage.ambient, rng, stage.density)
    sky = site.paint("sky", turned=False)
    charts, materials, of_chart = site.charts(lit.places, replace(sky, tint=stage.sky * sky.tint))
    return Blueprint(make.__name__, table, charts, materials, of_chart, lit.sheet, stage)
