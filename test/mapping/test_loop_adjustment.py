"""Loops in maps too large to adjust all landmarks; wide loops: which are closed, and which would tear the map."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
from rings import LANDMARKS, Ring, claimed, ring, unlinked
from sequences import SMALL

from dust3r_ros.geometry.rigid import transform
from dust3r_ros.mapping.loop_adjustment import LoopAdjustment, LoopGap, WideLoop, relax
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.sparse.consistency import contradicted
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


COUNT = 72
PAIRS = np.stack([np.arange(LANDMARKS), LANDMARKS * COUNT + np.arange(LANDMARKS)], axis=1)


def loops_of(walk: Ring) -> LoopAdjustment:
    state = Reconstruction(SMALL)
    state.sparse = walk.sparse
    for keyframe in range(len(walk.w_T_c)):
        state.records.append(SimpleNamespace(before=keyframe - 1 if keyframe else None))  # type: ignore[arg-type]
    for first, second in walk.edges:
        state.graph.connect(first, second, 1.0, ("camera", "camera"))
    state.adjusted = COUNT
    return LoopAdjustment(state)


def tried(loops: LoopAdjustment, *wide: WideLoop):
    assert loops.claim(wide)
    loops.begin()
    trial = loops.trial()
    loops.tried(trial.accepted)
    return trial


@pytest.mark.parametrize("drift", [3e-3, 8e-3])
def test_a_camera_that_returns_closes_the_loop(drift: float) -> None:
    """Also one with a gap too wide for an adjustment of landmarks alone. The map itself stays as it is."""
    walk = unlinked(ring(COUNT, drift))
    before, poses = walk.ate, [view.w_T_c.copy() for view in walk.sparse.views]
    trial = tried(loops_of(walk), claimed(walk, 0, COUNT - 1, PAIRS))
    np.testing.assert_array_equal(poses, [view.w_T_c for view in walk.sparse.views])
    assert trial.accepted == [0] and trial.sparse is not None
    np.testing.assert_array_equal(trial.pairs, PAIRS)
    closed = Ring(trial.sparse, walk.w_T_c, walk.edges, walk.here, walk.there)
    assert closed.ate < 0.3 * before


@pytest.mark.parametrize(("std", "closes"), [(0.2, True), (0.001, False)], ids=["focal open", "focal known"])
def test_a_loop_that_needs_another_camera_is_false(std: float, closes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing it takes a third off the focal, of which the map knows little, or much."""
    walk = unlinked(ring(COUNT, 3e-3))
    camera = walk.sparse.intrinsics[0]
    right = camera.focal
    camera.fixed, camera.focal, camera.prior, camera.std = False, 1.5 * right, 1.5 * right, std
    trial = tried(loops_of(walk), claimed(walk, 0, COUNT - 1, PAIRS))
    assert trial.accepted == ([0] if closes else [])
    assert not closes or trial.sparse.intrinsics[0].focal < 1.1 * right


def test_places_that_look_alike_are_not_joined_however_often() -> None:
    """Half round the block, all is as at the start. It is tried once, with three of such loops, with nine."""
    walk = ring(COUNT, 0.0, alike=36)
    loops = loops_of(walk)
    trials = []
    for step in range(10):
        old = step * LANDMARKS + np.arange(LANDMARKS)
        pairs = np.stack([old, old + 36 * LANDMARKS], axis=1)
        if loops.claim([claimed(walk, step, 36 + step, pairs)]):
            loops.begin()
            trial = loops.trial()
            loops.tried(trial.accepted)
            trials.append((step + 1, trial.accepted))
    assert trials == [(1, []), (3, []), (9, [])]
    assert np.nanmax(contradicted(walk.sparse)) < 0.1, "the map is as it was"


def test_of_a_place_that_looks_alike_only_the_newest_loops_are_kept() -> None:
    loops, gap = loops_of(ring(COUNT, 0.0)), LoopGap(0, 20, np.zeros((1, 3)), np.zeros((1, 3)), 9.0)
    tried = []
    for step in range(100):
        if loops.claim([WideLoop(gap, np.full((2, 2), step))]):
            loops.begin()
            loops.tried([])
            tried.append(step + 1)
    (claim,) = loops._claims
    assert tried == [1, 3, 9, 27, 81] and len(claim.loops) == 30
    assert claim.pairs.min() == 70 and claim.pairs.max() == 99


def test_a_claim_follows_the_numbers_of_keyframes() -> None:
    """Keyframes 20 and, later, 0 are culled; with an end of its loop, a claim goes."""
    walk = unlinked(ring(COUNT, 3e-3))
    loops, loop = loops_of(walk), claimed(walk, 0, COUNT - 1, PAIRS)
    loops.claim([loop])
    loops.gaps = [loop.gap]
    loops.renumber(np.where(np.arange(COUNT) == 20, -1, np.arange(COUNT) - (np.arange(COUNT) > 20)))
    assert (loops.gaps[0].first, loops.gaps[0].second) == (0, COUNT - 2)
    assert [(claim.loops[0].gap.first, claim.loops[0].gap.second) for claim in loops._claims] == [(0, COUNT - 2)]
    loops.renumber(np.arange(-1, COUNT - 2))
    assert not loops.gaps and not loops._claims


def test_a_claim_follows_the_unit_of_the_map() -> None:
    walk = unlinked(ring(COUNT, 3e-3))
    loops, loop = loops_of(walk), claimed(walk, 0, COUNT - 1, PAIRS)
    loops.claim([loop])
    walk.sparse.move(np.eye(4), 5.0)
    loops.scale(5.0)
    loops.begin()
    assert loops.trial().accepted == [0]
    loops.clear()
    loops.begin()
    assert loops.trial().sparse is None
