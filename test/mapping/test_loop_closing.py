"""Loops: which keyframes prove one, when the map has drifted, and when another map is known well enough to join it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from merging import SCALE, halves
from scoring import play
from sequences import SMALL, walk
from walls import PICTURE, wall

from dust3r_ros.geometry.similarity import Similarity
from dust3r_ros.mapping.association import Linker
from dust3r_ros.mapping.loop_closing import LoopClosing, Meetings
from dust3r_ros.mapping.mapper import Mapper
from dust3r_ros.mapping.reconstruction import Reconstruction
from dust3r_ros.sparse.sparse_map import SparseMap
from dust3r_ros.tracking import no_tracks


def matches(count: int) -> np.ndarray:
    return np.stack([np.arange(count)] * 2, axis=1)


def test_three_recent_keyframes_must_see_another_map() -> None:
    meetings = Meetings()
    assert meetings.add(4, matches(30)) is None
    assert meetings.add(5, matches(0)) is None, "it saw nothing"
    assert meetings.add(9, matches(20)) is None
    told = meetings.add(10, matches(10))
    assert told is not None
    assert len(told[0]) == 60 and np.bincount(told[1])[[4, 9, 10]].tolist() == [30, 20, 10]


def test_what_was_seen_long_ago_does_not_count() -> None:
    meetings = Meetings()
    assert meetings.add(0, matches(30)) is None and meetings.add(1, matches(30)) is None
    assert meetings.add(13, matches(30)) is None
    assert meetings.add(14, matches(30)) is None
    told = meetings.add(15, matches(30))
    assert told is not None and set(told[1].tolist()) == {13, 14, 15}


@pytest.mark.parametrize("witnesses, fits", [(1, False), (2, False), (3, True)])
def test_another_map_fits_where_enough_keyframes_agree(witnesses: int, fits: bool) -> None:
    both, state = halves(), Reconstruction(SMALL)
    other = Reconstruction(SMALL)
    state.sparse, other.sparse = both.target, both.source
    told = np.arange(len(both.matches)) % witnesses
    found = LoopClosing(state, Linker(state)).fit(other, both.matches, told)
    assert (found is not None) is fits
    if found is not None:
        assert found.target_S_source.scale == pytest.approx(1 / SCALE, rel=0.02)


def test_maps_that_share_nothing_do_not_fit() -> None:
    both, state, other = halves(), Reconstruction(SMALL), Reconstruction(SMALL)
    state.sparse, other.sparse = both.target, both.source
    wrong = np.stack([both.matches[:, 0], np.roll(both.matches[:, 1], 7)], axis=1)
    assert LoopClosing(state, Linker(state)).fit(other, wrong, np.arange(len(wrong)) % 3) is None


@pytest.mark.parametrize("right, folds", [(0, False), (1, True)])
def test_maps_of_things_that_look_alike_from_one_side_would_fold(right: int, folds: bool) -> None:
    """Joined by what is the same in both, one has something else beside it."""
    state, other = wall([0] * 4), wall([right] * 4, first=1)
    before = [view.w_T_c.copy() for view in state.sparse.views]
    same = np.stack([np.arange(PICTURE)] * 2, axis=1)
    assert LoopClosing(state, Linker(state)).folds(other, Similarity.identity(), same) is folds
    assert len(state.records) == len(state.sparse.views) == 4, "it was tried on a copy"
    assert all(np.array_equal(view.w_T_c, w_T_c) for view, w_T_c in zip(state.sparse.views, before, strict=True))


def test_a_second_lap_is_linked_with_the_first() -> None:
    """Keyframes of the second lap share landmarks with those that stood there before; the gap is closed."""
    sequence = walk("orbit")
    mapper = Mapper(replace(SMALL, dense=False, focal=sequence.focal))
    play(mapper, sequence)
    first = len(mapper.submap)
    again = replace(sequence, stamps_ns=sequence.stamps_ns + 10**10)
    play(mapper, again)
    views = mapper.submap.state.sparse.views
    assert len(views) > first
    shared = [
        max(len(np.intersect1d(views[late].seen.ids, views[early].seen.ids)) for early in range(first))
        for late in range(first, len(views))
    ]
    assert min(shared) >= 25
    loops = LoopClosing(mapper.submap.state, Linker(mapper.submap.state))
    assert not any(loops.has_drifted(late, [0]) for late in range(first, len(views)))
    view = views[-1]
    view.w_T_c = view.w_T_c.copy()
    view.w_T_c[:3, 3] += 0.3 * mapper.submap.unit(len(views) - 1)
    assert loops.has_drifted(len(views) - 1, [0]) and not loops.has_drifted(len(views) - 1, []), (
        "without a link nobody knows"
    )


def test_a_place_that_the_map_has_elsewhere_is_not_linked_but_claimed() -> None:
    """A second lap in a map whose first lap was moved away: by the landmarks of both sides, or of the older one."""
    sequence = walk("orbit")
    mapper = Mapper(replace(SMALL, dense=False, focal=sequence.focal))
    play(mapper, sequence)
    state = mapper.submap.state
    sparse, last = state.sparse, len(state.records) - 1
    features = state.records[0].features
    record = replace(state.records[0], features=features, feature_ids=sparse.landmarks.new(len(features.pixels)))
    loops = LoopClosing(state, Linker(state))
    state.append(record)
    unit, merged = mapper.submap.unit(0), list[np.ndarray]()
    for placed, shift in ((False, 0.0), (False, 3.0), (True, 3.0)):
        w_T_c = sparse.views[0].w_T_c.copy()
        w_T_c[0, 3] += shift * unit
        index = sparse.add(0, no_tracks(), w_T_c) if last + 1 == len(sparse.views) else last + 1
        sparse.views[index].w_T_c = w_T_c
        own = sparse.landmarks.resolved(state.records[0].feature_ids)
        sparse.points[record.feature_ids] = sparse.points[own] + [shift * unit, 0.0, 0.0] if placed else np.nan
        before = len(sparse.landmarks.aliases()[1])
        if shift:
            assert loops.link(index, [0]) == [] and loops.gap is None
            (wide,) = loops.wide
            assert wide.gap.px > 5 and len(wide.pairs) > 100 and (wide.gap.first, wide.gap.second) == (0, index)
            np.testing.assert_allclose(wide.gap.a, wide.gap.b, atol=0.02 * unit)
            assert len(sparse.landmarks.aliases()[1]) == before, "nothing was merged"
        else:
            pairs = Linker(state).pairs([0], index)[0]
            assert np.nanmedian(loops._off_px(index, pairs)) < 1.0
            known = sparse.landmarks.resolved(pairs[:, 0])
            elsewhere = known[np.isfinite(sparse.points[known, 0])][:20]
            right = sparse.points[elsewhere]
            sparse.points[elsewhere] += [0.0, 0.0, 0.5 * unit]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(SparseMap, "merge", lambda _, first, second: merged.append(first))
                assert loops.link(index, [0]) == [0]
            sparse.points[elsewhere] = right
            assert len(merged[0]) > 0.7 * len(pairs)
            assert not np.isin(sparse.landmarks.resolved(merged[0]), elsewhere).any(), "wrong matches among right ones"
