"""Rays of a whole image against shapes: where they meet, which shape each pixel sees, and at what depth.

The same code serves NumPy arrays and PyTorch tensors: ``xp`` is the module of the arrays given. A ray is
``o + depth d`` in local coordinates (see ``shapes``), ``o`` and ``d`` arrays (3, ...) that broadcast. All three
coordinates are computed at once: on a GPU, launching an operation takes longer than most of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dust3r_ros.errors import InputError
from dust3r_ros.scenes.endless.shapes import BOX, ELLIPSOID, FRUSTUM, HALL, KINDS, PANEL, Shapes
from dust3r_ros.types import Array, Array32


@dataclass(frozen=True, eq=False)
class Eye:
    """A pinhole camera: ``K`` (3, 3) in pixels, centres at integers, no skew; ``w_T_c`` (4, 4) optical frame."""

    K: Array
    w_T_c: Array
    width: int
    height: int

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1 or not min(self.K[0, 0], self.K[1, 1]) > 0:
            raise InputError(
                f"cannot render {self.width}x{self.height} pixels with focals {self.K[0, 0]}, {self.K[1, 1]}; "
                "all must be positive"
            )

    def x(self, u: ArrayLike) -> Array32:
        """x at z = 1 of columns ``u`` (any shape), float32."""
        return ((np.asarray(u) - self.K[0, 2]) / self.K[0, 0]).astype(np.float32)

    def y(self, v: ArrayLike) -> Array32:
        """y at z = 1 of rows ``v``, float32."""
        return ((np.asarray(v) - self.K[1, 2]) / self.K[1, 1]).astype(np.float32)

    @property
    def focal(self) -> float:
        """Geometric mean of both focals, pixels: a pixel covers 1 / focal^2."""
        return float(np.sqrt(self.K[0, 0] * self.K[1, 1]))


@dataclass(frozen=True, eq=False)
class ShapesInView:
    """N shapes as one camera sees them: a ray (x, y, 1) is ``forms`` (x, y, 1) from ``origin`` in local coordinates.

    ``forms`` (3, 3, N), ``origin`` (3, N), ``size`` (3, N), ``taper`` (N,), ``repeats`` (2, N) float32; ``kind``,
    ``mask``, ``chart`` (N,) int64: shapes last, since rays look up one
    field after another.
    NumPy arrays, or PyTorch tensors for many cameras.
    """

    forms: Array32
    origin: Array32
    size: Array32
    taper: Array32
    repeats: Array32
    kind: NDArray[np.int64]
    mask: NDArray[np.int64]
    chart: NDArray[np.int64]


def in_view(shapes: Shapes, w_T_c: Array) -> ShapesInView:
    """The shapes as the camera at ``w_T_c`` (4, 4) sees them."""
    return ShapesInView(
        np.array(np.einsum("nij,jk->ikn", shapes.local, w_T_c[:3, :3]), np.float32, order="C"),
        np.array(np.einsum("nij,nj->in", shapes.local, w_T_c[:3, 3] - shapes.center), np.float32, order="C"),
        np.array(shapes.size.T, np.float32, order="C"),
        shapes.taper.astype(np.float32),
        np.array(shapes.repeats.T, np.float32, order="C"),
        shapes.kind,
        shapes.mask,
        shapes.chart,
    )


def windows(shapes: Shapes, eye: Eye) -> NDArray[np.int64]:
    """(N, 4) pixels that can see each shape: rows from, to, columns from, to (to excluded); empty when none can."""
    local = (shapes.corners - eye.w_T_c[:3, 3]) @ eye.w_T_c[:3, :3]  # (N, 8, 3)
    ahead = local[..., 2] > NEAR
    z = np.where(ahead, local[..., 2], 1.0)
    u, v = local[..., 0] / z * eye.K[0, 0] + eye.K[0, 2], local[..., 1] / z * eye.K[1, 1] + eye.K[1, 2]
    found = np.empty((len(shapes), 4), np.int64)
    for place, values, limit in ((0, v, eye.height), (2, u, eye.width)):
        # A margin of one pixel on every side, for rounding.
        found[:, place] = np.clip(np.floor(values.min(axis=1)) - 1, 0, limit)
        found[:, place + 1] = np.clip(np.ceil(values.max(axis=1)) + 2, 0, limit)
    found[~ahead.all(axis=1) | (shapes.kind == HALL)] = [0, eye.height, 0, eye.width]
    found[~ahead.any(axis=1)] = 0
    found[(found[:, 0] >= found[:, 1]) | (found[:, 2] >= found[:, 3])] = 0
    return found


NEAR = 0.02  # metres; nothing nearer is seen
STENCIL = 128  # cells along each side of a mask

_TINY = 1e-12


def depth_of(xp: Any, kind: int, o: Any, d: Any, taper: Any = 0.0) -> Any:
    """Depth at which rays first meet shapes of one kind; infinite where they do not. ``taper`` of frustums."""
    if kind == PANEL:
        depth = -o[2] / d[2]
        hit = (xp.abs(o[0] + depth * d[0]) <= 1) & (xp.abs(o[1] + depth * d[1]) <= 1)
    elif kind in (BOX, HALL):
        low, high = _slab(xp, o, d)
        enter, leave = (pick(pick(part[0], part[1]), part[2]) for pick, part in ((xp.fmax, low), (xp.fmin, high)))
        depth, hit = (leave if kind == HALL else enter), enter < leave
    else:
        # Measured from the ray's point nearest to the middle, since squares of large distances lose digits.
        along = -_sum(o * d) / _sum(d * d)
        q = o + along * d
        enter, leave = _ball(xp, q, d) if kind == ELLIPSOID else _frustum(xp, q, d, taper)
        depth, hit = along + enter, enter < leave
    return xp.where(hit & (depth > NEAR), depth, np.inf)


def _sum(v: Any) -> Any:
    return v[0] + v[1] + v[2]


def _slab(xp: Any, o: Any, d: Any) -> tuple[Any, Any]:
    """Depths between which a ray is within -1 and 1 of an axis; NaN, which ``fmax`` and ``fmin`` ignore, for a ray
    along its middle.
    """
    inverse = 1 / d
    middle, half = -o * inverse, xp.abs(inverse)
    return middle - half, middle + half


def _ball(xp: Any, q: Any, d: Any) -> tuple[Any, Any]:
    room = (1 - _sum(q * q)) / _sum(d * d)
    half = xp.sqrt(room.clip(min=0))
    return -half, half


def _frustum(xp: Any, q: Any, d: Any, taper: Any) -> tuple[Any, Any]:
    """Within x^2 + y^2 <= (middle - slope z)^2, and -1 <= z <= 1."""
    slope, middle = taper / 2, 1 - taper / 2
    r, dr = middle - slope * q[2], -slope * d[2]
    a = d[0] * d[0] + d[1] * d[1] - dr * dr
    half_b = q[0] * d[0] + q[1] * d[1] - r * dr
    c = q[0] * q[0] + q[1] * q[1] - r * r
    a = xp.where(xp.abs(a) < _TINY, _TINY, a)
    square = half_b * half_b - a * c
    root = xp.sqrt(square.clip(min=0))
    first, second = (-half_b - root) / a, (-half_b + root) / a  # first < second where a > 0
    low, high = _slab(xp, q[2], d[2])
    enter, leave = xp.fmax(low, first), xp.fmin(high, second)
    leave = xp.where(square > 0, leave, -np.inf)
    # Steeper than the side (a < 0): outside of the roots, which belong to both halves of the double cone.
    before = (low < second) | (square <= 0)
    enter = xp.where(a > 0, enter, xp.where(before, low, xp.fmax(low, first)))
    steep = xp.where(before & (square > 0), xp.fmin(high, second), high)
    return enter, xp.where(a > 0, leave, steep)


def stencil_cells(xp: Any, x: Any, y: Any, repeats: tuple[Any, Any]) -> tuple[Any, Any]:
    """Rows and columns of the mask's cell at local coordinates of a panel."""
    column = xp.floor((x + 1) * (0.5 * STENCIL * repeats[0]))
    row = xp.floor((y + 1) * (0.5 * STENCIL * repeats[1]))
    return whole(row) & (STENCIL - 1), whole(column) & (STENCIL - 1)


def whole(values: Any) -> Any:
    """Whole numbers as indices."""
    return values.astype(np.int64) if isinstance(values, np.ndarray) else values.long()


def chart_place(xp: Any, kind: int, p: Any, d: Any, size: Any, taper: Any) -> tuple[Any, Any, Any, Any]:
    """Chart (of the shape's own), s, t and ``facing`` at local points ``p`` that rays along ``d`` meet.

    ``facing`` is |n . ray|, the ray's z being 1; approximate on tapered and flattened shapes (it only
    sets how much of a texture is averaged). ``size`` are the half axes in metres.
    """
    if kind == PANEL:
        return whole(0 * p[0]), (p[0] + 1) / 2, (p[1] + 1) / 2, xp.abs(d[2]) * size[2]
    if kind == FRUSTUM:
        return _frustum_place(xp, p, d, size, taper)
    a, b, c = xp.abs(p[0]), xp.abs(p[1]), xp.abs(p[2])
    first, second = (a >= b) & (a >= c), b >= c
    major = xp.where(first, p[0], xp.where(second, p[1], p[2]))
    axis = xp.where(first, 0.0 * a, xp.where(second, 0.0 * a + 1, 0.0 * a + 2))
    face = whole(2 * axis + xp.where(major < 0, 0.0 * a + 1, 0.0 * a))
    if kind == ELLIPSOID:
        across = xp.where(first, p[1], xp.where(second, p[2], p[0])) / xp.abs(major)
        up = xp.where(first, p[2], xp.where(second, p[0], p[1])) / xp.abs(major)
        mean = (size[0] + size[1] + size[2]) / 3
        return face, (across + 1) / 2, (up + 1) / 2, mean * xp.abs(p[0] * d[0] + p[1] * d[1] + p[2] * d[2])
    # To the right of a viewer facing the side, so that words read correctly.
    across = xp.where(first, p[1], xp.where(second, -p[0], p[0])) * xp.where(major < 0, 0.0 * a - 1, 0.0 * a + 1)
    up = xp.where(first | second, p[2], p[1])
    facing = xp.abs(xp.where(first, d[0] * size[0], xp.where(second, d[1] * size[1], d[2] * size[2])))
    return face, (across + 1) / 2, (1 - up) / 2, facing


def _frustum_place(xp: Any, p: Any, d: Any, size: Any, taper: Any) -> tuple[Any, Any, Any, Any]:
    radius = (1 - taper * (p[2] + 1) / 2).clip(min=1e-3)
    lid = (xp.abs(p[2]) > 0.9999) & (p[0] * p[0] + p[1] * p[1] < 0.9998 * radius * radius)
    face = whole(xp.where(lid, xp.where(p[2] > 0, 0 * radius + 2, 0 * radius + 1), 0 * radius))
    around = xp.arctan2(p[1], p[0]) * (0.5 / np.pi)
    around = xp.where(around < 0, around + 1, around)
    side = xp.abs((p[0] * d[0] + p[1] * d[1]) / radius + taper / 2 * d[2]) * (size[0] + size[1]) / 2
    s = xp.where(lid, (p[0] + 1) / 2, around)
    t = xp.where(lid, (p[1] + 1) / 2, (1 - p[2]) / 2)
    return face, s, t, xp.where(lid, xp.abs(d[2]) * size[2], side)


NOTHING = -1


@dataclass(frozen=True, eq=False)
class Seen:
    """``depth`` (H, W) float32, infinite where there is nothing; ``shape`` (H, W) int16, -1 there."""

    depth: Array32
    shape: NDArray[np.int16]


def cast(shapes: Shapes, eye: Eye, masks: NDArray[np.uint8]) -> Seen:
    """Depth and shape at the centres of the pixels; ``masks`` (M, 128, 128) uint8, 0 = hole."""
    seen = Seen(
        np.full((eye.height, eye.width), np.inf, np.float32), np.full((eye.height, eye.width), NOTHING, np.int16)
    )
    table = in_view(shapes, eye.w_T_c)
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


def _window(table: ShapesInView, number: int, x: Array32, y: Array32, masks: NDArray[np.uint8]) -> Array32:
    forms, kind = table.forms[..., number, None, None], int(table.kind[number])
    o, d = table.origin[:, number, None, None], (forms[:, 0] * x + forms[:, 2]) + forms[:, 1] * y[:, None]
    depth = depth_of(np, kind, o, d, table.taper[number])
    if kind == PANEL and table.mask[number] >= 0:
        depth = _cut(
            depth, o[0] + depth * d[0], o[1] + depth * d[1], table.repeats[:, number], masks[table.mask[number]]
        )
    return np.asarray(depth, np.float32)


def _cut(depth: Any, px: Any, py: Any, repeats: Any, mask: Any) -> Any:
    hit = np.isfinite(depth)
    row, column = stencil_cells(np, np.where(hit, px, 0), np.where(hit, py, 0), (repeats[0], repeats[1]))
    return np.where(hit & (mask[row, column] > 0), depth, np.float32(np.inf))


def local_rays(table: Any, index: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Origins and directions of rays (x, y, 1) in the coordinates of the shapes ``index``; all broadcast."""
    forms = table.forms[..., index]
    # Summed in the same order as in ``_window``, so that both round alike.
    return table.origin[..., index], (forms[:, 0] * x + forms[:, 2]) + forms[:, 1] * y


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
        found = chart_place(xp, kind, o + far * d, d, table.size[:, at], table.taper[at])
        face, s[chosen], t[chosen], facing[chosen] = found
        chart[chosen] = table.chart[at] + face
    return chart, s, t, facing
