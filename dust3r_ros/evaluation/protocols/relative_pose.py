"""Multi-view relative pose of a few views: by PnP of pairs, or by global alignment."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np

from dust3r_ros.backends.base import Backend
from dust3r_ros.errors import ConfigError, GeometryError, InputError
from dust3r_ros.evaluation.protocols.cost import Cost
from dust3r_ros.evaluation.protocols.few_views import aligned_parts
from dust3r_ros.evaluation.protocols.pose_pairs import FAILED_DEG, direction_angles, pair_accuracy, rotation_angles
from dust3r_ros.evaluation.protocols.predictor import Predictor, own_focals, pose_by_pnp
from dust3r_ros.evaluation.protocols.recordings import Recording, WorkingView, select
from dust3r_ros.evaluation.protocols.rows import Row, guarded, row
from dust3r_ros.geometry.rigid import invert
from dust3r_ros.types import Array, PairPrediction

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
    draws: int = 1,
    size: int = 512,
    known_focals: bool = False,
    seed: int = 0,
) -> Iterator[Row]:
    """One row per recording: RRA@15, RTA@15 and mAA@30 over all pairs of ``views`` views drawn at random.

    ``method``: "pnp" (each pair for itself) or "alignment" (all ordered pairs in one world). Pairs that get no
    pose count as wrong; those whose true cameras are at one place are left out, for they have no direction. As
    on CO3Dv2 and RealEstate10K: 10 views (PoseDiffusion, ICCV 2023). There an axis counts whichever way it
    points: so do RTA and mAA; ``rta_15_signed`` counts the opposite direction as wrong. Raises ``ConfigError``
    for an unknown method.
    """
    if method not in METHODS:
        raise ConfigError(f"method {method!r} is unknown; it must be one of {', '.join(METHODS)}")
    predictor = Predictor(backend, size, known_focals)
    for recording in recordings:
        rng = np.random.default_rng([seed, zlib.crc32(recording.name.encode())])

        def measure(recording: Recording = recording, rng: np.random.Generator = rng) -> Row:
            return _scene(recording, predictor, method, views, draws, rng)

        yield guarded(recording, PROTOCOL.format(method), backend.name, measure)


def _scene(
    recording: Recording, predictor: Predictor, method: str, count: int, draws: int, rng: np.random.Generator
) -> Row:
    posed = [index for index, view in enumerate(recording.views) if view.w_T_c is not None]
    if len(posed) < 2:
        raise InputError(f"'{recording.name}' has {len(posed)} views with a true pose; at least 2 are needed")
    cost, errors, missing = Cost(), [], 0
    for _ in range(draws):
        chosen = sorted(rng.choice(posed, min(count, len(posed)), replace=False).tolist())
        with cost.timed():
            found = _poses(predictor, select(recording, chosen), method)
        pairs, missed = _errors(predictor.views, found)
        errors += pairs
        missing += missed
    if not errors:
        raise GeometryError(f"all views of '{recording.name}' that were drawn are at one place")
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
    """``i_T_j`` of the pairs i < j that PnP finds, in either order: of both the one with more inliers."""
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
    """``i_T_j`` of the pairs i < j that one world has after the global alignment."""
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
    """Per pair: degrees of rotation, of the axis and of the direction of translation; and how many have no pose."""
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
