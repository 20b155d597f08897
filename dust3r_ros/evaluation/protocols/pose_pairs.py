"""Multi-view relative pose: angles between relative poses, RRA, RTA and mAA over all pairs of views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dust3r_ros.errors import InputError
from dust3r_ros.evaluation.protocols import checks
from dust3r_ros.types import Array

FAILED_DEG = 180.0  # what a pair without an estimate counts as


@dataclass(frozen=True)
class PairAccuracy:
    """Percent over ``pairs`` pairs: ``rra`` and ``rta`` within the threshold, ``maa`` the mean over 1, 2, ...
    degrees."""

    rra: float
    rta: float
    maa: float
    pairs: int


def rotation_angles(true: ArrayLike, found: ArrayLike) -> Array:
    """(N,) degrees between rotations (N, 3, 3) each: the angle of R^T R'. 0 to 180; exactly 0 for equal ones.

    By |R - R'| = 2 sqrt(2) sin(angle / 2), Frobenius' norm, which keeps small angles. Raises ``InputError``.
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

    ``either_sign``: a direction and its opposite count as the same, 0 to 90. A found translation of length 0 says
    no direction and is ``FAILED_DEG`` off. Raises ``InputError`` for a true one of length 0: its
    direction is not defined, leave the pair out.
    """
    a, b = checks.points("true translations", true), checks.points("found translations", found)
    checks.same_count("translations", a, b)
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
    Infinite or 180 for a pair that failed. Wang et al., "PoseDiffusion", ICCV 2023, section 4 (there: area under
    the curve; a pair counts by the larger of its two errors). Raises ``InputError``.
    """
    turn, shift = checks.errors("rotation errors", rotation_deg), checks.errors("translation errors", translation_deg)
    checks.same_count("errors of pairs", turn, shift)
    if not threshold > 0 or limit < 1:
        raise InputError(f"threshold {threshold} and limit {limit} degrees must be positive")
    both = np.maximum(turn, shift)
    steps = np.arange(1, limit + 1)
    return PairAccuracy(
        rra=100.0 * float(np.mean(turn < threshold)),
        rta=100.0 * float(np.mean(shift < threshold)),
        maa=100.0 * float(np.mean(both[:, None] < steps)),
        pairs=len(both),
    )
