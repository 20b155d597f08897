"""Which frames become keyframes."""

from __future__ import annotations

from dust3r_ros.config import MapperConfig

YOUNG = 18  # keyframes
_LIVE_YOUNG = 2.0  # live, those of a young map are so many times farther apart: it keeps up with a fast camera


def is_keyframe(motion: float, overlap: float, young: bool, config: MapperConfig, live: bool = False) -> bool:
    """True when the corners moved far since the last keyframe, or many of them are lost.

    ``motion``: median, as a part of the long edge; ``overlap``: part of the corners still tracked.
    A ``young`` map takes them closer together.
    Time plays no part: a camera at rest adds nothing.
    """
    closest = config.keyframe_motion_young * (_LIVE_YOUNG if live else 1.0)
    enough = min(closest, config.keyframe_motion) if young else config.keyframe_motion
    return motion > enough or overlap < config.keyframe_overlap
