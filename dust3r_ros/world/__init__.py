"""Sources of a map's unit of length, up direction and place: odometry, gravity, depth, a rig, commands."""

from __future__ import annotations

from dust3r_ros.world.evidence import ScaleEvidence, ScaleState
from dust3r_ros.world.world import WorldAligner, WorldEstimate

__all__ = ["ScaleEvidence", "ScaleState", "WorldAligner", "WorldEstimate"]
