"""sparse/landmarks.py: ids, mergers and positions of landmarks."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dust3r_ros.sparse.landmarks import BLOCK, Landmarks


def test_numbers_go_on_and_positions_survive_growth() -> None:
    landmarks = Landmarks()
    first = landmarks.new(700)
    landmarks.positions[first] = np.arange(700)[:, None]
    more = landmarks.new(5000)
    assert more[0] == 700 and len(landmarks) == 5700
    np.testing.assert_array_equal(landmarks.positions[:700, 1], np.arange(700))
    assert np.isnan(landmarks.positions[700:]).all()


def test_the_older_stays_and_takes_a_position() -> None:
    landmarks = Landmarks()
    landmarks.new(4)
    landmarks.positions[3] = 1.0, 2.0, 3.0
    assert landmarks.merge(np.array([3]), np.array([1])).tolist() == [3]
    np.testing.assert_array_equal(landmarks.positions[1], [1.0, 2.0, 3.0])
    assert np.isnan(landmarks.positions[3]).all()
    assert landmarks.merge(np.array([3]), np.array([1])).tolist() == [], "they are one already"


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_mergers_are_an_equivalence(pairs: list[tuple[int, int]]) -> None:
    landmarks = Landmarks()
    landmarks.new(20)
    groups = {i: {i} for i in range(20)}
    for a, b in pairs:  # one at a time, so that ids that are gone are merged again
        landmarks.merge(np.array([a]), np.array([b]))
        union = groups[a] | groups[b]
        for i in union:
            groups[i] = union
    np.testing.assert_array_equal(landmarks.resolved(np.arange(20)), [min(groups[i]) for i in range(20)])


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), min_size=1, max_size=40))
def test_many_at_once_are_as_one_by_one(pairs: list[tuple[int, int]]) -> None:
    together, single = Landmarks(), Landmarks()
    together.new(20), single.new(20)
    a, b = np.array(pairs).T
    gone = together.merge(a, b)
    for i, j in pairs:
        single.merge(np.array([i]), np.array([j]))
    ids = np.arange(20)
    np.testing.assert_array_equal(together.resolved(ids), single.resolved(ids))
    np.testing.assert_array_equal(gone, np.flatnonzero(together.resolved(ids) != ids))


def test_landmarks_of_another_session() -> None:
    landmarks, again = Landmarks(), Landmarks()
    landmarks.new(3 * BLOCK)
    landmarks.merge(np.array([5, 9]), np.array([2, 5]))
    landmarks.merge(np.array([BLOCK + 1]), np.array([2 * BLOCK + 7]))
    assert [blocks.tolist() for blocks in landmarks.merges] == [[0], [2]], "where an id went"
    again.restore(landmarks.aliases.copy())
    every = np.arange(3 * BLOCK)
    np.testing.assert_array_equal(again.resolved(every), landmarks.resolved(every))
    assert np.isnan(again.positions).all() and again.new(1).tolist() == [3 * BLOCK]
