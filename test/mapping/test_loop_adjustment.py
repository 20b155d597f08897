"""Wide loops: which are closed, which would tear the map, and when one that was refused is tried again."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from rings import LANDMARKS, Ring, claimed, ring, unlinked
from sequences import SMALL

from dust3r_ros.mapping.loop_adjustment import LoopAdjustment, WideLoop
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.sparse.consistency import contradicted

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
