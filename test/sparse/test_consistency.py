"""What contradicts a map, and where; stretches that are wrong are built again from what their keyframes see."""

from __future__ import annotations

import numpy as np
import pytest
from rings import FOCAL, STEP_M, ring
from scipy.spatial.transform import Rotation

from dust3r_ros.geometry.pinhole import project
from dust3r_ros.geometry.rigid import transform
from dust3r_ros.sparse.consistency import Doubt, average, contradicted, doubts, in_a_row, outliers, pose_anew, rebuild
from dust3r_ros.sparse.initialization import Options, PairFromLandmarks
from dust3r_ros.sparse.refinement import find_points, refine
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


def test_one_keyframe_among_others_that_agree_stands_out() -> None:
    shares = np.full(12, 0.04)
    assert outliers(shares) == [] and outliers(np.zeros(0)) == []
    shares[[3, 8]] = 0.4, 0.5
    assert outliers(shares) == [Doubt(8, 8, 0.5), Doubt(3, 3, 0.4)]
    shares[[0, 1, 10]] = 0.9
    assert outliers(shares) == [Doubt(8, 8, 0.5), Doubt(3, 3, 0.4)], "at an end nothing tells"
    shares[6:9] = 0.5
    assert outliers(shares) == [Doubt(3, 3, 0.4)], "three in a row are a stretch"
    shares[2] = np.nan
    assert outliers(shares) == []


def test_two_bad_keyframes_at_an_end_are_no_doubt() -> None:
    """Three keyframes say less than five: a walk that begins in front of a plain wall is not bent there."""
    shares = np.full(12, 0.05)
    shares[:2] = shares[-2:] = 0.4
    np.testing.assert_allclose(in_a_row(shares)[[0, 1, 2, -1]], (2 * 0.4 + 3 * 0.05) / 5)
    assert doubts(shares, 0.25) == []
    shares[2:4] = 0.4
    assert doubts(shares, 0.25)[0].first == 0


def test_the_average_is_of_what_is_known() -> None:
    assert average(np.array([np.nan, 0.1, 0.3])) == pytest.approx(0.2)
    assert average(np.full(4, np.nan)) == average(np.zeros(0)) == 0.0


def test_a_map_of_few_keyframes_or_none() -> None:
    assert len(in_a_row(np.zeros(0))) == 0 and doubts(np.zeros(0), 0.15) == []
    np.testing.assert_allclose(in_a_row(np.array([0.1, 0.2, 0.6])), 0.3)
    np.testing.assert_allclose(in_a_row(np.array([0.4])), 0.4)


def test_the_worst_stretch_comes_first() -> None:
    shares = np.full(60, 0.02)
    shares[10:20], shares[40:50] = 0.2, 0.3
    assert [round(doubt.share, 2) for doubt in doubts(shares, 0.15)] == [0.3, 0.2]
    assert [doubt.share > 0.25 for doubt in doubts(shares, 0.25)] == [True]


COUNT = 30


def starts(count: int) -> list[Options]:
    return [Options(PairFromLandmarks(sharp)) for sharp in (False, True)]


def spoilt(first: int, last: int):
    """A walk in which the path turns and shrinks by itself from ``first`` to ``last``, and goes on from there."""
    walk = ring(COUNT, 0.0)
    sparse, turn = walk.sparse, np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec([0.0, 0.05, 0.03]).as_matrix()
    before = [view.w_T_c for view in sparse.views]
    for k in range(1, COUNT):
        step = np.linalg.inv(before[k - 1]) @ before[k]
        if first <= k <= last:
            step = step @ turn
            step[:3, 3] *= 0.5
        sparse.views[k].w_T_c = sparse.views[k - 1].w_T_c @ step
    sparse.points[:] = np.nan
    find_points(sparse)
    refine(sparse, range(first), rounds=1)
    return walk


@pytest.mark.parametrize(("first", "last"), [(18, COUNT - 1), (9, 17)])
def test_a_stretch_that_is_bent_is_found_and_rebuilt(first: int, last: int) -> None:
    """At the end of a walk, and in the middle: what comes after it is moved along."""
    walk = spoilt(first, last)
    found = doubts(contradicted(walk.sparse), 0.15)
    assert found and found[0].first <= last and found[0].last >= first
    before = walk.ate
    assert rebuild(walk.sparse, 0, 0.15, starts)
    assert walk.ate < 0.05 * before
    assert doubts(contradicted(walk.sparse), 0.15) == []


def test_a_map_that_is_right_stays_as_it_is() -> None:
    walk = ring(COUNT, 0.0)
    before = walk.sparse.snapshot()
    assert not pose_anew(walk.sparse) and not rebuild(walk.sparse, 0, 0.15, starts)
    for mine, old in zip(walk.sparse.snapshot()[0], before[0], strict=True):  # type: ignore[call-overload]
        np.testing.assert_array_equal(mine, old)


def test_what_nothing_explains_stays_as_it_is() -> None:
    """Half of what six keyframes see jumps about: no other poses explain that any better."""
    walk, rng = ring(18, 0.0), np.random.default_rng(1)
    for view in walk.sparse.views[7:13]:
        view.seen.pixels[::2] += rng.uniform(-80, 80, view.seen.pixels[::2].shape)
    refine(walk.sparse, rounds=2)
    assert doubts(contradicted(walk.sparse), 0.15)
    before = walk.ate
    rebuild(walk.sparse, 0, 0.15, starts)
    assert walk.ate < 1.1 * before + 0.01


def test_a_keyframe_at_a_wrong_place_is_posed_anew() -> None:
    """Two fifths of what it sees are of a pattern, one period off, and fit where the keyframe was taken to be."""
    walk, view = ring(COUNT, 0.0), 12
    sparse, entry = walk.sparse, walk.sparse.views[12]
    right, wrong = entry.w_T_c.copy(), entry.w_T_c.copy()
    wrong[:3, 3] += 0.6 * STEP_M * wrong[:3, 0]
    entry.w_T_c = wrong
    alike = np.arange(len(entry.seen.ids)) % 5 < 2
    seen = project(transform(np.linalg.inv(wrong), sparse.points[entry.seen.ids]), FOCAL, (0.0, 0.0))
    entry.seen.pixels[alike] = seen[alike]
    sparse.prune(view, 4.0)
    refine(sparse, [view])
    assert np.linalg.norm(entry.w_T_c[:3, 3] - wrong[:3, 3]) < 0.1 * STEP_M, "it does not find out by itself"
    assert [doubt.first for doubt in outliers(contradicted(sparse))] == [view]
    assert pose_anew(sparse)
    assert np.linalg.norm(entry.w_T_c[:3, 3] - right[:3, 3]) < 0.05 * STEP_M
    assert contradicted(sparse)[view] < 0.45, "the pattern's are wrong now"
