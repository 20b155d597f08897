"""A world of shapes with paint and light, and its exact images and depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.scenes.endless.casting import NOTHING, Seen, cast, cast_list, places
from dust3r_ros.scenes.endless.eye import Eye, Sight, sight
from dust3r_ros.scenes.endless.painting import Charts, paint
from dust3r_ros.scenes.endless.shapes import Shapes
from dust3r_ros.scenes.world import RenderedView
from dust3r_ros.types import Array32, Image

# Four rays of a pixel at the outline of something, on a turned grid.
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
        """What the centres of a camera's pixels see."""
        return cast(self.shapes, eye, self.masks)

    def render(self, eye: Eye) -> RenderedView:
        """Image and depth of a camera; the sky has no depth."""
        seen = self.cast(eye)
        return RenderedView(self.image(eye, seen), np.where(np.isfinite(seen.depth), seen.depth, np.float32(0)))

    def image(self, eye: Eye, seen: Seen) -> Image:
        """(H, W, 3) uint8 of what ``cast`` found: one ray per pixel, four where charts meet.

        A ray at an outline is tried against the shapes that the pixel and its neighbours see. Each ray sees its
        texture averaged over its footprint.
        """
        table = sight(self.shapes, eye.w_T_c)
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
        self, table: Sight, candidates: NDArray[np.int64], x: Array32, y: Array32
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

    def _places(self, eye: Eye, table: Sight, index: Any, depth: Array32, x: Array32, y: Array32) -> tuple[Any, ...]:
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
    """Rows, columns (n,) of pixels that see another chart than a neighbour, and the shapes they and these see (n, 5).

    A shape that comes twice among the five is named once, elsewhere is -1.
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
