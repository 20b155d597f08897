"""What contradicts a map, and where."""

from __future__ import annotations

import numpy as np
from rings import ring

from dust3r_ros.sparse.consistency import contradicted, doubts, in_a_row
from dust3r_ros.sparse.refinement import refine
from dust3r_ros.tracking import Tracks, no_tracks


def test_nothing_contradicts_a_map_that_is_right() -> None:
    walk = ring(40, 0.0)
    shares = contradicted(walk.sparse)
    assert shares.shape == (40,) and np.nanmax(shares) == 0.0
    assert doubts(shares, 0.15) == []


def test_observations_that_were_pruned_still_contradict() -> None:
    """A third of what keyframes 10 to 19 see is elsewhere. Once pruned, what is left fits."""
    walk = ring(40, 0.0)
    for view in walk.sparse.views[10:20]:
        view.seen.pixels[::3] += [40.0, -25.0]
    refine(walk.sparse, rounds=2)
    assert all(walk.sparse.disagreement(view) < 1.0 for view in range(40))
    shares = contradicted(walk.sparse)
    assert np.all(np.abs(shares[10:20] - 0.4) < 0.1) and np.nanmax(shares[:8]) < 0.05
    (doubt,) = doubts(shares, 0.15)
    assert abs(doubt.first - 9) <= 1 and abs(doubt.last - 20) <= 1 and abs(doubt.share - 0.4) < 0.1
    some = contradicted(walk.sparse, range(12, 18))
    np.testing.assert_allclose(some[12:18], shares[12:18], atol=0.02)
    assert np.isnan(some[:12]).all() and np.isnan(some[18:]).all()


def test_what_cannot_be_judged_contradicts_nothing() -> None:
    """Keyframes that see next to nothing, or have no pose, and landmarks without parallax, from one place."""
    walk = ring(40, 0.0)
    walk.sparse.views[5].seen = no_tracks()
    walk.sparse.views[6].w_T_c = None
    shares = contradicted(walk.sparse)
    assert np.isnan(shares[[5, 6]]).all() and np.isfinite(shares[[4, 7]]).all()
    far = walk.sparse.landmarks.new(50)
    pixels = np.random.default_rng(0).uniform(-200, 200, (50, 2))
    for view in (20, 21):
        walk.sparse.views[view].w_T_c = walk.sparse.views[20].w_T_c
        walk.sparse.views[view].seen = Tracks(far, pixels)
    assert contradicted(walk.sparse)[20] == 0.0


def test_one_bad_keyframe_is_no_doubt() -> None:
    shares = np.full(12, 0.04)
    shares[6] = 0.5
    assert in_a_row(shares).max() < 0.15 and doubts(shares, 0.15) == []
    shares[:3] = np.nan
    assert np.isnan(in_a_row(shares)[:3]).all() and in_a_row(shares)[3] == 0.04


def test_a_map_of_few_keyframes_or_none() -> None:
    assert len(in_a_row(np.zeros(0))) == 0 and doubts(np.zeros(0), 0.15) == []
    np.testing.assert_allclose(in_a_row(np.array([0.1, 0.2, 0.6])), 0.3)
    np.testing.assert_allclose(in_a_row(np.array([0.4])), 0.4)


def test_the_worst_stretch_comes_first() -> None:
    shares = np.full(60, 0.02)
    shares[10:20], shares[40:50] = 0.2, 0.3
    assert [round(doubt.share, 2) for doubt in doubts(shares, 0.15)] == [0.3, 0.2]
    assert [doubt.share > 0.25 for doubt in doubts(shares, 0.25)] == [True]
