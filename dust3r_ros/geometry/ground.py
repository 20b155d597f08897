"""The ground under the cameras: the lowest plane with many of the points they see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from dust3r_ros.errors import GeometryError
from dust3r_ros.types import Array

_TRIALS = 400
_MAX_TILT_DEG = 35.0  # from level: the first camera, which defines up when nothing else does, may be tilted
_TOLERANCE = 0.02  # of the median distance camera to point
_BELOW = 0.03  # of the points may lie below the ground: mirrors, bad depth
_LEAST = 0.04  # of the points must lie on it
_NEIGHBOURS = 48
_UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, eq=False)
class Ground:
    """Plane ``normal . x + offset = 0`` in the map frame, ``normal`` (3,) of length 1, up; map units."""

    normal: Array
    offset: float

    def height(self, points: Array) -> Array:
        """Height (...,) of points (..., 3) above the plane."""
        return points @ self.normal + self.offset

    @property
    def tilt_deg(self) -> float:
        """Angle between the plane and level, degrees."""
        return float(np.degrees(np.arccos(np.clip(self.normal[2], -1.0, 1.0))))

    def drop(self, points: Array) -> Array:
        """x and y (..., 2) of points (..., 3) projected onto the plane along its normal.

        Up the slope of a tilted plane, lengths in x and y are shorter than on it, by the cosine of ``tilt_deg``.
        """
        return (points - self.height(points)[..., None] * self.normal)[..., :2]


def level_ground(centers: Array, camera_height: float) -> Ground:
    """The horizontal plane that lies ``camera_height`` below the median of the camera centres (N, 3)."""
    if not (np.isfinite(camera_height) and camera_height > 0):
        raise GeometryError(f"camera height is {camera_height}; it must be a positive length in map units")
    if len(centers) == 0:
        raise GeometryError("the ground cannot be found from 0 cameras; at least one is needed")
    return Ground(_UP, camera_height - float(np.median(centers[:, 2])))


def find_ground(points: Array, centers: Array) -> Ground:
    """The ground of ``points`` (N, 3), each seen from its camera ``centers`` (N, 3), both in a z-up frame.

    Candidates are planes up to 35 degrees from level through three nearby points (RANSAC; Fischler and Bolles, 1981).
    Of those with almost no points (3 %) below and the cameras above, the one with most points on it is the ground: a
    table has the floor below it. It is then fitted to its points. If no such plane has 4 % of the points, the ground
    is parallel to the widest plane, else level, and has 3 % of the points below it. Deterministic. Raises
    ``GeometryError`` for fewer than 20 finite points.
    """
    finite = np.isfinite(points).all(axis=1) & np.isfinite(centers).all(axis=1)
    points, centers = np.asarray(points[finite], np.float64), np.asarray(centers[finite], np.float64)
    if len(points) < 20:
        raise GeometryError(f"the ground cannot be found from {len(points)} points; at least 20 are needed")
    tolerance = _TOLERANCE * float(np.median(np.linalg.norm(points - centers, axis=1)))
    lowest: Ground | None = None
    widest: Ground | None = None
    most = carried_most = _LEAST * len(points)
    for normal, offset in zip(*_planes(points, np.random.default_rng(0)), strict=True):
        height = points @ normal + offset
        carried = float(np.count_nonzero(np.abs(height) < tolerance))
        if carried <= most or np.median(centers @ normal + offset) < tolerance:
            continue
        if carried > carried_most:
            widest, carried_most = Ground(normal, float(offset)), carried
        if np.count_nonzero(height < -tolerance) <= _BELOW * len(points):
            lowest, most = Ground(normal, float(offset)), carried
    if lowest is not None:
        return _fitted(lowest, points, tolerance)
    level = Ground(_UP, 0.0) if widest is None else _fitted(widest, points, tolerance)
    return Ground(level.normal, -float(np.quantile(points @ level.normal, _BELOW)))


def _planes(points: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Normals (K, 3), up, and offsets (K,) of nearly level planes, each through a point and two of its neighbours."""
    chosen = points[rng.permutation(len(points))[:4000]]
    tree = cKDTree(chosen)
    first = rng.integers(len(chosen), size=_TRIALS)
    # Half of the triples are close, as a small floor needs; half are wide, which fixes the tilt better
    near = tree.query(chosen[first], k=min(_NEIGHBOURS, len(chosen)))[1]
    pick = rng.integers(1, near.shape[1], size=(_TRIALS, 2))
    others = np.take_along_axis(near, pick, axis=1)
    wide = np.arange(_TRIALS) % 2 == 1
    others[wide] = rng.integers(len(chosen), size=(int(wide.sum()), 2))
    a, b, c = chosen[first], chosen[others[:, 0]], chosen[others[:, 1]]
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1)
    keep = length > 1e-12
    normal = normal[keep] / length[keep, None]
    normal *= np.where(normal[:, 2:] < 0, -1.0, 1.0)
    offset = -np.einsum("ij,ij->i", normal, a[keep])
    level = normal[:, 2] > np.cos(np.radians(_MAX_TILT_DEG))
    return normal[level], offset[level]


def _fitted(ground: Ground, points: Array, tolerance: float) -> Ground:
    """The least-squares plane through the points on ``ground``, refitted as the tolerance shrinks to their spread."""
    least = 0.2 * tolerance
    for _ in range(8):
        height = ground.height(points)
        carried = points[np.abs(height) < tolerance]
        if len(carried) < 3:
            break
        middle = carried.mean(axis=0)
        normal = np.linalg.svd(carried - middle, full_matrices=False)[2][2]
        normal = normal if normal[2] > 0 else -normal
        if normal[2] <= np.cos(np.radians(_MAX_TILT_DEG)):
            break
        ground = Ground(normal, -float(normal @ middle))
        spread = 1.4826 * float(np.median(np.abs(ground.height(carried))))
        tolerance = float(np.clip(3 * spread, least, tolerance))
    return ground
