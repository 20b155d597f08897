"""Stretches of a map that are wrong are built again from what their keyframes see."""

from __future__ import annotations

import numpy as np
import pytest
from rings import ring
from scipy.spatial.transform import Rotation

from dust3r_ros.sparse.consistency import contradicted, doubts
from dust3r_ros.sparse.initialization import Options, PairFromLandmarks
from dust3r_ros.sparse.rebuilding import rebuild
from dust3r_ros.sparse.refinement import find_points, refine

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
    assert not rebuild(walk.sparse, 0, 0.15, starts)
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
