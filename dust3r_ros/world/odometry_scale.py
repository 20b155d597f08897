"""A map's unit of length from odometry: the camera's steps in the map against its steps in metres.

Both sides err: poses of the map scatter about the truth, odometry drifts from step to step. So the
steps are fitted by least squares with errors in both variables; the two kinds of noise are separated
by how residuals grow with the length of a stretch, as in an Allan variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solveh_banded
from scipy.optimize import nnls

from dust3r_ros.types import Array
from dust3r_ros.world.evidence import ScaleEvidence, block_std, weighted_median

_UNTURNED = 0.1  # of the evidence: a rotation that motion does not show is left at zero


@dataclass(frozen=True, eq=False)
class Steps:
    """How cameras moved from one pose to the next: ``mapped`` (N, 3) map units, ``driven`` (N, 3) metres.

    Both in the map's axes, each by its own source's orientation of the camera. ``chained`` (N,): whether
    the step begins where the one before it ended. ``turned_deg``: by how much the odometry's steps had to be
    rotated in the camera frame to lie along the map's.
    """

    mapped: Array
    driven: Array
    chained: np.ndarray
    turned_deg: float = 0.0

    def __len__(self) -> int:
        return len(self.mapped)

    def only(self, keep: np.ndarray) -> Steps:
        """The steps selected by a mask (N,); chains break where one is left out."""
        before = np.concatenate([[False], keep[:-1]])
        return replace(self, mapped=self.mapped[keep], driven=self.driven[keep], chained=(self.chained & before)[keep])

    def thinned(self, most: int) -> Steps:
        """At most about ``most`` steps, by merging neighbours in a chain."""
        size = math.ceil(len(self) / most)
        if size <= 1:
            return self
        chain = np.cumsum(~self.chained)
        starts = np.flatnonzero(~self.chained)
        within = np.arange(len(self)) - starts[chain - 1]
        first = np.flatnonzero(within % size == 0)
        mapped, driven = (np.add.reduceat(part, first, axis=0) for part in (self.mapped, self.driven))
        return replace(self, mapped=mapped, driven=driven, chained=within[first] > 0)


def steps(w_T_c: Array, o_T_c: Array) -> Steps:
    """Steps between neighbouring poses of one camera: ``w_T_c``, ``o_T_c`` (N, 4, 4) by time.

    A constant rotation between odometry's camera frame and the true one (a wrong extrinsic calibration) is
    removed, as far as the motion shows it: it would shorten distances along curves.
    """
    R, R_o = w_T_c[:, :3, :3], o_T_c[:, :3, :3]
    mapped, driven = (np.diff(T[:, :3, 3], axis=0) for T in (w_T_c, o_T_c))
    # Each step in the camera frame, averaged over both of its ends
    local, local_o = (
        0.5 * (np.einsum("nij,ni->nj", A[:-1], step) + np.einsum("nij,ni->nj", A[1:], step))
        for A, step in ((R, mapped), (R_o, driven))
    )
    turn = _turn(local_o, local)
    into = 0.5 * (R[:-1] @ turn @ np.swapaxes(R_o[:-1], 1, 2) + R[1:] @ turn @ np.swapaxes(R_o[1:], 1, 2))
    driven = np.einsum("nij,nj->ni", into, driven)
    cosine = np.clip((np.trace(turn) - 1.0) / 2.0, -1.0, 1.0)
    chained = np.arange(len(mapped)) > 0
    return Steps(mapped, driven, chained, float(np.degrees(np.arccos(cosine))))


def _turn(source: Array, target: Array) -> Array:
    """(3, 3) rotation of steps (N, 3) onto steps (N, 3); no rotation about axes they leave open."""
    norms = [np.linalg.norm(x, axis=1) for x in (source, target)]
    if not (norms[0] * norms[1] > 0).any():
        return np.eye(3)
    # Directions, each weighted by the smaller of its two lengths over their medians: jumps and slip count little
    a, b = (norm / max(float(np.median(norm)), 1e-12) for norm in norms)
    weight = np.minimum(np.minimum(a, b), 2.0) / np.maximum(norms[0] * norms[1], 1e-300)
    covariance = np.einsum("n,ni,nj->ij", weight, target, source)
    covariance += _UNTURNED * np.linalg.norm(covariance) * np.eye(3)
    U, _, Vt = np.linalg.svd(covariance)
    return (U * [1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt


def sums(values: Array, size: int) -> Array:
    """Sums (M, ...) over ``size`` neighbours each; the last takes the remainder."""
    return np.add.reduceat(values, np.arange(0, max(len(values) - size + 1, 1), size), axis=0)


_MOST_STEPS = 400  # more are merged
_FEWEST_STEPS = 8
_ROUNDS = 8
_SETTLED = 0.1  # standard deviations
_ITERATIONS = 6
_START_BLOCKS = 24
_CLEAR, _CLEAR_STEPS = 0.2, 36  # noise as a fraction of the motion; at least so many steps stay
_OUTLIER = 6.0  # standard deviations of a stretch
_DISAGREEING = 0.25  # of the motion in it
_BLOCKS_TO_JUDGE = 8
_BLOCKS_TO_MEASURE = 6
_LENGTHS_TO_SEPARATE = 3
_CHI3_MEDIAN = 1.538  # median norm of three standard normal numbers
_OWN_STD = 0.005  # least relative error of an odometry's own unit
_LEAST_AGREEMENT = 0.5  # of the directions of motion, as a mean cosine
_TURNED_DEG = 8.0
_DIFFERENT_WAYS = "odometry moves in other directions than the camera in the map; it gives no scale"


@dataclass(frozen=True, eq=False)
class _Noise:
    """Variances per axis, metres squared: of odometry's steps (N,), and of the map's positions."""

    driven: Array
    mapped: float


def odometry_scale(given: Steps) -> ScaleEvidence | None:
    """Metres per map unit; None for too few steps or too little motion.

    Stretches that disagree with the rest (slip, an odometry reset, a misplaced frame) are left out.
    """
    all_steps = given.thinned(_MOST_STEPS)
    start = _start(all_steps) if len(all_steps) >= _FEWEST_STEPS else None
    if start is None:
        return None
    if math.isnan(start):
        return ScaleEvidence("odometry", 1.0, math.inf, _DIFFERENT_WAYS)
    scale = start
    all_steps = all_steps.thinned(len(all_steps) // _clear(all_steps, scale))
    keep = np.ones(len(all_steps), dtype=bool)
    for _ in range(_ROUNDS):
        before, keep, first = keep, _agreeing(all_steps, scale), scale
        if keep.sum() < _FEWEST_STEPS:
            return None
        scale, std = _estimate(all_steps.only(keep), scale)
        if not (math.isfinite(scale) and scale > 0):
            return None
        if np.array_equal(before, keep) and abs(math.log(scale / first)) < _SETTLED * std:
            break
    # Another estimator: less precise, but independent of a noise estimate
    std = math.hypot(max(std, abs(math.log(scale / start)) / 3.0), _OWN_STD)
    return ScaleEvidence("odometry", scale, std, _doubt(given.turned_deg, float(keep.mean())))


def _doubt(turned_deg: float, share: float) -> str:
    if share < 0.5:
        return f"odometry and the map disagree over {100 * (1 - share):.0f} % of the way; that part is left out"
    if turned_deg > _TURNED_DEG:
        return (
            f"odometry's motion is rotated by {turned_deg:.0f} deg against the camera's; "
            "the transform from the robot's base to the camera may be wrong"
        )
    return ""


def _start(chosen: Steps) -> float | None:
    """A robust ratio of lengths over stretches as long as their number allows; NaN: the directions disagree."""
    size = max(1, len(chosen) // _START_BLOCKS)
    mapped, driven = (sums(part, size) for part in (chosen.mapped, chosen.driven))
    lengths = np.linalg.norm(mapped, axis=1), np.linalg.norm(driven, axis=1)
    moving = (lengths[0] > 0) & (lengths[1] > 0)
    if np.count_nonzero(moving) < _FEWEST_STEPS:
        return None
    mapped, driven = mapped[moving], driven[moving]
    a, b = (length[moving] for length in lengths)
    # If only one of them moves, there was slip or an error
    weight = np.minimum(a / np.median(a), b / np.median(b))
    along = np.einsum("ni,ni->n", mapped, driven) / b
    if float(weight @ (along / a)) < _LEAST_AGREEMENT * float(weight.sum()):
        return math.nan
    # Map noise, which dominates over short distances, lengthens its steps, but not their parts along the other's
    return 1.0 / max(weighted_median(along / b, weight), 1e-12)


def _clear(given: Steps, scale: float) -> int:
    """How many steps to merge so that motion exceeds noise: a small loss of precision for much less bias."""
    for size in _sizes(len(given), _CLEAR_STEPS):
        driven = np.linalg.norm(sums(given.driven, size), axis=1)
        residual = np.linalg.norm(sums(given.driven - scale * given.mapped, size), axis=1)
        if np.median(residual) < _CLEAR * np.median(driven):
            return size
    return size


def _sizes(count: int, blocks: int) -> list[int]:
    """Lengths of stretches, doubling while there are still ``blocks`` of them."""
    return [2**k for k in range(20) if count // 2**k >= blocks] or [1]


def _agreeing(given: Steps, scale: float) -> np.ndarray:
    """(N,) which steps lie in no stretch that map and odometry disagree about.

    Such a stretch has a residual far beyond that of others of its length and a large part of its own motion: a
    map unit that drifts a little is no reason to leave anything out.
    """
    good = np.ones(len(given), dtype=bool)
    for size in _sizes(len(given), _BLOCKS_TO_JUDGE):
        for shift in sorted({0, size // 2}):
            rest = good[shift:]
            counted = np.where(rest, 1.0, 0.0)[:, None]
            driven, mapped = (sums(counted * part[shift:], size) for part in (given.driven, scale * given.mapped))
            norms, motion = (
                np.linalg.norm(driven - mapped, axis=1),
                np.linalg.norm([driven, mapped], axis=2).max(axis=0),
            )
            some = sums(rest.astype(float), size) > 0
            usual = float(np.median(norms[some])) / _CHI3_MEDIAN if some.any() else 0.0
            bad = (norms > _OUTLIER * usual) & (norms > _DISAGREEING * motion) & (usual > 0)
            good[shift:] &= ~bad[np.minimum(np.arange(len(rest)) // size, len(norms) - 1)]
    return good


def _noise(chosen: Steps, scale: float, separate: bool = True) -> _Noise:
    """Both variances, from the median residual of stretches of doubling length: only odometry's grows with length.

    ``separate=False`` attributes all noise to odometry.
    """
    residual = chosen.driven - scale * chosen.mapped
    length = np.linalg.norm(chosen.driven, axis=1)
    usual = float(np.mean(length)) or 1.0
    growth = 0.5 * (length + usual) / usual  # odometry errs with distance, and a little at rest
    terms, found, weights = [], [], []
    for size in _sizes(len(chosen), _BLOCKS_TO_MEASURE):
        norms = np.linalg.norm(sums(residual, size), axis=1)
        found.append(max(float(np.median(norms)) / _CHI3_MEDIAN, 1e-6 * usual) ** 2)
        ends = 2.0 * sums((~chosen.chained).astype(float), size)
        terms.append([float(np.median(sums(growth, size))), max(2.0, float(np.median(ends)))])
        weights.append(math.sqrt(len(norms)))
    variance, parts = np.array(found), np.array(terms) * [1.0, float(separate)]
    fitted = variance
    for _ in range(3):  # each variance is as uncertain as it is large
        weight = np.array(weights) / fitted
        both, _ = nnls(weight[:, None] * parts, weight * variance)
        fitted = np.maximum(parts @ both, 1e-3 * variance)
    least = (1e-4 * usual) ** 2
    return _Noise(np.maximum(both[0], least) * growth, max(float(both[1]), least))


def _estimate(chosen: Steps, scale: float) -> tuple[float, float]:
    """Scale and relative standard deviation, from a first value."""
    found, std = _fit(chosen, scale, _noise(chosen, scale))
    if len(_sizes(len(chosen), _BLOCKS_TO_MEASURE)) >= _LENGTHS_TO_SEPARATE or not found > 0:
        return found, std
    # Too few steps to separate the noises; the truth lies between the two answers
    other, other_std = _fit(chosen, scale, _noise(chosen, scale, separate=False))
    return math.sqrt(found * other), math.hypot(max(std, other_std), 0.5 * math.log(found / other))


def _fit(chosen: Steps, scale: float, noise: _Noise) -> tuple[float, float]:
    """Scale and its relative standard deviation, with errors of known size in both variables.

    e = driven - s mapped has the covariance C = diag(odometry) + (map), tridiagonal, since neighbouring steps
    share a position of the map. With the true steps x estimated too, x' C^-1 e = 0 (Britt and Luecke,
    Technometrics 1973, for one parameter and linear).
    """
    off = np.where(chosen.chained, -noise.mapped, 0.0)
    banded = np.stack([off, noise.driven + 2.0 * noise.mapped])
    for _ in range(_ITERATIONS):
        residual = chosen.driven - scale * chosen.mapped
        solved = solveh_banded(banded, np.concatenate([residual, chosen.driven, chosen.mapped], axis=1))
        pull, driven, mapped = solved[:, :3], solved[:, 3:6], solved[:, 6:]
        spread = 2.0 * noise.mapped * pull
        spread[1:] += off[1:, None] * pull[:-1]
        spread[:-1] += off[1:, None] * pull[1:]
        true = chosen.mapped + spread / scale  # map noise in metres is s times that in map units
        top, bottom = float(np.sum(true * driven)), float(np.sum(true * mapped))
        if not (bottom > 0 and top > 0):
            return math.nan, math.inf
        before, scale = scale, top / bottom
        if abs(math.log(scale / before)) < 1e-6:
            break
    information = np.einsum("ni,ni->n", true, mapped)
    scores = np.einsum("ni,ni->n", true, pull)
    expected = math.sqrt(1.0 / bottom) / scale
    return scale, max(expected, block_std(scores, np.maximum(information, 0.0)) / scale)
