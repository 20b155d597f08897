"""Rendering of worlds by PyTorch: many cameras of one or more worlds at once, on a GPU or a CPU.

The same shapes, sheets and formulas as ``scenes.endless`` (its kernels run on tensors), so images and depths equal
those of ``Scenery.render`` up to rounding. Images are cut into tiles, and every shape is cast only at the tiles that
its window covers; the nearest per pixel is found by one reduction over keys of depth and shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dust3r_ros.errors import InputError
from dust3r_ros.scenes.endless.casting import NEAR, NOTHING, Eye, ShapesInView, cast_list, places
from dust3r_ros.scenes.endless.painting import LEVEL_TABLE, Charts, texels
from dust3r_ros.scenes.endless.shapes import HALL, Shapes
from dust3r_ros.scenes.endless.worlds import FACING, OFFSETS, Scenery, sky_place
from dust3r_ros.types import Array32

TILE = 16  # pixels along a side
CHUNK = 1 << 15  # tiles of shapes that are cast at once
_SHIFT = 32  # bits of the shape's number in a key; depths above 0 are ordered as the bits of their floats are
_INFINITE = 0x7F800000  # those of infinity

Stopwatch = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Cameras:
    """B pinhole cameras of one image size: ``K`` (B, 3, 3), ``w_T_c`` (B, 4, 4) float64 tensors on one device;
    ``world`` (B,) int64: the index of the scenery that each is in."""

    K: Tensor
    w_T_c: Tensor
    width: int
    height: int
    world: Tensor

    def __len__(self) -> int:
        return self.K.shape[0]

    def part(self, first: int, last: int) -> Cameras:
        """Cameras ``first`` to ``last``, which is excluded."""
        part = slice(first, last)
        return Cameras(self.K[part], self.w_T_c[part], self.width, self.height, self.world[part])

    def x(self, camera: Tensor, u: Tensor) -> Tensor:
        """x at z = 1 of columns ``u`` of cameras (both broadcast), float32."""
        return ((u - self.K[camera, 0, 2]) / self.K[camera, 0, 0]).float()

    def y(self, camera: Tensor, v: Tensor) -> Tensor:
        """y at z = 1 of rows ``v``, float32."""
        return ((v - self.K[camera, 1, 2]) / self.K[camera, 1, 1]).float()


def cameras(eyes: Sequence[Eye], device: torch.device | str = "cpu") -> Cameras:
    """Cameras of one image size in the first scenery; raises ``InputError`` for none or several sizes."""
    sizes = {(eye.width, eye.height) for eye in eyes}
    if len(sizes) != 1:
        raise InputError(f"cameras of the sizes {sorted(sizes)} cannot be rendered at once; give those of one size")
    K, w_T_c = (torch.from_numpy(np.stack(part)).to(device) for part in ([e.K for e in eyes], [e.w_T_c for e in eyes]))
    return Cameras(K, w_T_c, *sizes.pop(), torch.zeros(len(eyes), dtype=torch.int64, device=device))


class Raycaster:
    """Shapes, textures and light of one or more worlds as tensors on ``device``. Cameras of all worlds are rendered
    together: most operations take a GPU less time than a host needs to launch them.

    ``sheet``: textures that the charts of all ``sceneries`` refer to, on the device; None: those of the only scenery.
    ``chunk``: tiles of shapes that are cast at once; memory is about 25 KB times that. ``of`` (N,): the world of each
    shape.
    """

    def __init__(
        self,
        *sceneries: Scenery,
        device: torch.device | str = "cpu",
        chunk: int = CHUNK,
        sheet: Tensor | None = None,
    ) -> None:
        self.device, self.chunk = torch.device(device), chunk
        shapes, charts, lights = (
            [getattr(scenery, name) for scenery in sceneries] for name in ("shapes", "charts", "light")
        )
        counts, ends = [len(each.center) for each in shapes], np.cumsum([each.tint.shape[1] for each in charts])
        self.of = self._tensor(np.repeat(np.arange(len(counts)), counts))
        self.shapes = _Solids(*self._joined(_Solids, shapes, 0))
        *plain, chart = _plain(shapes)
        self._plain = [self._tensor(value) for value in (*plain, chart + np.repeat([0, *ends[:-1]], counts))]
        self.charts = Charts(*self._joined(Charts, charts, 1))  # type: ignore[arg-type]
        self._sky = self._tensor(ends - 1)
        self.sheet = self._tensor(sceneries[0].sheet) if sheet is None else sheet
        light, tops = _stacked(lights)
        self.light = self._tensor(light[..., None])
        self._top = self._tensor(np.repeat(tops, np.diff(ends, prepend=0)))  # of each chart's light
        self.masks, self.levels = self._tensor(sceneries[0].masks), self._tensor(LEVEL_TABLE)
        self.offsets = self._tensor(OFFSETS)

    def _joined(self, kind: type[Any], parts: Sequence[Any], axis: int) -> list[Tensor]:
        """The fields of the dataclass ``kind``, each that of all ``parts`` one after the other."""
        return [
            self._tensor(np.concatenate([getattr(part, field.name) for part in parts], axis)) for field in fields(kind)
        ]

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(values)).to(self.device)

    @torch.no_grad()
    def render(self, seen_by: Cameras, lap: Stopwatch = lambda stage: None) -> tuple[Tensor, Tensor]:
        """Images (B, H, W, 3) uint8 RGB and depths (B, H, W) float32, 0 = none. ``lap`` is called when a stage ends."""
        table = self._in_view(seen_by)
        lap("cameras")
        depth, shape = self._cast(seen_by, table)
        lap("cast")
        camera, row, column = _pixels(shape)
        x, y = seen_by.x(camera, column), seen_by.y(camera, row)
        coarse = self._places(seen_by, table, camera, shape.flatten(), depth.flatten(), x, y)
        lap("places")
        place, candidates = _outlines(shape, coarse[0].reshape(shape.shape))
        u, v = (place[:, 2 - k, None] + self.offsets[:, k] for k in range(2))
        x, y = seen_by.x(place[:, :1], u), seen_by.y(place[:, :1], v)
        found, far = self._nearest(table, place[:, :1], candidates, x, y)
        camera = place[:, 0].repeat_interleave(len(self.offsets))
        fine = self._places(seen_by, table, camera, found.flatten(), far.flatten(), x.flatten(), y.flatten())
        lap("outlines")
        colors = self._colors(*(torch.cat(parts) for parts in zip(coarse, fine, strict=True)))
        image = colors[: shape.numel()].reshape(*shape.shape, 3)
        image[tuple(place.T)] = colors[shape.numel() :].reshape(-1, len(self.offsets), 3).mean(dim=1)
        lap("colours")
        return (image.clip(max=255) + 0.5).to(torch.uint8), torch.where(depth.isfinite(), depth, 0.0)

    @torch.no_grad()
    def cast(self, seen_by: Cameras) -> tuple[Tensor, Tensor]:
        """Depth (B, H, W) of the pixels' centres, infinite where there is nothing, and shape (B, H, W), -1 there."""
        return self._cast(seen_by, self._in_view(seen_by))

    def _in_view(self, seen_by: Cameras) -> ShapesInView:
        """The shapes in the view of all cameras: shape n of camera b is number b N + n."""
        count = len(seen_by)
        forms = torch.einsum("nij,bjk->ikbn", self.shapes.local, seen_by.w_T_c[:, :3, :3])
        away = seen_by.w_T_c[:, None, :3, 3] - self.shapes.center
        origin = torch.einsum("nij,bnj->ibn", self.shapes.local, away)
        size, taper, repeats, kind, mask, chart = (
            values.repeat(*[1] * (values.ndim - 1), count) for values in self._plain
        )
        tensors = forms.float().flatten(2), origin.float().flatten(1), size, taper, repeats, kind, mask, chart
        return ShapesInView(*tensors)  # type: ignore[arg-type]

    def _windows(self, seen_by: Cameras) -> Tensor:
        """(B, N, 4), see ``eye.windows``."""
        away = self.shapes.corners - seen_by.w_T_c[:, None, None, :3, 3]
        local = torch.einsum("bnci,bij->bncj", away, seen_by.w_T_c[:, :3, :3])
        ahead = local[..., 2] > NEAR
        z = torch.where(ahead, local[..., 2], 1.0)
        found = torch.empty((*local.shape[:2], 4), dtype=torch.int64, device=self.device)
        for place, axis, limit in ((0, 1, seen_by.height), (2, 0, seen_by.width)):
            K = seen_by.K[:, axis, :, None, None]
            values = local[..., axis] / z * K[:, axis] + K[:, 2]
            found[..., place] = (values.amin(dim=2).floor() - 1).clip(0, limit).long()
            found[..., place + 1] = (values.amax(dim=2).ceil() + 2).clip(0, limit).long()
        full = torch.tensor([0, seen_by.height, 0, seen_by.width], device=self.device)
        found[~ahead.all(dim=2) | (self._plain[3] == HALL)] = full
        found[~ahead.any(dim=2) | (seen_by.world[:, None] != self.of)] = 0
        return found

    def _cast(self, seen_by: Cameras, table: ShapesInView) -> tuple[Tensor, Tensor]:
        """Depth (B, H, W), infinite where there is nothing, and shape (B, H, W) int64 of the pixels' centres."""
        camera, tile_row, tile_column, shape = self._tiles(seen_by)
        rows, columns = (-(-side // TILE) for side in (seen_by.height, seen_by.width))
        tile = (camera * rows + tile_row) * columns + tile_column
        nothing = (_INFINITE << _SHIFT) | ((1 << _SHIFT) - 1)
        keys = torch.full((len(seen_by) * rows * columns, TILE * TILE), nothing, device=self.device)
        within = torch.arange(TILE, device=self.device)
        count = len(self.shapes.center)
        for part in torch.arange(len(tile), device=self.device).split(self.chunk):
            of = camera[part, None]
            x = seen_by.x(of, tile_column[part, None] * TILE + within)[:, None, :].expand(-1, TILE, -1).flatten(1)
            y = seen_by.y(of, tile_row[part, None] * TILE + within)[:, :, None].expand(-1, -1, TILE).flatten(1)
            depth = cast_list(torch, table, camera[part] * count + shape[part], x, y, self.masks)
            key = (depth.view(torch.int32).long() << _SHIFT) | shape[part, None]
            keys.scatter_reduce_(0, tile[part, None].expand(-1, TILE * TILE), key, "amin")
        keys = keys.reshape(len(seen_by), rows, columns, TILE, TILE).transpose(2, 3).flatten(3).flatten(1, 2)
        keys = keys[:, : seen_by.height, : seen_by.width]
        depth = (keys >> _SHIFT).int().view(torch.float32)
        return depth, torch.where(depth.isfinite(), keys & ((1 << _SHIFT) - 1), NOTHING)

    def _tiles(self, seen_by: Cameras) -> tuple[Tensor, ...]:
        """Camera, row and column of tiles with each shape whose window overlaps them (P,)."""
        top, bottom, left, right = self._windows(seen_by).unbind(-1)
        covered = []
        for start, stop, side in ((top, bottom, seen_by.height), (left, right, seen_by.width)):
            first = torch.arange(-(-side // TILE), device=self.device) * TILE
            covered.append((start[..., None] < first + TILE) & (stop[..., None] > first))
        both = covered[0][..., :, None] & covered[1][..., None, :]  # (B, N, rows, columns)
        camera, shape, row, column = both.nonzero(as_tuple=True)
        return camera, row, column, shape

    def _nearest(
        self, table: ShapesInView, camera: Tensor, candidates: Tensor, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Shape and depth (n, 4) of the rays (n, 4) at outlines, see ``Scenery``."""
        pixel, place = (candidates != NOTHING).nonzero(as_tuple=True)
        index = (camera * len(self.shapes.center) + candidates)[pixel, place]
        depth = torch.full((*candidates.shape, x.shape[1]), np.inf, device=self.device)
        depth[pixel, place] = cast_list(torch, table, index, x[pixel], y[pixel], self.masks)
        depth, best = depth.min(dim=1)
        return torch.where(depth.isfinite(), candidates.gather(1, best), NOTHING), depth

    def _places(
        self, seen_by: Cameras, table: ShapesInView, camera: Tensor, shape: Tensor, depth: Tensor, x: Tensor, y: Tensor
    ) -> tuple[Tensor, ...]:
        """Chart, s, t and footprint (P,) where rays meet shapes, see ``Scenery``."""
        hit = shape != NOTHING
        chart = self._sky[seen_by.world[camera]]
        s, t, footprint = (torch.zeros_like(x) for _ in range(3))
        index = camera[hit] * len(self.shapes.center) + shape[hit]
        chart[hit], s[hit], t[hit], facing = places(torch, table, index, depth[hit], x[hit], y[hit])
        focal = torch.sqrt(seen_by.K[:, 0, 0] * seen_by.K[:, 1, 1]).float()
        footprint[hit] = depth[hit] / (focal[camera[hit]] * torch.sqrt(facing.clip(min=FACING)))
        sky = ~hit
        rotation = seen_by.w_T_c[:, :3, :3].float()[camera[sky]].permute(1, 2, 0)
        s[sky], t[sky] = sky_place(torch, rotation, x[sky], y[sky])
        return chart, s, t, footprint

    def _colors(self, chart: Tensor, s: Tensor, t: Tensor, footprint: Tensor) -> Tensor:
        """(P, 3) colours, 0 to 255 and above."""
        where = texels(torch, self.charts, self.levels, chart, s, t, footprint)
        left, top = (part.long() for part in where.corner)
        fine, coarse = (_bilinear(self.sheet, *at, left, top).add(0.5).floor() for at in (where.fine, where.coarse))
        colors = fine + where.blend[:, None] * (coarse - fine)
        return colors * _bilinear(self.light, *where.light, top_row=self._top[chart]) * self.charts.tint.T[chart]


@dataclass(frozen=True, eq=False)
class _Solids:
    local: Tensor
    center: Tensor
    corners: Tensor


def _plain(shapes: Sequence[Shapes]) -> list[np.ndarray]:
    """The camera-independent fields of the shapes of worlds, shapes last; charts count from each world's first."""
    names = ("size", "taper", "repeats", "kind", "mask", "chart")
    size, taper, repeats, *whole = (np.concatenate([getattr(each, name) for each in shapes]) for name in names)
    return [*(np.ascontiguousarray(values, np.float32) for values in (size.T, taper, repeats.T)), *whole]


def _stacked(lights: Sequence[Array32]) -> tuple[Array32, np.ndarray]:
    """Sheets of light (h, w) below each other, as wide as the widest, and the first row of each."""
    widest = max(light.shape[1] for light in lights)
    padded = [np.pad(light, ((0, 0), (0, widest - light.shape[1]))) for light in lights]
    ends = np.cumsum([len(light) for light in lights])
    return np.concatenate(padded), np.array([0, *ends[:-1]])


def _pixels(shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Camera, row, column of all pixels (B, H, W), flat."""
    sides = [torch.arange(side, device=shape.device) for side in shape.shape]
    camera, row, column = torch.meshgrid(*sides, indexing="ij")
    return camera.flatten(), row.flatten(), column.flatten()


def _outlines(shape: Tensor, chart: Tensor) -> tuple[Tensor, Tensor]:
    """Camera, row, column (n, 3) of pixels at outlines and their candidates (n, 5), see ``scenery.outlines``."""
    down, right = chart[:, 1:] != chart[:, :-1], chart[:, :, 1:] != chart[:, :, :-1]
    edge = torch.zeros_like(chart, dtype=torch.bool)
    for part, differs in ((edge[:, 1:], down), (edge[:, :-1], down), (edge[..., 1:], right), (edge[..., :-1], right)):
        part |= differs
    camera, row, column = edge.nonzero(as_tuple=True)
    above, below = (row - 1).clip(min=0), (row + 1).clip(max=shape.shape[1] - 1)
    before, after = (column - 1).clip(min=0), (column + 1).clip(max=shape.shape[2] - 1)
    sides = ((row, column), (above, column), (below, column), (row, before), (row, after))
    found = torch.stack([shape[camera, i, j] for i, j in sides], dim=1).sort(dim=1).values
    twice = torch.zeros_like(found, dtype=torch.bool)
    twice[:, 1:] = found[:, 1:] == found[:, :-1]
    return torch.stack([camera, row, column], dim=1), torch.where(twice, NOTHING, found)


def _bilinear(image: Tensor, x: Tensor, y: Tensor, first: Tensor | int = 0, top_row: Tensor | int = 0) -> Tensor:
    """(P, C) samples of an image (H, W, C) at pixels (x, y) (P,) from column ``first`` and row ``top_row`` on.

    The sums are exact, so that samples do not depend on where a part lies.
    """
    height, width, channels = image.shape
    left, top = x.floor(), y.floor()
    across, down = (x - left)[:, None], (y - top)[:, None]
    flat = image.reshape(-1, channels)
    column, row = left.long() + first, top.long() + top_row
    base = (row * width + column).clip(0, height * width - 1)
    right = (column + 1 < width).long()
    below = (row + 1 < height).long() * width
    upper = torch.lerp(flat[base].float(), flat[base + right].float(), across)
    lower = torch.lerp(flat[base + below].float(), flat[base + below + right].float(), across)
    return torch.lerp(upper, lower, down)
