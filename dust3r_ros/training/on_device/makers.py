"""Processes that draw up worlds and paint materials in advance. They do not import torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from dust3r_ros.errors import InputError
from dust3r_ros.geometry.processes import settle_worker
from dust3r_ros.scenes.endless.stock import USES, material, window
from dust3r_ros.scenes.endless.worlds import Blueprint, draw_up
from dust3r_ros.types import Image


class Makers:
    """Blueprints of the worlds ``first``, ``first + step``, ... and the materials they may need, in order.

    ``workers`` processes make them, ``ahead`` worlds in advance; with 0 workers they are made on demand.
    The results are the same for any number of workers. Close it after use.
    """

    def __init__(self, seed: tuple[int, ...], first: int, step: int = 1, workers: int = 0, ahead: int = 4) -> None:
        self.seed, self.step = seed, step
        self._next = self._asked = first
        self._ahead = ahead * step
        self._worlds: dict[int, Future[Blueprint]] = {}
        self._materials: dict[tuple[str, int], Future[Image]] = {}
        self._pool = None
        if workers:
            context = multiprocessing.get_context("spawn")  # a fork would inherit the GPU and torch's threads
            self._pool = ProcessPoolExecutor(workers, context, initializer=_alone, initargs=(os.getpid(),))
            self._ask()

    def blueprint(self) -> tuple[int, Blueprint]:
        """Number and blueprint of the next world. Raises ``InputError`` when a process was killed."""
        number, self._next = self._next, self._next + self.step
        if self._pool is None:
            return number, draw_up(self.seed, number)
        self._ask()
        return number, self._result(self._worlds.pop(number))

    def material(self, use: str, number: int) -> Image:
        """The slot (516, 772, 3) of a material. Raises as ``blueprint``."""
        if self._pool is None:
            return material(self.seed, use, number)
        future = self._materials.pop((use, number), None) or self._submit(_painted, self.seed, use, number)
        return self._result(future)

    def close(self) -> None:
        """End the processes, discarding unfinished work."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self) -> None:
        """Order everything for the next ``ahead`` worlds."""
        while self._asked <= self._next + self._ahead:
            for use in USES:
                known = window(use, self._asked - self.step) if self._worlds or self._materials else range(0)
                for number in window(use, self._asked):
                    if number not in known:
                        self._materials.setdefault((use, number), self._submit(_painted, self.seed, use, number))
            self._worlds[self._asked] = self._submit(draw_up, self.seed, self._asked)
            self._asked += self.step

    def _submit(self, work: Callable[..., Any], *given: Any) -> Future[Any]:
        assert self._pool is not None, "processes make it"
        try:
            return self._pool.submit(work, *given)
        except BrokenProcessPool as error:
            raise _gone() from error

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise _gone() from error


def _gone() -> InputError:
    return InputError(
        "a process that draws up worlds was ended from outside; if memory is short, use fewer workers (--workers)"
    )


def _painted(seed: tuple[int, ...], use: str, number: int) -> Image:
    return np.asarray(material.__wrapped__(seed, use, number))  # the caller keeps it


def _alone(parent: int) -> None:
    """SIGTERM is left to the parent too: it is often sent to all processes of a group."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    settle_worker(parent)
