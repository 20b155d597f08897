"""A world under construction: shapes placed one by one with their paint, and where cameras may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dust3r_ros.scenes.endless.lighting import Lamp
from dust3r_ros.scenes.endless.painting import SIDE, Charts
from dust3r_ros.scenes.endless.shapes import (
    BOX,
    CHARTS,
    ELLIPSOID,
    FRUSTUM,
    HALL,
    PANEL,
    Shape,
    chart_extents,
)
from dust3r_ros.scenes.endless.stock import USES, number_of
from dust3r_ros.types import Array, Array32


@dataclass(frozen=True, eq=False)
class Stage:
    """``room`` (2, 3): low and high corner of the space for cameras; lamps and ambient light.

    ``density``: samples of light per metre. ``reach``: least and most metres from a camera to its target.
    ``focus``: points (N, 3) worth looking at; none: the middles of the shapes.
    ``sky`` scales the brightness of the background; 0 is black.
    """

    room: Array
    lamps: Sequence[Lamp]
    ambient: float
    density: float
    reach: tuple[float, float]
    focus: Array | None = None
    sky: float = 1.0


_FITTED = ("print", "door", "window")  # uses that cover a chart once, whatever its size


@dataclass(frozen=True, eq=False)
class Paint:
    """Material ``number`` of ``use``; one repetition covers ``metres`` (0: the whole chart), times ``tint`` (3,).

    ``turned`` exchanges the chart's width and height.
    """

    use: str
    number: int
    metres: float
    tint: Array
    turned: bool = False


def turn(yaw: float) -> Array:
    """(3, 3) rotation about the vertical axis, radians."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def tumble(rng: np.random.Generator) -> Array:
    """(3, 3) random rotation."""
    Q, R = np.linalg.qr(rng.standard_normal((3, 3)))
    Q = Q * np.sign(np.diag(R))
    return np.asarray(Q * np.array([1, 1, np.linalg.det(Q)]))


@dataclass
class Site:
    """World number ``world`` under construction; additions are in the frame of the innermost ``at``."""

    rng: np.random.Generator
    world: int
    shapes: list[Shape] = field(default_factory=list)
    paints: list[Paint] = field(default_factory=list)  # one per chart
    _R: Array = field(default_factory=lambda: np.eye(3))
    _t: Array = field(default_factory=lambda: np.zeros(3))

    @contextmanager
    def at(self, position: ArrayLike, yaw: float = 0.0) -> Iterator[None]:
        """Additions inside are placed at ``position`` (3,), turned by ``yaw`` radians."""
        before = self._R, self._t
        self._R, self._t = before[0] @ turn(yaw), before[0] @ np.asarray(position, np.float64) + before[1]
        yield
        self._R, self._t = before

    def paint(self, use: str, turned: bool | None = None, scale: float = 1.0) -> Paint:
        """A material for a use, drawn from those available to this world, with a random tint."""
        rng = self.rng
        low, high = USES[use].metres
        metres = 0.0 if use in _FITTED else scale * float(np.exp(rng.uniform(np.log(low), np.log(high))))
        tint = np.exp(rng.normal(0, 0.18) + rng.normal(0, 0.07, 3))
        sideways = bool(rng.random() < 0.5) if turned is None else turned
        return Paint(use, number_of(use, self.world, rng), metres, tint, sideways and use not in _FITTED)

    def add(self, shape: Shape, *paints: Paint) -> None:
        """Add a shape in the frame of the innermost ``at``; one paint for all its charts, or one each."""
        count = int(CHARTS[shape.kind])
        moved = Shape(
            shape.kind,
            self._R @ shape.center + self._t,
            self._R @ shape.axes,
            shape.taper,
            shape.mask,
            shape.repeats,
            shape.solid,
        )
        self.shapes.append(moved)
        self.paints.extend(paints if len(paints) == count else paints[:1] * count)

    def box(
        self,
        low: ArrayLike,
        high: ArrayLike,
        side: Paint,
        top: Paint | None = None,
        yaw: float = 0.0,
        solid: bool = True,
    ) -> None:
        """A box between two corners (3,), turned about its middle; the top may have its own paint."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        paints = [side] * 4 + [top or side, side]
        self.add(
            Shape(BOX, (low + high) / 2, turn(yaw) @ np.diag(np.maximum((high - low) / 2, 1e-3)), solid=solid), *paints
        )

    def block(self, center: ArrayLike, half: ArrayLike, R: Array, paint: Paint) -> None:
        """A box of half sizes (3,), rotated."""
        self.add(Shape(BOX, np.asarray(center, np.float64), R @ np.diag(np.asarray(half, np.float64))), paint)

    def hall(self, low: ArrayLike, high: ArrayLike, walls: Sequence[Paint], ceiling: Paint, floor: Paint) -> None:
        """The inside of a box; four walls (+x -x +y -y)."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        self.add(Shape(HALL, (low + high) / 2, np.diag((high - low) / 2)), *walls, ceiling, floor)

    def pole(self, start: ArrayLike, end: ArrayLike, radius: float, paint: Paint, taper: float = 0.0) -> None:
        """A round bar between two points (3,), thinner at its end."""
        start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
        along = (end - start) / 2
        z = along / np.linalg.norm(along)
        x = np.cross(z, [0.0, 1, 0] if abs(z[1]) < 0.9 else [1.0, 0, 0])
        x /= np.linalg.norm(x)
        axes = np.stack([radius * x, radius * np.cross(z, x), along], axis=1)
        self.add(Shape(FRUSTUM, (start + end) / 2, axes, taper=taper), paint)

    def ball(self, center: ArrayLike, radii: ArrayLike, paint: Paint, R: Array | None = None) -> None:
        """An ellipsoid."""
        axes = np.diag(np.broadcast_to(np.asarray(radii, np.float64), 3))
        self.add(Shape(ELLIPSOID, np.asarray(center, np.float64), axes if R is None else R @ axes), paint)

    def panel(
        self,
        center: ArrayLike,
        right: ArrayLike,
        down: ArrayLike,
        paint: Paint,
        mask: int = -1,
        repeats: tuple[float, float] = (1.0, 1.0),
        solid: bool = False,
    ) -> None:
        """A sheet: half axes ``right`` and ``down`` (3,); a ``mask`` cuts holes."""
        right, down = np.asarray(right, np.float64), np.asarray(down, np.float64)
        normal = np.cross(down, right)
        axes = np.stack([right, down, normal / np.linalg.norm(normal)], axis=1)
        self.add(Shape(PANEL, np.asarray(center, np.float64), axes, 0.0, mask, repeats, solid), paint)

    def charts(self, light: Array32, sky: Paint) -> tuple[Charts, list[tuple[str, int]], NDArray[np.int64]]:
        """All charts, the sky's last, with slots at (0, 0); the materials they need, by use and number, and the index
        of each chart's (C,). ``light`` (4, C): their places on the light's sheet.
        """
        extents = [extent for shape in self.shapes for extent in chart_extents(shape)] + [(1.0, 1.0)]
        paints = [*self.paints, sky]
        names = sorted({(paint.use, paint.number) for paint in paints})
        places_of = {name: place for place, name in enumerate(names)}
        around = [*_of_bars(self.shapes), False]
        rows = [_laid(*chart, self.rng) for chart in zip(paints, extents, around, strict=True)]
        places = [(0.0, 0.0, _per_metre(paint, extent)) for paint, extent in zip(paints, extents, strict=True)]
        tints = [paint.tint for paint in paints]
        numbers = [np.array(np.transpose(part), np.float32, order="C") for part in (rows, places, tints)]
        of_chart = np.array([places_of[paint.use, paint.number] for paint in paints])
        return Charts(numbers[0], numbers[1], numbers[2], light), names, of_chart


def _of_bars(shapes: Sequence[Shape]) -> list[bool]:
    """Whether each chart of the shapes belongs to a round bar."""
    counts = CHARTS[[shape.kind for shape in shapes]]
    return [bool(one) for one in np.repeat([shape.kind == FRUSTUM for shape in shapes], counts)]


def _laid(paint: Paint, extent: tuple[float, float], around: bool, rng: np.random.Generator) -> tuple[float, ...]:
    """How a material lies on a chart of ``extent`` (width, height), as ``Charts.paint``; ``around`` a round bar."""
    (wide, high), metres = extent, paint.metres
    across, down = (wide / metres, high / metres) if metres > 0 else (1.0, 1.0)
    if around:
        across = max(round(across), 1)  # once around without a seam
    shift = rng.uniform(0, 1, 2) if metres > 0 else np.zeros(2)
    if paint.turned:
        return (0, down, shift[0], across, 0, shift[1])
    return (across, 0, shift[0], 0, down, shift[1])


def _per_metre(paint: Paint, extent: tuple[float, float]) -> float:
    """Texels per metre of a chart."""
    return SIDE / paint.metres if paint.metres > 0 else SIDE / np.sqrt(extent[0] * extent[1])
