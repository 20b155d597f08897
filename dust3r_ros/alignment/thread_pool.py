"""Threads for work on pixels: NumPy and OpenCV do it without the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

THREADS = min(4, os.cpu_count() or 1)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@lru_cache(maxsize=1)
def thread_pool() -> ThreadPoolExecutor:
    """The pool of this process; its threads keep their workspaces from one alignment to the next."""
    return ThreadPoolExecutor(THREADS, "alignment")


def each(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """``function`` of all items, in order, on the pool's threads; many small items make few tasks.

    What it raises first, in the order of the items, is raised here.
    """
    if len(items) < 2:
        return [function(item) for item in items]
    size = -(-len(items) // (2 * THREADS)) if len(items) > 8 * THREADS else 1
    parts = [items[low : low + size] for low in range(0, len(items), size)]
    return [
        result for part in thread_pool().map(lambda part: [function(item) for item in part], parts) for result in part
    ]
