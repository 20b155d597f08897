"""The parts of a sparse map: landmarks with ids, mergers and positions; views, intrinsics, observations.

The cost of work on the observations of some views does not depend on the size of the map.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from dust3r_ros.geometry.compiled import LIBRARY
from dust3r_ros.geometry.lens import Lens
from dust3r_ros.sparse.bundle_problem import Summing, ranks
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.types import Array

BLOCK, _SPARSE = 4096, 100  # ids per block; times as many numbers as ids: beyond this they are sorted


class Landmarks:
    """Numbers landmarks from 0, holds their positions and records mergers, in which the older id stays."""

    def __init__(self) -> None:
        self._count = 0
        self._table = np.zeros(1024, np.int64)  # both grow by what is missing and a quarter
        self._positions = np.full((1024, 3), np.nan)
        self._barred = np.zeros(0, np.int64)
        self._mergers = 0
        self._removed: dict[int, int] = {}  # by block of ids, the last of the mergers that removed some of it

    def __len__(self) -> int:
        return self._count

    @property
    def positions(self) -> Array:
        """(L, 3) in the map frame, NaN where there is none; a writable view."""
        return self._positions[: self._count]

    @property
    def _alias(self) -> np.ndarray:
        return self._table[: self._count]

    def new(self, count: int) -> np.ndarray:
        """Create ``count`` landmarks without positions; returns their ids."""
        ids = np.arange(self._count, self._count + count)
        self._count += count
        if self._count > len(self._table):
            more = self._count - len(self._table) + len(self._table) // 4  # seldom, and not far beyond what is used
            self._table = np.concatenate([self._table, np.zeros(more, np.int64)])
            self._positions = np.concatenate([self._positions, np.full((more, 3), np.nan)])
        self._table[ids] = ids
        return ids

    def resolved(self, ids: np.ndarray) -> np.ndarray:
        """The current ids of landmarks (K,)."""
        further = self._alias[ids]
        while not np.array_equal(further, ids):
            ids, further = further, self._alias[further]
        return ids

    def bar(self, ids: np.ndarray) -> None:
        """Landmarks (K,) lose their position for good, and so do landmarks merged with them."""
        self._barred = np.concatenate([self._barred, ids])
        self._positions[self.resolved(ids)] = np.nan

    def is_barred(self, ids: np.ndarray) -> np.ndarray:
        """(K,) which landmarks are barred from having a position."""
        if not len(self._barred):
            return np.zeros(len(ids), bool)
        self._barred = np.unique(self.resolved(self._barred))
        return np.isin(self.resolved(ids), self._barred)

    @property
    def barred(self) -> np.ndarray:
        """Ids (K,) of barred landmarks, possibly from before mergers."""
        return self._barred

    def clear_barred(self) -> None:
        """Bar none any more."""
        self._barred = self._barred[:0]

    def aliases(self, merges: int = 0) -> tuple[int, np.ndarray, np.ndarray]:
        """The number of mergers, blocks of ids changed since the first ``merges`` of them, all landmarks' new ids (L,).

        Each id leads one step on; ``restore`` takes them.
        """
        blocks = sorted(block for block, last in self._removed.items() if last > merges)
        return self._mergers, np.array(blocks, np.int64), self._alias

    def restore(self, aliases: np.ndarray) -> None:
        """Fill an empty store from ``aliases`` (L,) of an earlier session; without positions."""
        ids = self.new(len(aliases))
        self._alias[ids] = aliases

    def keep(self, ids: np.ndarray) -> None:
        """Only landmarks ``ids`` (K,), sorted, stay, and get the ids 0 to K - 1; those they are now are among them."""
        barred = np.unique(self.resolved(self._barred))
        self._barred = np.searchsorted(ids, barred[np.isin(barred, ids)])
        self._table = np.searchsorted(ids, self.resolved(ids))
        self._positions = self._positions[ids]
        self._count, self._removed = len(ids), {}

    def merge(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Merge landmarks ``a`` (K,) with ``b`` (K,), pairwise; returns the removed ids, sorted.

        A remaining landmark without a position takes that of a removed one.
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
        self._mergers += 1
        self._removed |= dict.fromkeys(np.unique(gone // BLOCK).tolist(), self._mergers)
        placed = np.isfinite(self._positions[gone, 0])
        gives, takes = gone[placed][::-1], kept[placed][::-1]  # of several, the oldest with a position gives it
        lacking = np.isnan(self._positions[takes, 0])
        self._positions[takes[lacking]] = self._positions[gives[lacking]]
        self._positions[gone] = np.nan
        self._positions[self.resolved(self._barred)] = np.nan
        return gone


@dataclass(eq=False)
class SparseView:
    """One keyframe: its pose, which focal it uses, and what it sees (offsets from the image centre)."""

    camera: int
    w_T_c: Array | None
    seen: Tracks
    pruned: Tracks = field(default_factory=no_tracks)  # observations that did not fit; a better focal may fit them
    first_id: int = 0  # landmarks created before this view have smaller ids

    @property
    def pose(self) -> Array:
        """``w_T_c`` (4, 4) of a view that has one."""
        assert self.w_T_c is not None, "only views with a pose are asked for it"
        return self.w_T_c


_CONTRADICTED = 0.02  # on average, at most, in maps that are right
_WRONG, _MOST_ODD = 0.15, 30.0  # on average, in maps that are wrong; a logarithm
_CAUTION = 1.7  # images count as few measurements: deviations are so many times the errors (`make calibration`)
# Of a focal: no lens is quite as models of it are; another map may learn better than one that seems to know.
_LEAST_STD, _LEAST_HANDED_ON = 0.002, 0.005
# Standard deviations for webcams, phones and depth cameras: of the log focal; of the radial terms, in tangents of the
# angle off the axis (wide lenses bend more); of the center, in units of half the long edge.
FOCAL_PRIOR, CENTER_PRIOR, _RADIAL_PRIOR, _SECOND_PRIOR, _THIRD_PRIOR = 0.35, 0.02, 0.065, 0.01, 0.002
TAIL = math.sqrt(0.5)  # as of Cauchy's distribution: weighted like a normal one, its deviation grows so with the value


@dataclass(eq=False)
class Intrinsics:
    """The ``focal`` of a camera, pixels of the tracked images, its prior and standard deviation (relative); its lens.

    ``std`` comes from the observations, with the lens free, and is cautious; ``rival``: another focal that explained
    them as well, its weight, and the own one then. ``contradicted``: the mean share of what keyframes see that
    contradicts the map. ``lens`` is plain until it is known. ``prior_std`` is that of the prior (of the log focal),
    infinite for a mere guess; ``guess_std`` that of a network's or another map's guess, infinite for the usual one.
    ``measured``: a given focal as the images alone say (value, relative std), if they do. ``center_prior``: deviation
    of the lens's center, radii. ``rolling``: seconds from pixel to pixel, across and down, in which an image is read
    out; ``rolling_std``, ``zoom_std``: from not knowing that, or zooms. ``known``: std and lens before the map.
    ``focal_only``: the lens was not given, and is estimated though the focal may be held. Where it is sure, ``zoom``:
    deviation of the log of a focal that changes, ``squeeze``: by how much (log) pixels are wider than high.
    """

    focal: float
    prior: float
    std: float = float("inf")
    fixed: bool = False
    rival: tuple[float, float, float] = (1.0, 0.0, 1.0)
    lens: Lens = field(default_factory=lambda: Lens(320.0))
    prior_std: float = float("inf")
    measured: tuple[float, float] | None = None
    guess_std: float = float("inf")
    contradicted: float = 0.0
    center_prior: float = CENTER_PRIOR
    rolling: tuple[float, float] = (0.0, 0.0)
    rolling_std: float = 0.0
    zoom_std: float = 0.0
    known: tuple[float, Lens] | None = None
    focal_only: bool = False
    zoom: float = 0.0
    squeeze: float = 0.0

    def handed_on(self) -> Intrinsics:
        """What another map begins with: it knows the focal as well as this one does."""
        new = replace(self, known=(self.std, self.lens))
        if not self.given:
            new.prior, new.guess_std = self.focal, min(self.guess_std, max(self.total_std, _LEAST_HANDED_ON))
        return new

    def forgotten(self) -> Intrinsics:
        """As before the map, without anything that it estimated."""
        std, lens = self.known or (math.inf, Lens(self.lens.radius))
        std, lens = self.std if self.fixed else std, self.lens if self.lens_known else lens
        return replace(
            self, focal=self.prior, std=std, lens=lens, rival=(1.0, 0.0, 1.0), measured=None, contradicted=0.0
        )

    @property
    def given(self) -> bool:
        """Whether the focal was given: it is held, or has a finite prior."""
        return self.fixed or math.isfinite(self.prior_std)

    @property
    def lens_known(self) -> bool:
        """Whether the lens is not estimated: images are without distortion where a calibration was given."""
        return self.given and not self.focal_only

    @property
    def lens_prior(self) -> tuple[float, float, float, float, float]:
        """Standard deviations of the lens's radial terms at its radius, and of its center (x, y) in radii.

        Few lenses are unusual, but those are very much so (cropped images, wide angles): it widens as one is found.
        """
        lens, wide = self.lens, (self.lens.radius / self.focal) ** 2
        radial = math.hypot(_RADIAL_PRIOR * wide, TAIL * lens.radial)
        second = math.hypot(_SECOND_PRIOR * wide**2, TAIL * lens.second, TAIL * lens.radial)
        third = math.hypot(_THIRD_PRIOR * wide**3, TAIL * lens.third, TAIL * lens.second)
        x, y = (math.hypot(self.center_prior, TAIL * shift / lens.radius) for shift in lens.center)
        return radial, second, third, x, y

    @property
    def total_std(self) -> float:
        """Relative standard deviation, from all causes, 0 if the focal is held; its variance grows with doubt."""
        if self.fixed or not math.isfinite(self.std):
            return 0.0 if self.fixed else math.inf
        given = min(self.prior_std, self.guess_std, FOCAL_PRIOR) ** -2.0  # not cautious, unlike what was seen beyond it
        std = (given + max(max(self.std, 1e-9) ** -2.0 - given, 0.0) * _CAUTION**2) ** -0.5
        doubt = math.sqrt(max(1.0, self.contradicted / _CONTRADICTED))
        away, went = (abs(math.log(focal / self.rival[2])) for focal in (self.rival[0], self.focal))
        rival = self.rival[1] * away if 3 * went < 2 * away else 0.0
        std = math.hypot(std, math.hypot(self.rolling_std, self.zoom_std) / _CAUTION, rival)
        return math.hypot(_LEAST_STD, doubt * std, self.zoom, 0.5 * self.squeeze, self._odd_std)

    @property
    def _odd_std(self) -> float:
        """Wrong maps have focals of any length: this is likelier one, the more contradicts it and the odder it is."""
        if math.isfinite(min(self.prior_std, self.guess_std)):
            return 0.0
        away = abs(math.log(self.focal / self.prior))
        beyond = max(away**2 - (2.0 * FOCAL_PRIOR) ** 2, 0.0)
        less_usual = math.expm1(min(0.5 * beyond * (FOCAL_PRIOR**-2.0 - 1.0), _MOST_ODD))
        odds = min(self.contradicted / _WRONG, 1.0) ** 4 * less_usual
        return away * math.sqrt(odds / (1.0 + odds))


def observations_of(
    views: Sequence[SparseView], chosen: Collection[int], ids: np.ndarray, pruned: bool = False
) -> tuple[np.ndarray, np.ndarray, Array]:
    """Every observation of landmarks ``ids`` (K,), sorted, from ``chosen`` views: (view, index into ids, offset).

    Only of landmarks seen at least twice; ``pruned``: including pruned observations.
    """
    tracks = _tracks(views, chosen, pruned)
    if not tracks or not len(ids):
        return np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2))
    seen = np.concatenate([t.ids for _, t in tracks]) - ids[0]
    row = np.full(int(ids[-1] - ids[0]) + 2, -1)  # the last is for landmarks outside this range
    row[ids - ids[0]] = np.arange(len(ids))
    point = row[np.where((seen >= 0) & (seen < len(row)), seen, -1)]
    point[np.bincount(point + 1, minlength=len(ids) + 1)[point + 1] < 2] = -1
    hit = np.flatnonzero(point >= 0)
    view = np.repeat([v for v, _ in tracks], [len(t.ids) for _, t in tracks])
    return view[hit], point[hit], np.concatenate([t.pixels for _, t in tracks])[hit]


def _tracks(views: Sequence[SparseView], chosen: Collection[int], pruned: bool) -> list[tuple[int, Tracks]]:
    """(view, its tracks) of ``chosen`` views, without those that see nothing."""
    return [(v, t) for v in chosen for t in (views[v].seen, views[v].pruned)[: 2 if pruned else 1] if len(t.ids)]


def different(ids: Sequence[np.ndarray]) -> np.ndarray:
    """The unique landmark ids of (K,), sorted; faster than sorting if they are close together."""
    every = np.concatenate(ids) if len(ids) else np.zeros(0, np.int64)
    if not len(every):
        return every
    first, last = int(every.min()), int(every.max())
    if last - first > _SPARSE * len(every):
        return np.unique(every)
    present = np.zeros(last - first + 1, bool)
    present[every - first] = True
    return np.flatnonzero(present) + first


def pinhole_offsets(
    views: Sequence[SparseView], intrinsics: Sequence[Intrinsics], view: np.ndarray, offset: Array
) -> Array:
    """(M, 2) observations, ``view`` (M,) and ``offset`` (M, 2), as seen by cameras without distortion."""
    return _by_lens(views, intrinsics, view, offset, Lens.ideal)


def _by_lens(
    views: Sequence[SparseView],
    intrinsics: Sequence[Intrinsics],
    view: np.ndarray,
    offset: Array,
    change: Callable[[Lens, Array], Array],
) -> Array:
    """(M, 2) offsets in views (M,), changed by their lens where it is not plain."""
    bent = [index for index, of_camera in enumerate(intrinsics) if not of_camera.lens.plain]
    if not bent:
        return offset
    camera, changed = np.array([entry.camera for entry in views])[view], offset.copy()
    for index in bent:
        mine = camera == index
        changed[mine] = change(intrinsics[index].lens, offset[mine])
    return changed


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
    """Distance (M,), pixels, of observations from positions (M, 3) in w; inf behind the camera or without a position.

    In pixels of the image, with lens distortion.
    """
    with np.errstate(invalid="ignore"):
        errors = np.linalg.norm(projections(views, intrinsics, view, points) - offset, axis=1)
    return np.where(np.isfinite(errors), errors, np.inf)


def projections(
    views: Sequence[SparseView], intrinsics: Sequence[Intrinsics], view: np.ndarray, points: Array
) -> Array:
    """Offsets (M, 2) at which posed ``view`` (M,) show positions (M, 3) in w; NaN behind the camera."""
    rotation, center, focal = _cameras(views, intrinsics, view)
    X = np.einsum("jim,jm->im", rotation, points.T - center)
    z = np.where(X[2] > 0, X[2], np.nan)
    with np.errstate(invalid="ignore"):
        return _by_lens(views, intrinsics, view, (focal * X[:2] / z).T, Lens.seen)


_ROUNDS = 4
_LEAST_DEG = 1e-3  # between rays that meet


def widest_angle(directions: Array, group: np.ndarray, count: int) -> Array:
    """(count,) degrees between the first of each group's unit directions (M, 3) and the one that differs most."""
    if LIBRARY is not None:
        return _triangulated_at_once(LIBRARY, directions, directions, group, count, 1.0, 0)[1]
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

    ``centers`` (M, 3) and unit ``directions`` (M, 3), both in w, belong to point ``group`` (M,) of ``count``; ``noise``
    is the rays' angular error (radians). Returns points (count, 3), NaN where the rays determine none, and angles
    (count,) in degrees: the angle between a point's first ray and the one that differs most from it. Least squares of
    the distances to the rays, reweighted so that a ray that misses by much more than the noise hardly counts.
    """
    rounds = _ROUNDS if (np.bincount(group, minlength=count) > 2).any() else 1
    if LIBRARY is None:
        return _triangulated(centers, directions, group, count, noise, rounds)
    return _triangulated_at_once(LIBRARY, centers, directions, group, count, noise, rounds)


def _triangulated_at_once(
    library: ctypes.CDLL, centers: Array, directions: Array, group: np.ndarray, count: int, noise: float, rounds: int
) -> tuple[Array, Array]:
    """``triangulate`` by the compiled loops, several times as fast; no points with no ``rounds``."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(count + 1))
    c, d = (np.ascontiguousarray(part, np.float64) for part in (centers, directions))
    points, cosines = np.empty((count, 3)), np.empty(count)
    limits = *map(ctypes.c_double, (noise, np.cos(np.radians(_LEAST_DEG)))), ctypes.c_long(rounds)
    arrays = (part.ctypes for part in (starts, order, c, d))
    library.triangulate(ctypes.c_long(count), *arrays, *limits, points.ctypes, cosines.ctypes)
    return points, np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))


def _triangulated(
    centers: Array, directions: Array, group: np.ndarray, count: int, noise: float, rounds: int
) -> tuple[Array, Array]:
    angles = widest_angle(directions, group, count)
    rays = Summing(group, count)
    d, c = np.ascontiguousarray(directions.T), np.ascontiguousarray(centers.T)
    across = np.eye(3)[:, :, None] - d[:, None] * d  # removes the component along a ray
    # Sums over a point's rays of the matrix and right side of its equations: (12, M).
    terms = np.concatenate([across.reshape(9, -1), c - d * np.einsum("im,im->m", d, c)])
    terms *= (angles > _LEAST_DEG)[group]
    weight, points = np.ones(len(group)), np.full((3, count), np.nan)
    for _ in range(rounds):
        sums = rays.sums(weight * terms)
        _solve_symmetric(sums[:9].reshape(3, 3, -1), sums[9:], points)
        offset = np.take(points, group, axis=1) - c
        far = np.maximum(np.einsum("im,im->m", offset, offset), 1e-12)
        miss = np.einsum("ijm,jm->im", across, offset)
        # A ray's distance to the point is divided by its length, because the measurement is an angle.
        weight = 1.0 / (far + np.einsum("im,im->m", miss, miss) / noise**2)
        weight = np.where(np.isfinite(weight), weight, 0.0)
        weight /= np.maximum(rays.sums(weight), 1e-300)[group]
    return points.T.copy(), angles


def _solve_symmetric(A: Array, b: Array, x: Array) -> None:
    """Solve A x = b for x (3, P) with symmetric A (3, 3, P), by cofactors; x is unchanged where A is singular."""
    inverse = np.empty_like(A)
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        (k, m), (n, o) = (((i + 1) % 3, (i + 2) % 3), ((j + 1) % 3, (j + 2) % 3))
        inverse[i, j] = inverse[j, i] = A[k, n] * A[m, o] - A[k, o] * A[m, n]
    determinant = np.einsum("ip,ip->p", A[0], inverse[0])
    good = determinant > 1e-18
    x[:, good] = np.einsum("ijp,jp->ip", inverse, b)[:, good] / determinant[good]
