"""Positions of landmarks from poses and observations alone: those that the adjustment had."""

from __future__ import annotations

import numpy as np
from synthetic import arc, sparse_of

from dust3r_ros.sparse.refinement import find_points, refine


def test_positions_are_those_of_the_adjustment() -> None:
    sparse = sparse_of(arc(points=300), 0.3)
    sparse.views[0].seen.pixels[5] += 30.0  # a wrong match
    sparse.extend()
    refine(sparse, iterations=60, rounds=3)
    expected, poses = sparse.points.copy(), [view.w_T_c.copy() for view in sparse.views]
    seen = [view.seen for view in sparse.views]
    sparse.points[:] = np.nan
    find_points(sparse)
    np.testing.assert_allclose(sparse.points, expected, atol=1e-3)
    assert all(view.w_T_c.tobytes() == pose.tobytes() for view, pose in zip(sparse.views, poses, strict=True))
    assert all(view.seen is before for view, before in zip(sparse.views, seen, strict=True))


def test_what_cannot_be_told_has_no_position() -> None:
    sparse = sparse_of(arc(views=4, points=40), posed=3)
    unseen = sparse.landmarks.new(1)
    sparse.landmarks.bar(np.array([7]))
    for view in (1, 2):  # landmark 3 is seen by one posed view and one without a pose
        sparse.views[view].seen = sparse.views[view].seen.select(np.arange(40) != 3)
    find_points(sparse)
    assert np.flatnonzero(~sparse.positioned).tolist() == [3, 7, *unseen.tolist()]


def test_a_map_without_poses() -> None:
    sparse = sparse_of(arc(views=3, points=20), posed=0)
    find_points(sparse)
    assert not sparse.positioned.any()
