"""Reading ahead changes nothing but when things are read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count

import pytest

from dust3r_ros.errors import InputError
from dust3r_ros.io.read_ahead import read_ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "read-ahead"]


@pytest.mark.parametrize("most", [0, 1, 7])
def test_the_items_are_the_same_in_the_same_order(most: int) -> None:
    assert list(read_ahead(range(200), most)) == list(range(200))
    assert list(read_ahead([], most)) == [] and threads() == []


def test_no_more_are_made_than_were_allowed() -> None:
    made: list[int] = []
    asked = threading.Semaphore(0)

    def make() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number
            asked.release()

    items = read_ahead(make(), most=3)
    for expected in range(50):
        assert next(items) == expected
        assert len(made) <= expected + 1 + 3 + 1  # taken, waiting, and one in hand
    assert list(items) == []


def test_they_are_made_while_nobody_asks() -> None:
    made = threading.Semaphore(0)

    def make() -> Iterator[int]:
        for number in range(4):
            yield number
            made.release()

    items = read_ahead(make(), most=3)
    assert next(items) == 0
    for _ in range(3):
        assert made.acquire(timeout=10)
    assert list(items) == [1, 2, 3]


def test_an_error_comes_where_its_item_would_have() -> None:
    def make() -> Iterator[int]:
        yield 1
        yield 2
        raise InputError("broken")

    items = read_ahead(make())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(InputError, match="broken"):
        next(items)
    assert threads() == []


def test_a_reader_that_is_given_up_ends() -> None:
    items = read_ahead(count(), most=2)
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert threads() == []
