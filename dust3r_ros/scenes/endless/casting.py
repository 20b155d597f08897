"""Rays of a whole image against shapes (NumPy): which shape each pixel sees, and how far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.scenes.endless.eye import Eye, Sight, sight, windows
from dust3r_ros.scenes.endless.meeting import chart_place, depth_of, stencil_cells
from dust3r_ros.scenes.endless.shapes import KINDS, PANEL, Shapes
from dust3r_ros.types import Array32

NOTHING = -1


@dataclass(frozen=True, eq=False)
class Seen:
    """``depth`` (H, W) float32, infinite where nothing is; ``shape`` (H, W) int16, -1 there."""

    depth: Array32
    shape: NDArray[np.int16]


def cast(shapes: Shapes, eye: Eye, masks: NDArray[np.uint8]) -> Seen:
    """What the centres of the pixels see; ``masks`` (M, 128, 128) uint8, 0 = hole."""
    seen = Seen(
        np.full((eye.height, eye.width), np.inf, np.float32), np.full((eye.height, eye.width), NOTHING, np.int16)
    )
    table = sight(shapes, eye.w_T_c)
    x, y = eye.x(np.arange(eye.width)), eye.y(np.arange(eye.height))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for number, (top, bottom, left, right) in enumerate(windows(shapes, eye).tolist()):
            if top < bottom:
                part = (slice(top, bottom), slice(left, right))
                depth = _window(table, number, x[part[1]], y[part[0]], masks)
                nearer = depth < seen.depth[part]
                np.copyto(seen.depth[part], depth, where=nearer)
                np.copyto(seen.shape[part], np.int16(number), where=nearer)
    return seen


def _window(table: Sight, number: int, x: Array32, y: Array32, masks: NDArray[np.uint8]) -> Array32:
    forms, kind = table.forms[..., number], int(table.kind[number])
    ox, oy, oz = table.origin[:, number]
    dx, dy, dz = ((form[0] * x + form[2]) + (form[1] * y)[:, None] for form in forms)
    depth = depth_of(np, kind, (ox, oy, oz), (dx, dy, dz), table.taper[number])
    if kind == PANEL and table.mask[number] >= 0:
        depth = _cut(depth, ox + depth * dx, oy + depth * dy, table.repeats[:, number], masks[table.mask[number]])
    return np.asarray(depth, np.float32)


def _cut(depth: Any, px: Any, py: Any, repeats: Any, mask: Any) -> Any:
    hit = np.isfinite(depth)
    row, column = stencil_cells(np, np.where(hit, px, 0), np.where(hit, py, 0), (repeats[0], repeats[1]))
    return np.where(hit & (mask[row, column] > 0), depth, np.float32(np.inf))


def local_rays(table: Any, index: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Origins and directions of rays (x, y, 1) in the coordinates of the shapes ``index``; all broadcast."""
    forms, origin = table.forms, table.origin
    # Added up in the order of ``_window``, so that both round alike.
    d = tuple((forms[k, 0][index] * x + forms[k, 2][index]) + forms[k, 1][index] * y for k in range(3))
    return tuple(origin[k][index] for k in range(3)), d


def cast_list(xp: Any, table: Any, index: Any, x: Any, y: Any, masks: Any) -> Any:
    """(P, ...) depths of rays (P, ...), ray p against the shape ``index`` (P,); NumPy or PyTorch by ``xp``."""
    depth = xp.zeros_like(x)
    spread = (slice(None),) + (None,) * (x.ndim - 1)
    kinds = table.kind[index]
    for kind in KINDS:
        chosen = kinds == kind
        if not bool(chosen.any()):
            continue
        at = index[chosen][spread]
        o, d = local_rays(table, at, x[chosen], y[chosen])
        found = depth_of(xp, kind, o, d, table.taper[at])
        if kind == PANEL:
            found = _cut_list(xp, table, at, found, o, d, masks)
        depth[chosen] = found
    return depth


def _cut_list(xp: Any, table: Any, at: Any, depth: Any, o: Any, d: Any, masks: Any) -> Any:
    number = table.mask[at]
    cut = xp.isfinite(depth) & (number >= 0)
    near = xp.where(cut, depth, 0.0 * d[0])
    repeats = (table.repeats[0][at], table.repeats[1][at])
    px, py = o[0] + near * d[0], o[1] + near * d[1]
    row, column = stencil_cells(xp, px, py, repeats)
    return xp.where(cut & (masks[number.clip(min=0), row, column] == 0), np.inf, depth)


def places(xp: Any, table: Any, index: Any, depth: Any, x: Any, y: Any) -> tuple[Any, Any, Any, Any]:
    """Chart (of all), s, t and facing (P,) of what rays (P,) meet at ``depth`` on the shapes ``index``."""
    chart, s, t, facing = xp.zeros_like(index), xp.zeros_like(x), xp.zeros_like(x), xp.zeros_like(x)
    kinds = table.kind[index]
    for kind in KINDS:
        chosen = kinds == kind
        if not bool(chosen.any()):
            continue
        at, far = index[chosen], depth[chosen]
        o, d = local_rays(table, at, x[chosen], y[chosen])
        p = tuple(o[k] + far * d[k] for k in range(3))
        size = tuple(table.size[k][at] for k in range(3))
        face, s[chosen], t[chosen], facing[chosen] = chart_place(xp, kind, p, d, size, table.taper[at])
        chart[chosen] = table.chart[at] + face
    return chart, s, t, facing
