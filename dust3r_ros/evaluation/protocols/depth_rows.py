"""Depth of several images as columns of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dust3r_ros.errors import GeometryError
from dust3r_ros.evaluation.depth import depth_errors, mean_errors
from dust3r_ros.types import Array32

DepthPair = tuple[Array32, Array32]  # truth, estimate: (H, W) each, 0 = none

INLIER_FACTOR = 1.03  # tau of the robust multi-view depth benchmark


def depth_columns(pairs: Sequence[DepthPair], *, median_aligned: bool) -> dict[str, Any]:
    """Rel, delta 1.25 and tau 1.03 (percent), mean over images; ``images`` that have both, ``density``.

    Density: share of pixels with true depth that have an estimate, of all images that have true depth. Raises
    ``GeometryError`` where no image has a pixel with both.
    """
    usable = [(truth, depth) for truth, depth in pairs if ((truth > 0) & (depth > 0)).any()]
    wide = mean_errors(depth_errors(t, d, median_aligned=median_aligned) for t, d in usable)
    close = mean_errors(depth_errors(t, d, median_aligned=median_aligned, factor=INLIER_FACTOR) for t, d in usable)
    if wide is None or close is None:
        raise GeometryError(f"none of {len(pairs)} images has a pixel with both true and estimated depth")
    shares = [np.count_nonzero((t > 0) & (d > 0)) / np.count_nonzero(t > 0) for t, d in pairs if (t > 0).any()]
    return {
        "images": len(usable), "rel": wide.rel, "delta": wide.delta, "tau": close.delta,
        "density": 100.0 * float(np.mean(shares)),
    }  # fmt: skip
