"""A map's unit of length from a rig: distances between its cameras in metres against those in the map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dust3r_ros.metric.evidence import ScaleEvidence, block_std, weighted_median

_OWN_STD = 0.003  # what extrinsics are off by at best
_OUTLIER = 4.0


@dataclass(frozen=True)
class Baseline:
    """The distance of two cameras of a rig: ``metres``, ``units`` of the map; ``relative_std`` of the latter."""

    metres: float
    units: float
    relative_std: float

    @property
    def usable(self) -> bool:
        """Whether it says anything."""
        return 0 < self.metres < math.inf and 0 < self.units < math.inf and 0 <= self.relative_std < math.inf


def rig_scale(baselines: Sequence[Baseline]) -> ScaleEvidence | None:
    """Metres per map unit by distances of cameras of a rig, in the order of time; None without a usable one."""
    usable = [b for b in baselines if b.usable]
    if not usable:
        return None
    logs = np.array([math.log(b.metres / b.units) for b in usable])
    std = np.maximum([b.relative_std for b in usable], _OWN_STD)
    weight = 1.0 / std**2
    off = np.abs(logs - weighted_median(logs, weight))
    usual = max(1.48 * weighted_median(off / std, weight), 1.0)
    weight = weight * (off <= _OUTLIER * usual * std)
    mean = float(weight @ logs / weight.sum())
    scatter = block_std(weight * (logs - mean), weight)
    error = max(scatter if math.isfinite(scatter) else usual * float(std.min()), math.sqrt(1.0 / float(weight.sum())))
    return ScaleEvidence("rig", math.exp(mean), math.hypot(error, _OWN_STD), int(np.count_nonzero(weight)))
