"""Reading and decoding in a thread of its own while the frames before are mapped."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")
_POLL_S = 0.1


def read_ahead(items: Iterable[_T], most: int = 4) -> Iterator[_T]:
    """The same items in the same order, at most ``most`` of them made before they are asked for.

    An error in the making is raised where the item would have come. The thread ends with the iteration,
    also with one that is given up.
    """
    ready: queue.Queue[tuple[str, object]] = queue.Queue(max(1, most))
    given_up = threading.Event()

    def offer(kind: str, value: object) -> bool:
        while not given_up.is_set():
            try:
                ready.put((kind, value), timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not offer("item", item):
                    return
            offer("end", None)
        except BaseException as error:
            offer("error", error)

    maker = threading.Thread(target=make, name="read-ahead", daemon=True)
    maker.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            if kind == "end":
                return
            yield value  # type: ignore[misc]
    finally:
        given_up.set()
        maker.join()
