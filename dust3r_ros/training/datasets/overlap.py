"""How much two views share: the part of the one's pixels that the other sees, the smaller of both directions.

Depth says it exactly: a point of the one is seen by the other where it falls into its image and is no further away
than what that image shows there. Views are looked at coarsely, some hundred points each, so that all pairs of a scene
cost less than reading its depth. Where a set has a structure-from-motion model, the 3D points that both images
registered say it without any depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from dust3r_ros.geometry.rigid import invert, transform
from dust3r_ros.types import Array, Array32

_CELLS = 32  # of a view's longer side
_LEAST_CELLS = 0.05  # of a view's cells must hold depth; fewer say nothing of the view
_SLACK = 0.05  # relative depth: errors of depth and pose, and a surface that falls away within a cell


@dataclass(frozen=True, eq=False)
class Glance:
    """A view looked at coarsely: a point of each cell that has depth, (N, 3) in the world, and what depths (rows,
    columns) the cell holds; ``near`` is infinite where it holds none. ``cell`` (pixels) is a cell's side.
    """

    points: Array
    near: Array32
    far: Array32
    cell: int
    K: Array
    w_T_c: Array
    width: int
    height: int


def glance(depth: Array32, K: Array, w_T_c: Array) -> Glance:
    """Of a view with ``depth`` (H, W), 0 = none, K (3, 3) in its pixels, ``w_T_c`` (4, 4)."""
    height, width = depth.shape
    cell = max(-(-max(height, width) // _CELLS), 1)
    rows, columns = -(-height // cell), -(-width // cell)
    padded = np.zeros((rows * cell, columns * cell), np.float32)
    padded[:height, :width] = depth
    cells = padded.reshape(rows, cell, columns, cell).transpose(0, 2, 1, 3).reshape(rows, columns, cell * cell)
    known = cells > 0
    near = np.where(known, cells, np.float32(np.inf)).min(axis=2)
    # The point next to the middle stands for the cell.
    inner = np.arange(cell) - (cell - 1) / 2
    off = (inner[:, None] ** 2 + inner[None, :] ** 2).ravel()
    chosen = np.where(known, off.astype(np.float32), np.float32(np.inf)).argmin(axis=2)
    row, column = np.nonzero(known.any(axis=2))
    if len(row) < _LEAST_CELLS * rows * columns:
        row = column = row[:0]
    at = chosen[row, column]
    z = cells[row, column, at].astype(np.float64)
    pixels = np.stack([column * cell + at % cell, row * cell + at // cell, np.ones(len(at))], axis=-1)
    points = transform(w_T_c, (pixels @ np.linalg.inv(K).T) * z[:, None])
    return Glance(points, near, cells.max(axis=2), cell, K, w_T_c, width, height)


def overlaps(glances: Sequence[Glance]) -> Array32:
    """(N, N) of N views, symmetric, 0 to 1."""
    counts = np.array([len(view.points) for view in glances], np.int64)
    points = np.concatenate([view.points for view in glances]) if len(glances) else np.zeros((0, 3))
    owner = np.repeat(np.arange(len(glances)), counts)
    shared = np.zeros((len(glances), len(glances)))
    for j, view in enumerate(glances):
        if counts[j]:
            shared[:, j] = np.bincount(owner, _seen(view, points), minlength=len(glances))
    part = shared / np.maximum(counts, 1)[:, None]
    return np.minimum(part, part.T).astype(np.float32)


def _seen(view: Glance, points: Array) -> NDArray[np.bool_]:
    """(N,) which of the points the view shows."""
    camera = transform(invert(view.w_T_c), points)
    front = camera[:, 2] > 0
    projected = camera @ view.K.T
    uv = projected[:, :2] / np.where(front, projected[:, 2], 1.0)[:, None]
    inside = front & (uv >= -0.5).all(axis=1) & (uv[:, 0] < view.width - 0.5) & (uv[:, 1] < view.height - 0.5)
    column, row = (np.floor((uv[inside] + 0.5) / view.cell).astype(np.int64)).T
    z = camera[inside, 2]
    fits = (z >= (1 - _SLACK) * view.near[row, column]) & (z <= (1 + _SLACK) * view.far[row, column])
    seen = np.zeros(len(points), bool)
    seen[inside] = fits
    return seen


def shared_points(seen: Sequence[NDArray[np.uint64]]) -> Array32:
    """(N, N) of N images, by the numbers of the 3D points that each registered; 1 on the diagonal."""
    counts = np.array([len(np.unique(points)) for points in seen])
    if not counts.sum():
        return np.zeros((len(seen), len(seen)), np.float32)
    numbers, place = np.unique(np.concatenate([np.unique(points) for points in seen]), return_inverse=True)
    image = np.repeat(np.arange(len(seen)), counts)
    incidence = csr_matrix((np.ones(len(place), np.float32), (image, place)), shape=(len(seen), len(numbers)))
    both = (incidence @ incidence.T).toarray()
    return np.asarray(both / np.maximum(np.maximum(counts[:, None], counts[None, :]), 1), np.float32)
