"""What a sparse map is made of besides landmarks: views and focals."""

from __future__ import annotations

from dataclasses import dataclass, field

from dust3r_ros.tracking import Tracks, no_tracks
from dust3r_ros.types import Array


@dataclass(eq=False)
class SparseView:
    """One keyframe: its pose, which focal it uses, and what it sees (offsets from the principal point)."""

    camera: int
    w_T_c: Array | None
    seen: Tracks
    pruned: Tracks = field(default_factory=no_tracks)  # sights that did not fit; a better focal may fit them
    first_id: int = 0  # landmarks made before this view have smaller ids


@dataclass(eq=False)
class Focal:
    """A focal length in pixels of the tracked images, its prior and its standard deviation (relative)."""

    value: float
    prior: float
    std: float = float("inf")
    fixed: bool = False
