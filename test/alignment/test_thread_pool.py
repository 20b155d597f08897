"""Work on several threads comes back in order, with the first error."""

from __future__ import annotations

import threading

import pytest

from dust3r_ros.alignment.thread_pool import THREADS, each, thread_pool


@pytest.mark.parametrize("count", [0, 1, 5, 8 * THREADS + 1, 500])
def test_results_come_in_order(count: int) -> None:
    assert each(lambda item: item**2, list(range(count))) == [item**2 for item in range(count)]


def test_many_items_are_few_tasks_and_the_pool_stays() -> None:
    named = set(each(lambda _: threading.current_thread().name, list(range(200))))
    assert 1 <= len(named) <= THREADS and all(name.startswith("alignment") for name in named)
    assert thread_pool() is thread_pool()


def test_the_first_error_in_order_is_raised() -> None:
    def refuse(item: int) -> int:
        if item % 30 == 17:
            raise ValueError(f"item {item}")
        return item

    for items in (list(range(20)), list(range(400))):
        with pytest.raises(ValueError, match=r"^item 17$"):
            each(refuse, items)
