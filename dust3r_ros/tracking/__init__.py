"""The front end: corners that are followed, poses from a snapshot of the map, which images the map should have.

It needs NumPy and OpenCV, holds no map, and waits for nobody.
"""

from dust3r_ros.tracking.corners import CornerTracker, Tracks, carried, join, no_tracks, shrink

__all__ = ["CornerTracker", "Tracks", "carried", "join", "no_tracks", "shrink"]
