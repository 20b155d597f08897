"""How far a lens that bends the image would shift the focal length: what a camera without distortion cannot tell.

Radial distortion and focal length look alike to a map: both stretch the image, and poses and
landmarks take up most of the difference. A map of an ordinary lens explains what is seen just as
well and is some percent off in focal, many times what the scatter of the sights says. So the
distortion is considered without being estimated: a parameter of known spread that the others
depend on (Schmidt, "Application of state-space methods to navigation problems", 1966).
"""

from __future__ import annotations

import numpy as np

from dust3r_ros.alignment.landmark_sample import thin
from dust3r_ros.alignment.refinement import refine
from dust3r_ros.alignment.sparse_map import SparseMap
from dust3r_ros.tracking import Tracks
from dust3r_ros.types import Array

# Standard deviation of the radial distortion of webcams, phones and depth cameras: how much
# farther out than without it something is seen at half the long edge from the middle.
USUAL_BEND = 0.015
_BEND = 0.01  # tried each way; the shift is nearly linear in it
_SIGHTS, _LEAST = 3000, 30  # taken from all views together; from each at least
_STEPS = 3


def focal_shift(sparse: SparseMap, camera: int, radius: float) -> float:
    """Change of the log focal of ``camera`` per unit of bend, poses and landmarks adjusted again; 0 where it is fixed.

    A bend b takes an offset r to r (1 + b |r|^2 / ``radius``^2); ``radius`` in pixels, half the long
    edge. The sparse map is left as it was. Computed on a sample of the landmarks.
    """
    views, focal = sparse.posed(), sparse.focals[camera]
    if focal.fixed or len(views) < 2:
        return 0.0
    before = sparse.snapshot()
    thin(sparse, views, max(_LEAST, _SIGHTS // len(views)))
    sample = sparse.snapshot()
    logs = []
    for bend in (-_BEND, _BEND):
        sparse.restore(sample)
        for view in (sparse.views[index] for index in views if sparse.views[index].camera == camera):
            view.seen = Tracks(view.seen.ids, _bent(view.seen.pixels, bend / radius**2))
        refine(sparse, free_focal=True, rounds=1, iterations=_STEPS, max_error_px=np.inf)
        logs.append(float(np.log(focal.value)))
    sparse.restore(before)
    return (logs[1] - logs[0]) / (2.0 * _BEND)


def _bent(offsets: Array, bend: float) -> Array:
    return offsets * (1.0 + bend * np.sum(offsets**2, axis=1, keepdims=True))
