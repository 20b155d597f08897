"""Multi-view relative pose of a few views: by PnP of pairs or by global alignment; RRA, RTA and mAA."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from dust3r_ros.backends.base import Backend
from dust3r_ros.errors import ConfigError, GeometryError, InputError
from dust3r_ros.evaluation.datasets.recording import Recording
from dust3r_ros.evaluation.protocols import rows
from dust3r_ros.evaluation.protocols.cost import Cost
from dust3r_ros.evaluation.protocols.predictor import Predictor, aligned_parts, own_focals, pose_by_pnp
from dust3r_ros.evaluation.protocols.recordings import WorkingView, select
from dust3r_ros.evaluation.protocols.rows import Row, guarded, row
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, PairPrediction

FAILED_DEG = 180.0  # error of a pair without an estimate


@dataclass(frozen=True)
class PairAccuracy:
    """Percent of pairs: ``rra`` and ``rta`` within the threshold, ``maa`` the mean over 1, 2, ... degrees."""

    rra: float
    rta: float
    maa: float


def rotation_angles(true: ArrayLike, found: ArrayLike) -> Array:
    """(N,) degrees between rotations (N, 3, 3) each: the angle of R^T R'. 0 to 180; exactly 0 for equal ones.

    From |R - R'| = 2 sqrt(2) sin(angle / 2) in the Frobenius norm, which is accurate for small angles. Raises
    ``InputError``.
    """
    a, b = np.asarray(true, np.float64), np.asarray(found, np.float64)
    if a.ndim != 3 or a.shape[1:] != (3, 3) or a.shape != b.shape or len(a) == 0:
        raise InputError(f"rotations have shapes {a.shape} and {b.shape}; both must be (N, 3, 3), N at least 1")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("a rotation is not finite")
    chord = np.linalg.norm((a - b).reshape(len(a), 9), axis=1) / np.sqrt(8.0)
    angle: Array = np.degrees(2.0 * np.arcsin(np.clip(chord, 0.0, 1.0)))
    return angle


def direction_angles(true: ArrayLike, found: ArrayLike, *, either_sign: bool = False) -> Array:
    """(N,) degrees between translations (N, 3) each, whatever their lengths; exactly 0 for parallel equal ones.

    ``either_sign``: a direction and its opposite count as the same, 0 to 90. A found translation of length 0 has no
    direction and is ``FAILED_DEG`` off. Raises ``InputError`` for a true one of length 0, whose direction is undefined:
    leave such pairs out.
    """
    a, b = rows.points("true translations", true), rows.points("found translations", found)
    rows.same_count("translations", a, b)
    if not np.all(np.linalg.norm(a, axis=1) > 0):
        index = int(np.argmin(np.linalg.norm(a, axis=1)))
        raise InputError(f"true translation {index} has length 0, so its direction is not defined; leave the pair out")
    along = np.einsum("ni,ni->n", a, b)
    across = np.linalg.norm(np.cross(a, b), axis=1)
    angle: Array = np.degrees(np.arctan2(across, np.abs(along) if either_sign else along))
    return np.where(np.linalg.norm(b, axis=1) > 0, angle, FAILED_DEG)


def pair_accuracy(
    rotation_deg: ArrayLike, translation_deg: ArrayLike, *, threshold: float = 15.0, limit: int = 30
) -> PairAccuracy:
    """RRA and RTA at ``threshold`` degrees and mAA at ``limit`` degrees from errors (N,), one per pair.

    RRA, RTA: share of pairs whose rotation, or direction of translation, is off by less than the
    threshold. mAA: mean over 1, 2, ..., ``limit`` degrees of the share of pairs that have both errors below.
    A failed pair counts as infinite or 180. Wang et al., "PoseDiffusion", ICCV 2023, section 4 (there: area under
    the curve; a pair counts by the larger of its two errors). Raises ``InputError``.
    """
    turn, shift = rows.errors("rotation errors", rotation_deg), rows.errors("translation errors", translation_deg)
    rows.same_count("errors of pairs", turn, shift)
    if not threshold > 0 or limit < 1:
        raise InputError(f"threshold {threshold} and limit {limit} degrees must be positive")
    both = np.maximum(turn, shift)
    steps = np.arange(1, limit + 1)
    return PairAccuracy(
        rra=100.0 * float(np.mean(turn < threshold)),
        rta=100.0 * float(np.mean(shift < threshold)),
        maa=100.0 * float(np.mean(both[:, None] < steps)),
    )


PROTOCOL = "multiview_pose_{}"  # by which of the methods
METHODS = ("pnp", "alignment")
_STANDS_STILL = 1e-6  # baseline, of the longest among the views

Relative = dict[tuple[int, int], Array]


def run_relative_pose(
    recordings: Iterable[Recording],
    backend: Backend,
    *,
    method: str = "alignment",
    views: int = 10,
    size: int = 512,
    known_focals: bool = False,
    seed: int = 0,
) -> Iterator[Row]:
    """One row per recording: RRA@15, RTA@15 and mAA@30 over all pairs of ``views`` views drawn at random.

    ``method``: "pnp" (each pair for itself) or "alignment" (all ordered pairs in one world). Pairs that get no pose
    count as wrong; those whose true cameras coincide have no direction and are left out. As on CO3Dv2 and
    RealEstate10K: 10 views (PoseDiffusion, ICCV 2023). There the sign of the direction is ignored, and so it is in RTA
    and mAA; ``rta_15_signed`` counts the opposite direction as wrong. Raises ``ConfigError`` for an unknown method.
    """
    if method not in METHODS:
        raise ConfigError(f"method {method!r} is unknown; it must be one of {', '.join(METHODS)}")
    predictor = Predictor(backend, size, known_focals)
    for recording in recordings:
        rng = np.random.default_rng([seed, zlib.crc32(recording.name.encode())])

        def measure(recording: Recording = recording, rng: np.random.Generator = rng) -> Row:
            return _scene(recording, predictor, method, views, rng)

        yield guarded(recording, PROTOCOL.format(method), backend.name, measure)


def _scene(recording: Recording, predictor: Predictor, method: str, count: int, rng: np.random.Generator) -> Row:
    posed = [index for index, view in enumerate(recording.views) if view.w_T_c is not None]
    if len(posed) < 2:
        raise InputError(f"'{recording.name}' has {len(posed)} views with a true pose; at least 2 are needed")
    cost, chosen = Cost(), sorted(rng.choice(posed, min(count, len(posed)), replace=False).tolist())
    with cost.timed():
        found = _poses(predictor, select(recording, chosen), method)
    errors, missing = _errors(predictor.views, found)
    if not errors:
        raise GeometryError(f"all views of '{recording.name}' that were drawn coincide")
    turn, axis, direction = np.array(errors).T
    accuracy = pair_accuracy(turn, axis)
    return row(
        recording, PROTOCOL.format(method), predictor.backend.name, views=min(count, len(posed)), pairs=len(errors),
        pairs_without_pose=missing, rra_15=accuracy.rra, rta_15=accuracy.rta, maa_30=accuracy.maa,
        rta_15_signed=pair_accuracy(turn, direction).rta, seconds=cost.seconds,
    )  # fmt: skip


def _poses(predictor: Predictor, recording: Recording, method: str) -> Relative:
    views = predictor.take(recording.views)
    pairs = predictor.all_pairs()
    return by_pnp(pairs, views) if method == "pnp" else by_alignment(pairs, views)


def by_pnp(pairs: Sequence[PairPrediction], views: Sequence[WorkingView]) -> Relative:
    """``i_T_j`` of the pairs i < j that PnP solves in either order: the order with more inliers."""
    focals = own_focals(pairs, views)
    best: dict[tuple[int, int], tuple[float, Array]] = {}
    for pair in pairs:
        focal = focals[pair.second]
        if focal is None:
            continue
        try:
            result = pose_by_pnp(pair, focal, views[pair.second].center)
        except GeometryError:
            continue
        key, share = (min(pair.first, pair.second), max(pair.first, pair.second)), float(result.inliers.mean())
        if key not in best or share > best[key][0]:
            best[key] = share, result.w_T_c if pair.first == key[0] else invert(result.w_T_c)
    return {key: pose for key, (_, pose) in best.items()}


def by_alignment(pairs: Sequence[PairPrediction], views: Sequence[WorkingView]) -> Relative:
    """``i_T_j`` of the pairs i < j that share a world after the global alignment."""
    try:
        parts = aligned_parts(pairs, views)
    except GeometryError:
        return {}
    return {
        (i, j): invert(part.alignment.w_T_c[a]) @ part.alignment.w_T_c[b]
        for part in parts
        for (a, i), (b, j) in combinations(enumerate(part.images), 2)
    }


def _errors(views: Sequence[WorkingView], found: Relative) -> tuple[list[tuple[float, float, float]], int]:
    """Per pair: errors in degrees of the rotation and of the translation's unsigned and signed direction; pairs without
    a pose.
    """
    true = {(i, j): invert(views[i].pose) @ views[j].pose for i, j in combinations(range(len(views)), 2)}
    baseline = {pair: float(np.linalg.norm(pose[:3, 3])) for pair, pose in true.items()}
    least = _STANDS_STILL * max(baseline.values())
    errors, missing = [], 0
    for pair, pose in true.items():
        if baseline[pair] <= least:
            continue
        if pair not in found:
            errors.append((FAILED_DEG, FAILED_DEG, FAILED_DEG))
            missing += 1
            continue
        a, b = pose[None], found[pair][None]
        turn = rotation_angles(a[:, :3, :3], b[:, :3, :3])
        shifts = [direction_angles(a[:, :3, 3], b[:, :3, 3], either_sign=either) for either in (True, False)]
        errors.append((float(turn[0]), float(shifts[0][0]), float(shifts[1][0])))
    return errors, missing
