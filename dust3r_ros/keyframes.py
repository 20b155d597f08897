"""Which frames become keyframes."""

from __future__ import annotations

from dust3r_ros.config import MapperConfig

YOUNG = 18  # keyframes


def is_keyframe(motion: float, overlap: float, young: bool, config: MapperConfig) -> bool:
    """True when the corners moved far since the last keyframe, or many of them are lost.

    ``motion``: median, as a part of the long edge; ``overlap``: part of the corners still tracked.
    A ``young`` map takes them closer together.
    Time plays no part: a camera at rest adds nothing.
    """
    enough = config.keyframe_motion_young if young else config.keyframe_motion
    return motion > enough or overlap < config.keyframe_overlap
