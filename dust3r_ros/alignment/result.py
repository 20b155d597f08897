"""What a global alignment returns, whatever method made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from dust3r_ros.alignment.objective import published_objective
from dust3r_ros.types import Array, Array32, PairPrediction


@dataclass(frozen=True)
class EdgeReport:
    """What became of one pair, in the order of the pairs given.

    ``residual``: confidence-weighted mean of ‖χ - σ P X‖ over the pixels of both views, in units of
    the scene. ``weight``: the robust factor in [0, 1] with which the pair counted at the end.
    ``switched_off``: it counted as an outlier (a wrong loop, say) and has no influence on the result.
    """

    first: int
    second: int
    residual: float
    weight: float = 1.0
    switched_off: bool = False


@dataclass(frozen=True, eq=False)
class Alignment:
    """N images in one world of arbitrary scale.

    ``w_T_c`` (N, 4, 4); ``focals`` (N,) pixels; ``depths`` N maps (H, W) float32 of z in the camera,
    0 where nothing is known; ``seconds``: wall time of the solution, without ``objective``, which
    is worked out when it is asked for. ``edges``: one report per pair.
    """

    w_T_c: Array
    focals: Array
    depths: list[Array32]
    seconds: float
    edges: tuple[EdgeReport, ...] = ()
    pairs: Sequence[PairPrediction] = field(default=(), repr=False)

    @cached_property
    def objective(self) -> float:
        """The published objective of this result on its pairs (see ``objective.published_objective``)."""
        return published_objective(self.pairs, self.w_T_c, self.focals, self.depths)
