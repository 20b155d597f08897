"""Corners without what they drifted by."""

from __future__ import annotations

import numpy as np

from dust3r_ros.tracking import Tracks
from dust3r_ros.tracking.drift import Drift, Sight, without_drift

IDS = np.array([3, 5, 9])


def drift(stamp_ns: int, x: float) -> Drift:
    """Corner 3 is off by so much, of 5 nobody knows, 9 is another spot; 7 is not asked for."""
    return Drift(stamp_ns, np.array([9, 7, 5, 3]), np.array([[50.0, 0.0], [9.0, 9.0], [np.nan, np.nan], [x, -x]]))


def corrected(stamp_ns: int, anchored_ns: int) -> float:
    """By how much corner 3 is moved between keyframes of 100 and 200 in which it is off by 1 and 2."""
    pixels = np.array([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])
    tracks = without_drift(Sight(stamp_ns, Tracks(IDS, pixels), anchored_ns), [drift(100, 1.0), drift(200, 2.0)])
    moved = tracks.pixels - pixels
    assert np.array_equal(tracks.ids, IDS) and not moved[1:].any() and moved[0, 0] == -moved[0, 1]
    return float(moved[0, 0])


def test_corners_are_off_as_in_the_last_keyframe_till_they_are_told_anew() -> None:
    assert corrected(150, 50) == corrected(250, 99) + 1.0 == -1.0
    assert corrected(150, 100) == -1.0, "half of what it will be off by in the next keyframe"
    assert corrected(125, 100) == -0.5


def test_what_no_keyframe_tells_stays() -> None:
    assert corrected(50, 0) == corrected(100, 0) == 0.0, "before the first"
    assert corrected(250, 200) == 0.0, "after the last"
