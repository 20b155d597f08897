"""What is kept up to a number of bytes."""

from __future__ import annotations

from dataclasses import dataclass

from dust3r_ros.backends.base import ByteCache

BYTES = 1200


@dataclass(frozen=True)
class Value:
    number: int
    size: int = BYTES


def filled(*keys: tuple[int, int], budget: int = 3 * BYTES) -> ByteCache[tuple[int, int], Value]:
    cache = ByteCache[tuple[int, int], Value](budget)
    for number, key in enumerate(keys):
        cache.put(key, Value(number))
    return cache


def test_a_value_comes_out_as_it_went_in() -> None:
    cache = filled()
    assert cache.get((1, 2)) is None and cache.use((1, 2)) is None and (1, 2) not in cache
    cache.put((1, 2), Value(7))
    assert cache.get((1, 2)) == cache.use((1, 2)) == Value(7)
    assert (2, 1) not in cache and cache.size == BYTES


def test_the_longest_unused_go_first_and_one_always_stays() -> None:
    cache = filled((0, 9), (1, 9), (2, 9))
    cache.use((0, 9))
    cache.get((1, 9))
    cache.put((3, 9), Value(3))
    assert list(cache) == [(2, 9), (0, 9), (3, 9)] and cache.size == 3 * BYTES
    cache.put((3, 9), Value(4))
    assert len(cache) == 3, "one put again takes no more room"
    tiny = filled((0, 1), (1, 0), budget=1)
    assert (0, 1) not in tiny and tiny.get((1, 0)) is not None and tiny.size == BYTES


def test_dropping_some_and_all() -> None:
    cache = filled((0, 1), (1, 0), (1, 2), (2, 3), budget=10 * BYTES)
    cache.drop(key for key in cache if 1 in key)
    cache.drop([(5, 6)])
    assert list(cache) == [(2, 3)] and cache.size == BYTES
    cache.drop(cache)
    assert len(cache) == 0 and cache.size == 0
