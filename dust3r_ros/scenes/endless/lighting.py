"""Light on the charts of a world: lamps with shadows, computed once on a coarse grid of every chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.scenes.endless.casting import depth_of
from dust3r_ros.scenes.endless.shapes import HALL, PANEL, Shape, Shapes, chart_extents, chart_points
from dust3r_ros.types import Array, Array32


def lamps_under(rng: np.random.Generator, low: Array, high: Array) -> tuple[list[Lamp], float]:
    """One to three lamps under a ceiling, each of two points (soft shadows), and weak light from its corners."""
    lamps, count = [], int(rng.integers(1, 4))
    height = high[2] - low[2]
    for _ in range(count):
        at = np.array(
            [*rng.uniform(0.8 * low[:2] + 0.2 * high[:2], 0.2 * low[:2] + 0.8 * high[:2]), high[2] - 0.08 * height]
        )
        soft = rng.uniform(0.05, 0.35)
        for _ in range(2):
            lamps.append(Lamp(at + rng.normal(0, soft, 3) * [1, 1, 0.1], rng.uniform(0.5, 1.1) / count, 1.5 * height))
    for _ in range(3):
        lamps.append(Lamp(np.array([*rng.uniform(low[:2], high[:2]), high[2] - 0.05]), 0.14))
    return lamps, float(rng.uniform(0.2, 0.45))


def daylight(rng: np.random.Generator) -> tuple[list[Lamp], float]:
    """The sun, unless clouded over, and the sky."""
    far = 300.0
    lamps = []
    for _ in range(3):
        angle = rng.uniform(0, 2 * np.pi)
        lamps.append(Lamp(far * np.array([0.7 * np.cos(angle), 0.7 * np.sin(angle), 0.7]), 0.16))
    if rng.random() < 0.7:
        angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.3)
        way = np.array([np.cos(angle) * np.cos(height), np.sin(angle) * np.cos(height), np.sin(height)])
        return [*lamps, Lamp(far * way, rng.uniform(0.4, 0.8))], float(rng.uniform(0.2, 0.45))
    return lamps, float(rng.uniform(0.4, 0.6))


_LEAST, _MOST = 3, 112  # samples along a side of a chart
_SHEET_WIDTH = 1024
_CLEAR = 0.01  # metres; anything this close to the lit point is part of it


@dataclass(frozen=True, eq=False)
class Lamp:
    """A point light, possibly far away: ``strength`` at its nearest, falling to half at ``reach`` metres."""

    position: Array
    strength: float
    reach: float = np.inf


@dataclass(frozen=True, eq=False)
class LitCharts:
    """``sheet`` (h, w) of light, ``places`` (4, C): x, y of each chart's first sample, samples across, down, less 1."""

    sheet: Array32
    places: Array32


@dataclass(frozen=True, eq=False)
class _Samples:
    """All points to light: (P, 3) points and normals, the chart of each, whether it is lit from both sides (panels),
    and each chart's shape, middle and radius."""

    points: Array32
    normals: Array32
    chart: NDArray[np.int64]
    double: NDArray[np.bool_]
    owner: NDArray[np.int64]
    middle: Array
    radius: Array
    sizes: list[tuple[int, int]]


def light_charts(
    shapes: Sequence[Shape],
    table: Shapes,
    lamps: Sequence[Lamp],
    ambient: float,
    rng: np.random.Generator,
    per_metre: float,
    stains: float = 0.05,
) -> LitCharts:
    """Light on every chart of the shapes and, last, one bright chart for the sky.

    ``per_metre`` samples where a chart is small enough; ``stains`` is the strength of large, soft spots that make
    repetitions of a texture differ.
    """
    samples = _sample(shapes, per_metre)
    light = np.full(len(samples.points), ambient, np.float32)
    for lamp in lamps:
        light += _from(lamp, table, samples)
    # As with a camera's exposure: lit places are bright.
    light *= np.exp(stains * rng.standard_normal(len(light))) / np.quantile(light, 0.75)
    return _pack(light.astype(np.float32), samples.sizes)


def _sample(shapes: Sequence[Shape], per_metre: float) -> _Samples:
    points, normals, sizes, owner = [], [], [], []
    for number, shape in enumerate(shapes):
        for face, (wide, high) in enumerate(chart_extents(shape)):
            across, down = (int(np.clip(side * per_metre, _LEAST, _MOST)) for side in (wide, high))
            found = chart_points(shape, face, *_grid(across, down))
            points.append(found[0])
            normals.append(found[1])
            sizes.append((down, across))
            owner.append(number)
    counts = [len(part) for part in points]
    middle = np.array([part.mean(axis=0) for part in points])
    radius = np.array([np.linalg.norm(p - m, axis=1).max() for p, m in zip(points, middle, strict=True)])
    chart = np.repeat(np.arange(len(counts)), counts)
    double = np.array([shapes[number].kind == PANEL for number in owner])[chart]
    return _Samples(
        np.concatenate(points).astype(np.float32),
        np.concatenate(normals).astype(np.float32),
        chart,
        double,
        np.array(owner),
        middle,
        radius,
        sizes,
    )


@lru_cache(maxsize=512)
def _grid(across: int, down: int) -> tuple[Array, Array]:
    """(s, t) of a chart's samples, row by row."""
    t, s = np.meshgrid(np.linspace(0, 1, down), np.linspace(0, 1, across), indexing="ij")
    return s.ravel(), t.ravel()


def _from(lamp: Lamp, shapes: Shapes, samples: _Samples) -> Array32:
    way = lamp.position.astype(np.float32) - samples.points
    distance = np.sqrt(np.maximum(np.einsum("pk,pk->p", way, way), np.float32(1e-6)))
    cosine = np.einsum("pk,pk->p", way, samples.normals) / distance
    light = np.maximum(np.where(samples.double, np.abs(cosine), cosine), 0) / (1 + (distance / lamp.reach) ** 2)
    facing = np.flatnonzero(light > 0)
    # In metres along the ray, as ``NEAR`` is.
    rays = np.ascontiguousarray(-way[facing].T) / distance[facing]
    chart, far, bright = samples.chart[facing], distance[facing] - _CLEAR, np.ones(len(facing), bool)
    shaded = _in_cone(lamp.position, shapes, samples)  # (shapes, charts)
    cones = _Cones(shapes.center - lamp.position, shapes.radius)
    for blocker in np.flatnonzero(shaded.any(axis=1)):
        chosen = np.flatnonzero(cones.hold(int(blocker), rays) & bright)
        chosen = chosen[shaded[blocker][chart[chosen]]]
        if len(chosen):
            bright[chosen] = _depth(shapes, int(blocker), lamp.position, rays[:, chosen]) >= far[chosen]
    lit = np.zeros_like(light)
    lit[facing[bright]] = np.float32(lamp.strength) * light[facing[bright]]
    return lit


class _Cones:
    """Rays from one point that may meet balls of some radius around ``middles`` (N, 3) as seen from there."""

    def __init__(self, middles: Array, radius: Array) -> None:
        far = np.maximum(np.linalg.norm(middles, axis=1), 1e-9)
        self._toward = middles / far[:, None]
        # Two perpendicular directions measure small angles, whose float32 cosine is 1.
        self._across = np.linalg.svd(self._toward[:, None])[2][:, 1:].astype(np.float32)
        self._wide = np.where(far > radius, 1.001 * radius / far + 1e-5, np.inf)  # margin for rounding

    def hold(self, number: int, rays: Array32) -> NDArray[np.bool_]:
        """(P,) which of the ``rays`` (3, P), of length 1, are in a cone, or very nearly."""
        if np.isinf(self._wide[number]):
            return np.ones(rays.shape[1], bool)
        aside = self._across[number] @ rays
        aside *= aside
        found = aside[0] + aside[1] < self._wide[number] ** 2
        return np.asarray(found & (self._toward[number].astype(np.float32) @ rays > 0))


def _in_cone(position: Array, shapes: Shapes, samples: _Samples) -> NDArray[np.bool_]:
    """Whether each shape may stand between the lamp and each chart, by the balls around them."""
    to_shape, to_chart = shapes.center - position, samples.middle - position
    far_shape, far_chart = np.linalg.norm(to_shape, axis=1), np.linalg.norm(to_chart, axis=1)
    cosine = (to_shape @ to_chart.T) / np.maximum(np.outer(far_shape, far_chart), 1e-9)
    wide = np.arcsin(np.clip(shapes.radius / np.maximum(far_shape, 1e-9), 0, 1))[:, None] + np.arcsin(
        np.clip(samples.radius / np.maximum(far_chart, 1e-9), 0, 1)
    )
    inside = (far_shape < shapes.radius)[:, None] | (far_chart < samples.radius)
    meet = inside | (np.arccos(np.clip(cosine, -1, 1)) < wide)
    before = (far_chart + samples.radius) > (far_shape - shapes.radius)[:, None]
    usable = shapes.solid & (shapes.kind != HALL)
    own = samples.owner == np.arange(len(shapes))[:, None]
    return meet & before & usable[:, None] & ~own


def _depth(shapes: Shapes, number: int, lamp: Array, rays: Array32) -> Array32:
    """Metres from the lamp to where ``rays`` (3, P), of length 1, meet a shape; infinite where they do not."""
    local = shapes.local[number]
    o = (local @ (lamp - shapes.center[number])).astype(np.float32)[:, None]
    d = local.astype(np.float32) @ rays
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray(depth_of(np, int(shapes.kind[number]), o, d, float(shapes.taper[number])))


def _pack(light: Array32, sizes: list[tuple[int, int]]) -> LitCharts:
    """Packs charts of light side by side on shelves, the tallest first; the last is the sky's."""
    starts = np.cumsum([0, *(high * wide for high, wide in sizes)])
    order = sorted(range(len(sizes)), key=lambda chart: -sizes[chart][0])
    places = np.zeros((len(sizes) + 1, 4), np.float32)
    x = y = shelf = 0
    for chart in order:
        high, wide = sizes[chart]
        if x + wide > _SHEET_WIDTH:
            x, y, shelf = 0, y + shelf, 0
        places[chart] = x, y, wide - 1, high - 1
        x, shelf = x + wide, max(shelf, high)
    bottom = y + shelf
    sheet = np.ones((bottom + 1, _SHEET_WIDTH), np.float32)
    for chart, (high, wide) in enumerate(sizes):
        left, top = int(places[chart, 0]), int(places[chart, 1])
        sheet[top : top + high, left : left + wide] = light[starts[chart] : starts[chart + 1]].reshape(high, wide)
    places[-1] = 0, bottom, 0, 0
    return LitCharts(sheet, np.ascontiguousarray(places.T))
