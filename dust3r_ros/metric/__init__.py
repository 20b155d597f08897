"""What gives a map its unit of length, its up and its place: odometry, gravity, depth, a rig, commands."""

from dust3r_ros.metric.evidence import ScaleEvidence, ScaleState
from dust3r_ros.metric.world import WorldAligner, WorldEstimate

__all__ = ["ScaleEvidence", "ScaleState", "WorldAligner", "WorldEstimate"]
