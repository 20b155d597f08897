"""A thread with a bounded queue, so that the executor never waits for the mapper."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
_Job = tuple[Callable[[], Any], Future[Any]]


class Worker(Generic[Item]):
    """Runs ``work(item)`` for every item offered, in order, in one thread of its own.

    Waiting items weigh at most ``size`` in total, each ``weigh(item)`` (default: 1); a further item pushes the oldest
    out (counted in ``dropped``), but one item may always wait. Jobs given to ``submit`` go before waiting items and
    share the thread, so that what ``work`` touches needs no lock. ``on_failure`` gets whatever ``work`` raises; the
    thread lives on.
    """

    def __init__(
        self,
        work: Callable[[Item], None],
        size: float,
        on_failure: Callable[[Exception], None],
        name: str = "worker",
        weigh: Callable[[Item], float] = lambda item: 1,
        idle: Callable[[], bool] = lambda: False,
    ) -> None:
        """``idle`` does a piece of low-priority work while nothing waits, and returns whether there may be more."""
        self._work, self._idle = work, idle
        self._on_failure = on_failure
        self._items: deque[Item] = deque()
        self._jobs: deque[_Job] = deque()
        self._size, self._weigh = size, weigh
        self._load = 0.0
        self._wake = threading.Condition()
        self._stopping = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of items in the queue."""
        return len(self._items)

    def offer(self, item: Item) -> None:
        """Queue an item; never blocks."""
        with self._wake:
            if self._stopping:
                self.dropped += 1
                return
            weight = self._weigh(item)
            while self._items and self._load + weight > self._size:
                self._load -= self._weigh(self._items.popleft())
                self.dropped += 1
            self._items.append(item)
            self._load += weight
            self._wake.notify()

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        """Run ``job`` in the worker's thread before the waiting items; the future gets its result or error."""
        future: Future[Any] = Future()
        with self._wake:
            if self._stopping:
                future.set_exception(RuntimeError("the worker has stopped"))
                return future
            self._jobs.append((job, future))
            self._wake.notify()
        return future

    def clear(self) -> int:
        """Discard the waiting items; returns how many (they do not count as dropped)."""
        with self._wake:
            count = len(self._items)
            self._items.clear()
            self._load = 0.0
        return count

    def stop(self, timeout: float | None = None) -> bool:
        """End the thread after the current item and all jobs; False if it did not end within ``timeout`` seconds."""
        with self._wake:
            self._stopping = True
            self._items.clear()
            self._wake.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        more = False
        while (todo := self._next(wait=not more)) is not None:
            job, items = todo
            if job is not None:
                self._do(*job)
                more = True
                continue
            try:
                more = self._work(items[0]) is None if items else self._idle()
            except Exception as error:  # the node survives any error of the mapper
                more = False
                self._on_failure(error)

    def _next(self, wait: bool) -> tuple[_Job | None, list[Item]] | None:
        """The next job or item, or neither if nothing waits; None when the thread should end."""
        with self._wake:
            if wait:
                self._wake.wait_for(lambda: self._jobs or self._items or self._stopping)
            job = self._jobs.popleft() if self._jobs else None
            items = [self._items.popleft()] if job is None and self._items else []
            self._load -= sum(map(self._weigh, items))
            if job is None and not items and self._stopping:
                return None
            return job, items

    @staticmethod
    def _do(job: Callable[[], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(job())
        except Exception as error:
            future.set_exception(error)
