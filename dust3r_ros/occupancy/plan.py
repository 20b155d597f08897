"""What one keyframe contributes to the ground plan: occupied cells and cells it sees through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dust3r_ros.errors import ConfigError
from dust3r_ros.geometry.depths import depth_edges
from dust3r_ros.geometry.ground import Ground, find_ground, level_ground
from dust3r_ros.geometry.pinhole import center_of, rays
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.types import Array, Keyframe

UNKNOWN, FREE, OCCUPIED = -1, 0, 100


@dataclass(frozen=True)
class GridOptions:
    """Options of the grid; lengths in map units (metres once the scale is metric), None: taken from the map.

    ``resolution``: edge of a cell (None: 0.025 of the median depth). Obstacles lie between ``min_height``
    (None: 0.1 of the cameras' height) and ``max_height`` (None: 1.1 of the cameras' height) above the
    ground; the ground is ``camera_height`` below the cameras (None: the lowest large plane found). Depth
    is used up to ``max_range`` (None: 200 cells) and above ``min_confidence``. Raises ``ConfigError``.
    """

    resolution: float | None = None
    min_height: float | None = None
    max_height: float | None = None
    camera_height: float | None = None
    max_range: float | None = None
    min_confidence: float = 1.5

    def __post_init__(self) -> None:
        for name in ("resolution", "min_height", "max_height", "camera_height", "max_range"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ConfigError(f"{name} of the occupancy grid is {value}; it must be positive, in map units")
        if self.min_height is not None and self.max_height is not None and self.min_height >= self.max_height:
            raise ConfigError(
                f"min_height of the occupancy grid is {self.min_height}; it must be below max_height, {self.max_height}"
            )


@dataclass(frozen=True, eq=False)
class Grid:
    """``data`` (H, W) int8, -1 unknown, 0 free, 100 occupied; row 0 has the lowest y, column 0 the lowest x.

    ``origin`` (x, y, yaw), map units and radians, is the outer corner of cell [0, 0] in the map frame;
    ``resolution`` the edge of a cell, map units: the fields of ``nav_msgs/OccupancyGrid``.
    """

    resolution: float
    origin: tuple[float, float, float]
    data: NDArray[np.int8]


_PIXELS = 20_000
_EDGE = 0.15  # of depth, over a pixel


@dataclass(frozen=True, eq=False)
class Scan:
    """A keyframe in the form a plan needs: depth (h, w) of every ``stride``-th row and column over ``unit``, 0 = none.

    ``focal`` and ``center`` refer to the keyframe's full image.
    """

    w_T_c: Array
    focal: float
    center: tuple[float, float]
    stride: int
    unit: float
    depth: NDArray[np.float16]

    def points(self, count: int | None = None) -> Array:
        """(N, 3) in the map frame; with ``count``, a subset of at most twice as many, spread over the image."""
        v, u = np.nonzero(self.depth)
        if count is not None and len(v) > count:
            v, u = v[:: len(v) // count], u[:: len(u) // count]
        z = self.depth[v, u].astype(np.float64) * self.unit
        pixels = np.stack([u, v], axis=-1).astype(np.float64) * self.stride
        return transform(self.w_T_c, rays(pixels, self.focal, self.center) * z[:, None])


def scan_of(keyframe: Keyframe, min_confidence: float) -> Scan:
    """Depth above ``min_confidence`` without a jump beside it, of at most about 20 000 pixels."""
    depth = keyframe.depth
    keep = np.isfinite(depth) & (depth > 0) & (keyframe.confidence > min_confidence)
    keep &= ~depth_edges(depth, _EDGE)
    stride = max(1, int(np.ceil(np.sqrt(depth.size / _PIXELS))))
    thin, keep = depth[::stride, ::stride], keep[::stride, ::stride]
    unit = float(np.median(thin[keep])) if keep.any() else 1.0
    small = np.where(keep, np.clip(thin / unit, 1e-4, 6e4), 0).astype(np.float16)
    return Scan(keyframe.w_T_c, keyframe.focal, center_of(*depth.shape), stride, unit, small)


_SAMPLE = 150  # points per keyframe used to find the ground
_KEYFRAMES = 400  # used for it, spread over the map
_CELL = 0.025  # of the median depth: 5 cm in a room


@dataclass(frozen=True)
class Slab:
    """What counts as an obstacle: heights (map units) above the ground from ``low`` to ``high``."""

    ground: Ground
    low: float
    high: float


def resolution_of(options: GridOptions, scans: Sequence[Scan]) -> float:
    """Edge of a cell, map units: as given, or from the median depth."""
    return options.resolution or _CELL * float(np.median([scan.unit for scan in scans]))


def slab_of(options: GridOptions, scans: Sequence[Scan], resolution: float) -> Slab:
    """Ground and heights from scans with depth (at least one, 20 points in all); values not given come from the map."""
    centers = np.stack([scan.w_T_c[:3, 3] for scan in scans])
    if options.camera_height is not None:
        ground = level_ground(centers, options.camera_height)
    else:
        asked = scans[:: -(-len(scans) // _KEYFRAMES)]
        points = [scan.points(_SAMPLE) for scan in asked]
        seen_from = [np.broadcast_to(scan.w_T_c[:3, 3], part.shape) for scan, part in zip(asked, points, strict=True)]
        ground = find_ground(np.concatenate(points), np.concatenate(seen_from))
    eye = max(float(np.median(ground.height(centers))), 4 * resolution)
    high = options.max_height or max(1.1 * eye, 2 * (options.min_height or 0.0))
    return Slab(ground, options.min_height or min(0.1 * eye, 0.5 * high), high)


def differ(a: Slab, b: Slab, scans: Sequence[Scan]) -> bool:
    """Whether ground or obstacle heights at the scans' positions differ by more than a quarter of ``a.low``."""
    eyes = np.stack([scan.w_T_c[:3, 3] for scan in scans])
    reach = max(float(np.median([scan.unit for scan in scans])), float(np.ptp(eyes[:, :2], axis=0).max()) / 2)
    tilt = float(np.linalg.norm(a.ground.normal - b.ground.normal)) * reach
    shift = float(np.abs(a.ground.height(eyes) - b.ground.height(eyes)).max())
    return max(tilt, shift, abs(a.low - b.low)) > 0.25 * a.low or abs(a.high - b.high) > 0.25 * a.high


_LEAST = 3  # pixels that make an obstacle or a piece of floor
_BIN = 1.5  # pixels per direction in which rays are drawn

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Plan:
    """Cells (H, W) int8 of a lattice through the origin: 1 obstacle, -1 free, 0 unknown.

    ``row``, ``column`` locate cell [0, 0]: it begins at x = column, y = row times the resolution.
    """

    row: int
    column: int
    cells: NDArray[np.int8]


def plan_of(scan: Scan, slab: Slab, resolution: float, max_range: float) -> Plan:
    """The ground plan of one scan, up to ``max_range`` (map units) from its camera.

    A cell is an obstacle if three or more pixels lie in the slab above it. It is free if three
    lie on the ground, and along each direction from where a ray enters the slab to where it
    leaves it, ends, or meets an obstacle. Points are projected onto the ground along its normal.
    """
    points, eye = scan.points(), scan.w_T_c[:3, 3]
    height, eye_height = slab.ground.height(points), float(slab.ground.height(eye))
    # From here on in cells of the plan, whose centre is under the camera; it ends where the farthest point is
    foot, feet, most = slab.ground.drop(eye) / resolution, slab.ground.drop(points) / resolution, max_range / resolution
    distance = np.hypot(*(feet - foot).T)
    reach = int(np.ceil(min(most, distance.max(initial=0.0))))
    corner, size = np.floor(foot) - reach, 2 * reach + 1
    feet, middle = feet - corner, foot - corner
    near = (feet >= 0).all(axis=1) & (feet < size).all(axis=1) & (distance < most)
    cell = np.where(near[:, None], feet, 0).astype(np.int64)
    inside = near & (height >= slab.low) & (height <= slab.high)
    obstacle = _counted(cell[inside], size)
    floor = _counted(cell[near & (np.abs(height) < slab.low)], size)
    solid = inside & obstacle[cell[:, 1], cell[:, 0]]
    first, last = _clear(height, eye_height, distance, slab.high)
    seen = _seen(feet - middle, distance, first, np.minimum(last, most), solid, scan, middle, size)
    cells = np.where(obstacle, 1, np.where(floor | seen, -1, 0)).astype(np.int8)
    return _cropped(Plan(int(corner[1]), int(corner[0]), cells))


def _counted(cells: NDArray[np.int64], size: int) -> Mask:
    """(size, size): which cells occur often enough in ``cells`` (N, 2), x before y."""
    counts = np.bincount(cells[:, 1] * size + cells[:, 0], minlength=size * size)
    return (counts >= _LEAST).reshape(size, size)


def _clear(height: Array, eye: float, distance: Array, top: float) -> tuple[Array, Array]:
    """First and last distances (N,) at which the rays from a height ``eye`` to points (N,) are below ``top``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = (top - eye) / (height - eye) * distance
    below = height <= top
    first = np.where(eye <= top, 0.0, np.where(below, crossing, np.inf))
    last = np.where(below, distance, np.where(eye <= top, crossing, 0.0))
    return first, last


def _seen(
    offset: Array, distance: Array, first: Array, last: Array, solid: Mask, scan: Scan, middle: Array, size: int
) -> Mask:
    """(size, size): cells that rays pass: per direction from the least ``first`` to the ``_third`` ``last`` or a solid.

    Everything in cells: ``offset`` (N, 2) of the points from the camera at ``middle`` (2,).
    """
    bins = max(8, int(2 * np.pi * scan.focal / (_BIN * scan.stride)))

    def direction(x: Array, y: Array) -> NDArray[np.int64]:
        return ((np.arctan2(y, x) / (2 * np.pi) + 0.5) * bins).astype(np.int64) % bins

    ray = direction(offset[:, 0], offset[:, 1])
    useful = last > first
    begin = np.full(bins, np.inf)
    np.minimum.at(begin, ray[useful], first[useful])
    end = _third(ray[useful], last[useful], bins)
    # A ray ends in front of what stops it or its neighbours: a wall seen at a grazing angle continues between pixels
    stop = np.full(bins, np.inf)
    np.minimum.at(stop, ray[solid], distance[solid] - 0.7)
    end = np.minimum.reduce([end, stop, np.roll(stop, 1), np.roll(stop, -1)])
    axis = np.arange(size) + 0.5
    x, y = axis[None, :] - middle[0], axis[:, None] - middle[1]
    its_ray, away = direction(*np.broadcast_arrays(x, y)), np.hypot(x, y)
    return (away >= begin[its_ray]) & (away <= end[its_ray])


def _third(ray: NDArray[np.int64], last: Array, bins: int) -> Array:
    """(bins,): the third largest of ``last`` (N,) per direction, 0 with fewer: one wrong pixel opens no wall."""
    end = np.zeros(bins)
    order = np.lexsort((-last, ray))
    ray, last = ray[order], last[order]
    third = np.flatnonzero(ray[_LEAST - 1 :] == ray[: len(ray) - _LEAST + 1])
    np.maximum.at(end, ray[third], last[third + _LEAST - 1])
    return end


def _cropped(plan: Plan) -> Plan:
    """The plan cropped to its known cells."""
    rows, columns = np.flatnonzero(plan.cells.any(axis=1)), np.flatnonzero(plan.cells.any(axis=0))
    if not len(rows):
        return Plan(plan.row, plan.column, np.zeros((0, 0), np.int8))
    r, c = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return Plan(plan.row + int(rows[0]), plan.column + int(columns[0]), plan.cells[r, c].copy())
