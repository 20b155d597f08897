"""Evidence on a map's unit of length, weighted by how far to trust it; the evidence of a rig's baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

import numpy as np

from dust3r_ros.types import Array

_OWN_STD, _OWN_M = 0.003, 0.001  # least errors of extrinsics: relative, and in metres
_OUTLIER = 4.0


@dataclass(frozen=True)
class Baseline:
    """The distance of two cameras of a rig: ``metres``, ``units`` of the map; ``relative_std`` of the latter."""

    metres: float
    units: float
    relative_std: float

    @property
    def usable(self) -> bool:
        """Whether it carries any information."""
        return _OWN_M < self.metres < math.inf and 0 < self.units < math.inf and 0 <= self.relative_std < math.inf


def rig_scale(baselines: Sequence[Baseline]) -> ScaleEvidence | None:
    """Metres per map unit from the distances between a rig's cameras, in time order; None without a usable one."""
    usable = [b for b in baselines if b.usable]
    if not usable:
        return None
    logs = np.array([math.log(b.metres / b.units) for b in usable])
    std = np.maximum([max(b.relative_std, _OWN_M / b.metres) for b in usable], _OWN_STD)
    weight = 1.0 / std**2
    off = np.abs(logs - weighted_median(logs, weight))
    usual = max(1.48 * weighted_median(off / std, weight), 1.0)
    weight = weight * (off <= _OUTLIER * usual * std)
    mean = float(weight @ logs / weight.sum())
    scatter = block_std(weight * (logs - mean), weight)
    error = max(scatter if math.isfinite(scatter) else usual * float(std.min()), math.sqrt(1.0 / float(weight.sum())))
    return ScaleEvidence("rig", math.exp(mean), math.hypot(error, _OWN_STD))


CONTRADICTION = 3.0  # standard deviations
_BLOCKS = (8, 4)  # of time: neighbours share errors, over longer or shorter spans
_FEWEST_BLOCKS = 3
_LEAST_STD = 1e-9


class ScaleState(str, Enum):
    """What is known about a map's scale."""

    UNKNOWN = "unknown"
    CONVERGING = "converging"
    METRIC = "metric"


@dataclass(frozen=True)
class ScaleEvidence:
    """The scale from one source: ``scale`` metres per map unit with ``relative_std``.

    ``doubt`` says what is odd about it, if anything.
    """

    source: str
    scale: float
    relative_std: float
    doubt: str = ""

    @property
    def usable(self) -> bool:
        """Whether it carries any information."""
        return math.isfinite(self.relative_std) and math.isfinite(self.scale) and self.scale > 0


@dataclass(frozen=True)
class CombinedScale:
    """The scale from all sources; ``reasons`` list contradictions between them."""

    scale: float
    relative_std: float
    sources: tuple[ScaleEvidence, ...]
    reasons: tuple[str, ...]


def combine(evidence: Sequence[ScaleEvidence]) -> CombinedScale:
    """The mean of logs, by inverse variance; without usable evidence, 1 with an infinite deviation.

    If sources contradict each other beyond 3 standard deviations, the deviation grows by the
    Birge ratio (Birge, "The calculation of errors by the method of least squares", Phys. Rev. 1932).
    """
    usable = [e for e in evidence if e.usable]
    reasons = [e.doubt for e in evidence if e.doubt] + _contradictions(usable)
    if not usable:
        return CombinedScale(1.0, math.inf, tuple(evidence), tuple(reasons))
    logs = np.log([e.scale for e in usable])
    precision = 1.0 / np.maximum([e.relative_std for e in usable], _LEAST_STD) ** 2
    mean = float(precision @ logs / precision.sum())
    excess = 1.0
    if len(usable) > 1:
        excess = max(1.0, float(precision @ (logs - mean) ** 2) / (len(usable) - 1))
    return CombinedScale(math.exp(mean), math.sqrt(excess / precision.sum()), tuple(evidence), tuple(reasons))


def _contradictions(usable: Sequence[ScaleEvidence]) -> list[str]:
    """Every two sources that differ by more than their deviations explain."""
    found = []
    for first, second in combinations(usable, 2):
        gap = abs(math.log(first.scale / second.scale))
        if gap > CONTRADICTION * math.hypot(first.relative_std, second.relative_std):
            found.append(_contradiction(first, second))
    return found


def _contradiction(first: ScaleEvidence, second: ScaleEvidence) -> str:
    a, b = (f"{e.source} says {e.scale:.4g} m per map unit (+-{100 * e.relative_std:.2g} %)" for e in (first, second))
    return f"{a}, but {b}; they should agree within {CONTRADICTION:g} standard deviations"


def block_std(scores: Array, information: Array) -> float:
    """The standard deviation of a weighted mean, from how its parts scatter; infinite for too few parts.

    ``scores`` (N,): each sample's pull, weight times residual, in time order; ``information`` (N,) >= 0:
    its weight. Samples are summed over blocks of equal information, so that errors that neighbours share
    count in full; few blocks are corrected as in Student's t. (Delete-a-block jackknife, linearised: Kuensch,
    Ann. Stat. 1989.)
    """
    total, most = float(information.sum()), np.count_nonzero(information) // 2
    if min(most, _BLOCKS[0]) < _FEWEST_BLOCKS or not total > 0:
        return math.inf
    through = np.cumsum(information) / total * (1 - 1e-12)
    return max(_scatter(scores, through, count) for count in {min(most, blocks) for blocks in _BLOCKS}) / total


def _scatter(scores: Array, through: Array, count: int) -> float:
    """The deviation of the sum of scores, from sums over ``count`` blocks; ``through`` (N,): progress, 0 to 1."""
    pulls = np.bincount(np.minimum((count * through).astype(int), count - 1), weights=scores, minlength=count)
    # If errors last longer than a block, neighbouring blocks pull the same way
    together = max(0.0, float(pulls[1:] @ pulls[:-1])) if count > 2 * _FEWEST_BLOCKS else 0.0
    variance = count / (count - 1) * (float(pulls @ pulls) + 2.0 * together)
    return math.sqrt(variance) * (1.0 + 2.0 / (count - 1) ** 2)


def weighted_median(values: Array, weight: Array) -> float:
    """The value (N,) below which half of the weight (N,) lies."""
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])])
