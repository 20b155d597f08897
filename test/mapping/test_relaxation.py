"""Loops with a gap too wide, in maps too large, for an adjustment of all landmarks."""

from __future__ import annotations

import time

import numpy as np
import pytest
from rings import Ring, ring

from dust3r_ros.geometry.rigid import transform
from dust3r_ros.mapping.relaxation import LoopGap, relax
from dust3r_ros.sparse.refinement import close_loop


def gap_of(walk: Ring) -> LoopGap:
    gap = LoopGap.of(walk.sparse, 0, len(walk.w_T_c) - 1, walk.here, walk.there)
    assert gap is not None
    return gap


@pytest.mark.parametrize("keyframes, drift, left", [(100, 4e-3, 0.5), (400, 2e-3, 0.2)])
def test_a_gap_is_spread_over_the_whole_walk(keyframes: int, drift: float, left: float) -> None:
    walk = ring(keyframes, drift)
    before = walk.ate
    relax(walk.sparse, walk.edges, [gap_of(walk)])
    assert walk.ate < left * before
    if keyframes == 100:
        close_loop(walk.sparse)
        assert walk.ate < 0.02 * before and walk.sparse.intrinsics[0].focal == pytest.approx(500, rel=0.01)


def test_a_gap_knows_its_width_and_needs_points_that_agree() -> None:
    walk = ring(40)
    last = walk.sparse.views[-1].w_T_c
    assert gap_of(walk).px < 20
    aside = walk.here + np.array([1.0, 0.0, 0.0])
    off = LoopGap.of(walk.sparse, 0, 0, walk.here, aside)
    depth = np.median(transform(np.linalg.inv(walk.sparse.views[0].w_T_c), walk.here)[:, 2])
    assert off is not None and off.px == pytest.approx(500 / depth, rel=0.1)
    noise = np.random.default_rng(0).normal(size=walk.there.shape) * 5
    assert LoopGap.of(walk.sparse, 0, 39, walk.here, walk.there + noise) is None
    assert LoopGap.of(walk.sparse, 0, 39, walk.here[:5], walk.there[:5]) is None
    walk.sparse.views[-1].w_T_c = None
    assert LoopGap.of(walk.sparse, 0, 39, walk.here, walk.there) is None
    walk.sparse.views[-1].w_T_c = last


def test_what_is_not_connected_stays_and_the_unit_does_not_matter() -> None:
    walk, large = ring(60, drift=1e-3), ring(60, drift=1e-3)
    gap = gap_of(walk)
    large.sparse.move(np.eye(4), 7.0)
    edges = [edge for edge in walk.edges if edge[1] < 20 or edge[0] >= 20]  # 20 to 59 and 0 to 19 meet in the gap
    alone = [edge for edge in edges if 30 not in edge]
    stood = walk.sparse.views[30].w_T_c
    relax(walk.sparse, alone, [gap])
    relax(large.sparse, alone, [gap.scaled(7.0)])
    assert walk.sparse.views[30].w_T_c is stood
    for one, other in zip(walk.sparse.views, large.sparse.views, strict=True):
        np.testing.assert_allclose(7.0 * one.w_T_c[:3, 3], other.w_T_c[:3, 3], atol=1e-5)


@pytest.mark.long
def test_a_loop_over_five_thousand_keyframes_takes_seconds() -> None:
    walk = ring(5000)
    before, gap = walk.ate, gap_of(walk)
    begin = time.process_time()
    relax(walk.sparse, walk.edges, [gap])
    close_loop(walk.sparse, [*range(20), *range(4980, 5000)])
    seconds = time.process_time() - begin
    print(f"{seconds:.1f} s of processor time; error {before:.2f} m before, {walk.ate:.2f} m after, of {0.3 * 5000} m")
    assert seconds < 5 and walk.ate < 0.1 * before
