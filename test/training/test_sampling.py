"""Which pair comes when: equal turns, no pair twice in a round, nothing that is held out, the same for everybody."""

from __future__ import annotations

from collections import Counter

import pytest
from small_worlds import NoisyRoom

from dust3r_ros.errors import InputError

pytest.importorskip("torch", reason="torch is not installed")

from dust3r_ros.training.batches import Sampling

SOURCES = [NoisyRoom("endless"), NoisyRoom("large", 50), NoisyRoom("small", 4)]


def test_every_epoch_has_equally_many_of_every_source() -> None:
    sampling = Sampling(SOURCES, 30, 1)
    for epoch in range(3):
        places = [sampling.place(position) for position in range(30 * epoch, 30 * epoch + 30)]
        assert Counter(place.source for place in places) == {0: 10, 1: 10, 2: 10}
    orders = [[sampling.place(30 * epoch + k).source for k in range(30)] for epoch in range(2)]
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


def test_no_pair_comes_again_before_all_others_came() -> None:
    sampling = Sampling(SOURCES, 30, 1)
    places = [sampling.place(position) for position in range(300)]
    for source, count in ((1, 50), (2, 4)):
        indices = [place.index for place in places if place.source == source]
        assert len(indices) == 100 and all(
            Counter(indices[k : k + count]).most_common(1)[0][1] == 1 for k in range(0, 100, count)
        )
        assert Counter(indices[:100]) == Counter({index: 100 // count for index in range(count)})
    endless = [place for place in places if place.source == 0]
    assert len(endless) == 100 and all(place.index == place.position for place in endless), "neighbours share a world"


def test_what_is_held_out_is_never_trained_on() -> None:
    out = [frozenset(), frozenset({0, 10, 20}), frozenset({3})]
    sampling = Sampling(SOURCES, 30, 1, out)
    seen = {(place.source, place.index) for place in map(sampling.place, range(600))}
    seen |= {(p.source, p.index) for p in (sampling.instead(sampling.place(k), 1) for k in range(200))}
    assert not seen & {(1, 0), (1, 10), (1, 20), (2, 3)} and (1, 11) in seen and (2, 0) in seen


def test_the_same_whatever_was_asked_before() -> None:
    one, other = Sampling(SOURCES, 30, 1), Sampling(SOURCES, 30, 1)
    for position in (4, 400, 31, 4, 29, 30, 999):
        assert one.place(position) == Sampling(SOURCES, 30, 1).place(position)
    for position in range(500):
        other.place(position)
    assert one.place(77) == other.place(77)
    assert one.rng(5).random() == other.rng(5).random() != one.rng(6).random()
    assert [Sampling(SOURCES, 30, 2).place(k) for k in range(30)] != [one.place(k) for k in range(30)]


def test_nothing_to_train_on_is_reported() -> None:
    with pytest.raises(InputError, match="no source of pairs"):
        Sampling([], 30, 1)
    with pytest.raises(InputError, match="'two' holds no pair"):
        Sampling([NoisyRoom("two", 2)], 30, 1, [frozenset({0, 1})])
