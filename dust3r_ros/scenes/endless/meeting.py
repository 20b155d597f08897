"""Where rays meet shapes, in the shapes' own coordinates.

One code for NumPy arrays and PyTorch tensors: ``xp`` is the module whose arrays come in. A ray is
``o + depth d`` in local coordinates (see ``shapes``), ``o`` and ``d`` three arrays each that broadcast.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dust3r_ros.scenes.endless.shapes import BOX, ELLIPSOID, FRUSTUM, HALL, PANEL

NEAR = 0.02  # metres; nothing nearer is seen
STENCIL = 128  # cells along each side of a mask

_Triple = tuple[Any, Any, Any]
_TINY = 1e-12


def depth_of(xp: Any, kind: int, o: _Triple, d: _Triple, taper: Any = 0.0) -> Any:
    """Depth at which rays first meet shapes of one kind; infinite where they do not. ``taper`` of frustums."""
    if kind == PANEL:
        depth = -o[2] / d[2]
        hit = (xp.abs(o[0] + depth * d[0]) <= 1) & (xp.abs(o[1] + depth * d[1]) <= 1)
    elif kind in (BOX, HALL):
        enter, leave = _slab(xp, o[0], d[0])
        for k in (1, 2):
            low, high = _slab(xp, o[k], d[k])
            enter, leave = xp.fmax(enter, low), xp.fmin(leave, high)
        depth, hit = (leave if kind == HALL else enter), enter < leave
    else:
        # From the point of the ray nearest to the middle, since the squares of large distances lose digits.
        along = -(o[0] * d[0] + o[1] * d[1] + o[2] * d[2]) / (d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        q = (o[0] + along * d[0], o[1] + along * d[1], o[2] + along * d[2])
        enter, leave = _ball(xp, q, d) if kind == ELLIPSOID else _frustum(xp, q, d, taper)
        depth, hit = along + enter, enter < leave
    return xp.where(hit & (depth > NEAR), depth, np.inf)


def _slab(xp: Any, o: Any, d: Any) -> tuple[Any, Any]:
    """Depths between which a ray is within -1 and 1 of an axis; NaN, which ``fmax`` and ``fmin`` pass over, for a ray
    along its middle."""
    inverse = 1 / d
    middle, half = -o * inverse, xp.abs(inverse)
    return middle - half, middle + half


def _ball(xp: Any, q: _Triple, d: _Triple) -> tuple[Any, Any]:
    length = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    room = (1 - (q[0] * q[0] + q[1] * q[1] + q[2] * q[2])) / length
    half = xp.sqrt(room.clip(min=0))
    return -half, half


def _frustum(xp: Any, q: _Triple, d: _Triple, taper: Any) -> tuple[Any, Any]:
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


def chart_place(xp: Any, kind: int, p: _Triple, d: _Triple, size: _Triple, taper: Any) -> tuple[Any, Any, Any, Any]:
    """Chart (of the shape's own), s, t and ``facing`` at local points ``p`` that rays along ``d`` meet.

    ``facing`` is |n . ray|, the ray's z being 1; near enough on tapered and flattened shapes (it chooses
    how much of a texture is averaged, no more). ``size`` are the half axes in metres.
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
    # To the right for who stands before the side, so that words can be read.
    across = xp.where(first, p[1], xp.where(second, -p[0], p[0])) * xp.where(major < 0, 0.0 * a - 1, 0.0 * a + 1)
    up = xp.where(first | second, p[2], p[1])
    facing = xp.abs(xp.where(first, d[0] * size[0], xp.where(second, d[1] * size[1], d[2] * size[2])))
    return face, (across + 1) / 2, (1 - up) / 2, facing


def _frustum_place(xp: Any, p: _Triple, d: _Triple, size: _Triple, taper: Any) -> tuple[Any, Any, Any, Any]:
    radius = (1 - taper * (p[2] + 1) / 2).clip(min=1e-3)
    lid = (xp.abs(p[2]) > 0.9999) & (p[0] * p[0] + p[1] * p[1] < 0.9998 * radius * radius)
    face = whole(xp.where(lid, xp.where(p[2] > 0, 0 * radius + 2, 0 * radius + 1), 0 * radius))
    around = xp.arctan2(p[1], p[0]) * (0.5 / np.pi)
    around = xp.where(around < 0, around + 1, around)
    side = xp.abs((p[0] * d[0] + p[1] * d[1]) / radius + taper / 2 * d[2]) * (size[0] + size[1]) / 2
    s = xp.where(lid, (p[0] + 1) / 2, around)
    t = xp.where(lid, (p[1] + 1) / 2, (1 - p[2]) / 2)
    return face, s, t, xp.where(lid, xp.abs(d[2]) * size[2], side)
