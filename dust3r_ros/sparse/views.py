"""What a sparse map is made of besides landmarks: views and focals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dust3r_ros.geometry.lens import Lens
from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.types import Array


@dataclass(eq=False)
class SparseView:
    """One keyframe: its pose, which focal it uses, and what it sees (offsets from the image's middle)."""

    camera: int
    w_T_c: Array | None
    seen: Tracks
    pruned: Tracks = field(default_factory=no_tracks)  # sights that did not fit; a better focal may fit them
    first_id: int = 0  # landmarks made before this view have smaller ids


@dataclass(eq=False)
class Focal:
    """A focal length in pixels of the tracked images, its prior and its standard deviation (relative).

    ``std`` is what the scatter of the sights leaves open, ``lens_std`` what a distortion that nobody models does.
    ``lens`` is what the camera does beside scaling, plain as long as nothing is known of it.
    ``prior_std`` is how sure the prior is (of the log focal), infinite for one that is a mere guess; ``told``
    is what the images alone say of a focal that was given (value, relative std), None as long as they say nothing.
    """

    value: float
    prior: float
    std: float = float("inf")
    fixed: bool = False
    lens_std: float = 0.0
    lens: Lens = field(default_factory=lambda: Lens(320.0))
    prior_std: float = float("inf")
    told: tuple[float, float] | None = None

    @property
    def given(self) -> bool:
        """Whether somebody measured it: it is held, or it has a prior that counts."""
        return self.fixed or math.isfinite(self.prior_std)

    @property
    def total_std(self) -> float:
        """Relative standard deviation from all known causes."""
        return math.hypot(self.std, self.lens_std)
