"""What gives a map its unit of length, its up and its place: odometry, gravity, depth, a rig, commands."""

from __future__ import annotations

from dust3r_ros.world.evidence import ScaleEvidence, ScaleState
from dust3r_ros.world.world import WorldAligner, WorldEstimate

__all__ = ["ScaleEvidence", "ScaleState", "WorldAligner", "WorldEstimate"]
