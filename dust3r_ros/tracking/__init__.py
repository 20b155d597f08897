"""The front end: follows corners, finds poses in a snapshot of the map, selects images for the map.

It needs only NumPy and OpenCV, holds no map, and never waits.
"""

from dust3r_ros.tracking.following import (
    CornerTracker,
    Tracks,
    carried,
    join,
    no_tracks,
    shrink,
    tracked,
    tracked_size,
    wide_flow,
)

__all__ = ["CornerTracker", "Tracks", "carried", "join", "no_tracks", "shrink", "tracked", "tracked_size", "wide_flow"]
