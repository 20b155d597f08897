"""What a sparse map is made of: landmarks with their ids, mergers and positions; views, intrinsics, observations.

What is done for the observations of some views costs what those have to say, however many there are in the map.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.sparse.bundle_problem import Summing
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.types import Array

BLOCK = 4096  # ids that are written at once


class Landmarks:
    """Numbers landmarks from 0, keeps their positions and remembers mergers: of two ids the older stays."""

    def __init__(self) -> None:
        self._count = 0
        self._table = np.zeros(1024, np.int64)  # both grow by doubling
        self._positions = np.full((1024, 3), np.nan)
        self._barred = np.zeros(0, np.int64)
        self._merges: list[np.ndarray] = []  # blocks of ids from which each merger so far took some away

    def __len__(self) -> int:
        return self._count

    @property
    def positions(self) -> Array:
        """(L, 3) in the map frame, NaN where there is none; a view that may be written to."""
        return self._positions[: self._count]

    @property
    def _alias(self) -> np.ndarray:
        return self._table[: self._count]

    def new(self, count: int) -> np.ndarray:
        """The next ``count`` ids, without positions."""
        ids = np.arange(self._count, self._count + count)
        self._count += count
        if self._count > len(self._table):
            more = self._count + len(self._table)
            self._table = np.concatenate([self._table, np.zeros(more, np.int64)])
            self._positions = np.concatenate([self._positions, np.full((more, 3), np.nan)])
        self._table[ids] = ids
        return ids

    def resolved(self, ids: np.ndarray) -> np.ndarray:
        """The ids that landmarks (K,) have now."""
        further = self._alias[ids]
        while not np.array_equal(further, ids):
            ids, further = further, self._alias[further]
        return ids

    def bar(self, ids: np.ndarray) -> None:
        """Landmarks (K,) lose their position for good, and so does what turns out to be the same."""
        self._barred = np.concatenate([self._barred, ids])
        self._positions[self.resolved(ids)] = np.nan

    def is_barred(self, ids: np.ndarray) -> np.ndarray:
        """(K,) which landmarks may have no position."""
        if not len(self._barred):
            return np.zeros(len(ids), bool)
        self._barred = np.unique(self.resolved(self._barred))
        return np.isin(self.resolved(ids), self._barred)

    @property
    def barred(self) -> np.ndarray:
        """Ids (K,) of those that may have no position, perhaps by older names."""
        return self._barred

    def pardon(self) -> None:
        """Nothing is barred any more."""
        self._barred = self._barred[:0]

    def aliases(self, merges: int = 0) -> tuple[int, np.ndarray, np.ndarray]:
        """Mergers so far, blocks of ids that changed since ``merges`` of them, what every landmark became (L,).

        Each one step on; by these ``restore`` brings them back.
        """
        blocks = np.unique(np.concatenate([np.zeros(0, np.int64), *self._merges[merges:]]))
        return len(self._merges), blocks, self._alias

    def restore(self, aliases: np.ndarray) -> None:
        """Landmarks in place of none, as ``aliases`` (L,) of another session says; without positions."""
        ids = self.new(len(aliases))
        self._alias[ids] = aliases

    def merge(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Landmarks ``a`` (K,) and ``b`` (K,) are the same, each; returns the ids that are gone by it, sorted.

        One that stays without a position takes that of one that goes.
        """
        a, b = self.resolved(a), self.resolved(b)
        differ = a != b
        ids, ends = np.unique(np.concatenate([a[differ], b[differ]]), return_inverse=True)
        if len(ids) == 0:
            return ids
        links = csr_array((np.ones(len(ends) // 2), tuple(ends.reshape(2, -1))), shape=(len(ids), len(ids)))
        _, part = connected_components(links, directed=False)
        oldest = ids[np.unique(part, return_index=True)[1]]  # ids are sorted, so the first is the oldest
        kept = oldest[part]
        gone, kept = ids[kept != ids], kept[kept != ids]
        self._alias[gone] = kept
        self._merges.append(np.unique(gone // BLOCK))
        placed = np.isfinite(self._positions[gone, 0])
        gives, takes = gone[placed][::-1], kept[placed][::-1]  # of several, the oldest gives its position
        lacking = np.isnan(self._positions[takes, 0])
        self._positions[takes[lacking]] = self._positions[gives[lacking]]
        self._positions[gone] = np.nan
        return gone


@dataclass(eq=False)
class SparseView:
    """One keyframe: its pose, which focal it uses, and what it sees (offsets from the image's middle)."""

    camera: int
    w_T_c: Array | None
    seen: Tracks
    pruned: Tracks = field(default_factory=no_tracks)  # observations that did not fit; a better focal may fit them
    first_id: int = 0  # landmarks made before this view have smaller ids


@dataclass(eq=False)
class Intrinsics:
    """The ``focal`` of a camera, pixels of the tracked images, its prior and standard deviation (relative); its lens.

    ``std`` is what the scatter of the observations leaves open, ``lens_std`` what a distortion that nobody models does.
    ``lens`` is what the camera does beside scaling, plain as long as nothing is known of it.
    ``prior_std`` is how sure the prior is (of the log focal), infinite for one that is a mere guess; ``measured``
    is what the images alone say of a focal that was given (value, relative std), None as long as they say nothing.
    """

    focal: float
    prior: float
    std: float = float("inf")
    fixed: bool = False
    lens_std: float = 0.0
    lens: Lens = field(default_factory=lambda: Lens(320.0))
    prior_std: float = float("inf")
    measured: tuple[float, float] | None = None

    @property
    def given(self) -> bool:
        """Whether somebody measured it: it is held, or it has a prior that counts."""
        return self.fixed or math.isfinite(self.prior_std)

    @property
    def total_std(self) -> float:
        """Relative standard deviation from all known causes."""
        return math.hypot(self.std, self.lens_std)


_SPARSE = 100  # times as many numbers as ids: then they are sorted


def observations_of(
    views: Sequence[SparseView], chosen: Collection[int], ids: np.ndarray, pruned: bool = False
) -> tuple[np.ndarray, np.ndarray, Array]:
    """Every observation of landmarks ``ids`` (K,), sorted, from ``chosen`` views: (view, index into ids, offset).

    Only of landmarks seen twice; ``pruned``: with the observations that were set aside.
    """
    tracks = _tracks(views, chosen, pruned)
    if not tracks or not len(ids):
        return np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2))
    seen = np.concatenate([t.ids for _, t in tracks]) - ids[0]
    row = np.full(int(ids[-1] - ids[0]) + 2, -1)  # the last is for landmarks out of this range
    row[ids - ids[0]] = np.arange(len(ids))
    point = row[np.where((seen >= 0) & (seen < len(row)), seen, -1)]
    point[np.bincount(point + 1, minlength=len(ids) + 1)[point + 1] < 2] = -1
    hit = np.flatnonzero(point >= 0)
    view = np.repeat([v for v, _ in tracks], [len(t.ids) for _, t in tracks])
    return view[hit], point[hit], np.concatenate([t.pixels for _, t in tracks])[hit]


def _tracks(views: Sequence[SparseView], chosen: Collection[int], pruned: bool) -> list[tuple[int, Tracks]]:
    """(view, what it sees) of ``chosen`` views, without those that see nothing."""
    return [(v, t) for v in chosen for t in (views[v].seen, views[v].pruned)[: 2 if pruned else 1] if len(t.ids)]


def different(ids: Sequence[np.ndarray]) -> np.ndarray:
    """The different ones of landmark ids (K,), sorted; quicker than sorting them where they are near each other."""
    every = np.concatenate(ids) if len(ids) else np.zeros(0, np.int64)
    if not len(every):
        return every
    first, last = int(every.min()), int(every.max())
    if last - first > _SPARSE * len(every):
        return np.unique(every)
    present = np.zeros(last - first + 1, bool)
    present[every - first] = True
    return np.flatnonzero(present) + first


def ranks(index: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The different values of ``index`` (M,), all below ``size``, in order, and which of them each is."""
    used = np.bincount(index, minlength=size) > 0
    return np.flatnonzero(used), (np.cumsum(used) - 1)[index]


def pinhole_offsets(
    views: Sequence[SparseView], intrinsics: Sequence[Intrinsics], view: np.ndarray, offset: Array
) -> Array:
    """(M, 2) where cameras without lenses that bend would see observations: ``view`` (M,), ``offset`` (M, 2)."""
    bent = [index for index, of_camera in enumerate(intrinsics) if not of_camera.lens.plain]
    if not bent:
        return offset
    camera, ideal = np.array([entry.camera for entry in views])[view], offset.copy()
    for index in bent:
        mine = camera == index
        ideal[mine] = intrinsics[index].lens.ideal(offset[mine])
    return ideal


def _cameras(
    views: Sequence[SparseView], intrinsics: Sequence[Intrinsics], view: np.ndarray
) -> tuple[Array, Array, Array]:
    """Rotation to w (3, 3, M), center (3, M) and focal (M,) of the view of each observation."""
    used, which = ranks(view, len(views))
    if not len(used):
        return np.zeros((3, 3, 0)), np.zeros((3, 0)), np.zeros(0)
    w_T_c = np.stack([views[v].w_T_c for v in used])
    focal = np.array([intrinsics[views[v].camera].focal for v in used])
    rows = np.take(w_T_c[:, :3].transpose(1, 2, 0), which, axis=2)
    return rows[:, :3], rows[:, 3], focal[which]


def viewing_rays(
    views: Sequence[SparseView], intrinsics: Sequence[Intrinsics], view: np.ndarray, offset: Array
) -> tuple[Array, Array]:
    """Unit directions (M, 3) and centers (M, 3), in w, of observations: posed ``view`` (M,), ``offset`` (M, 2), px."""
    rotation, center, focal = _cameras(views, intrinsics, view)
    x, y = pinhole_offsets(views, intrinsics, view, offset).T / focal
    directions = rotation[:, 0] * x + rotation[:, 1] * y + rotation[:, 2]
    directions /= np.sqrt(1.0 + x * x + y * y)
    return np.ascontiguousarray(directions.T), np.ascontiguousarray(center.T)


def reprojection_errors(
    views: Sequence[SparseView], intrinsics: Sequence[Intrinsics], view: np.ndarray, points: Array, offset: Array
) -> Array:
    """Pixels (M,) between observations and positions (M, 3) in w; inf behind the camera or without a position.

    Pixels of the pinhole: of an image that the lens did not bend.
    """
    rotation, center, focal = _cameras(views, intrinsics, view)
    X = np.einsum("jim,jm->im", rotation, points.T - center)
    z = np.where(X[2] > 0, X[2], np.nan)
    ideal = pinhole_offsets(views, intrinsics, view, offset)
    with np.errstate(invalid="ignore"):
        errors = np.linalg.norm(focal * X[:2] / z - ideal.T, axis=0)
    return np.where(np.isfinite(errors), errors, np.inf)


_ROUNDS = 4


def widest_angle(directions: Array, group: np.ndarray, count: int) -> Array:
    """(count,) degrees between the first of each group's unit directions (M, 3) and the one that differs most."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(count))
    nonempty = np.append(starts[1:], len(group)) > starts
    cosine = np.ones(count)
    if nonempty.any():
        first = order[np.minimum(starts, len(group) - 1)][group]
        apart = np.einsum("mi,mi->m", directions, directions[first])
        cosine[nonempty] = np.minimum.reduceat(apart[order], starts[nonempty])
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def triangulate(centers: Array, directions: Array, group: np.ndarray, count: int, noise: float) -> tuple[Array, Array]:
    """Points nearest to their rays, and the widest angle at which their rays meet.

    ``centers`` (M, 3) and unit ``directions`` (M, 3), both in w, belong to point ``group`` (M,) of
    ``count``; ``noise`` is the rays' angular error (radians). Returns points (count, 3), NaN where
    the rays say nothing, and angles (count,) in degrees: the angle between a point's first ray and
    the one that differs most from it. Least squares of the distances to the rays, re-weighted so
    that a ray that misses by much more than the noise (a wrong match) hardly pulls.
    """
    angles = widest_angle(directions, group, count)
    rays = Summing(group, count)
    d, c = np.ascontiguousarray(directions.T), np.ascontiguousarray(centers.T)
    across = np.eye(3)[:, :, None] - d[:, None] * d  # takes what is along a ray away
    # Sums over a point's rays of what fixes it and of where that puts it: (12, M).
    terms = np.concatenate([across.reshape(9, -1), c - d * np.einsum("im,im->m", d, c)])
    terms *= (angles > 1e-3)[group]
    weight = np.ones(len(group))
    points = np.full((3, count), np.nan)
    for _ in range(_ROUNDS if (np.bincount(group, minlength=count) > 2).any() else 1):
        sums = rays.sums(weight * terms)
        _solve_symmetric(sums[:9].reshape(3, 3, -1), sums[9:], points)
        offset = np.take(points, group, axis=1) - c
        far = np.maximum(np.einsum("im,im->m", offset, offset), 1e-12)
        miss = np.einsum("ijm,jm->im", across, offset)
        # A ray's distance to the point weighs by its length: what is measured is an angle.
        weight = 1.0 / (far + np.einsum("im,im->m", miss, miss) / noise**2)
        weight = np.where(np.isfinite(weight), weight, 0.0)
        weight /= np.maximum(rays.sums(weight), 1e-300)[group]
    return points.T.copy(), angles


def _solve_symmetric(A: Array, b: Array, x: Array) -> None:
    """x (3, P) with A x = b of symmetric A (3, 3, P), by cofactors; left as it is where A is singular."""
    inverse = np.empty_like(A)
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        (k, m), (n, o) = (((i + 1) % 3, (i + 2) % 3), ((j + 1) % 3, (j + 2) % 3))
        inverse[i, j] = inverse[j, i] = A[k, n] * A[m, o] - A[k, o] * A[m, n]
    determinant = np.einsum("ip,ip->p", A[0], inverse[0])
    good = determinant > 1e-18
    x[:, good] = np.einsum("ijp,jp->ip", inverse, b)[:, good] / determinant[good]
