"""Processes that are forked from one that has imported what they need: a start without the imports."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any

_FORKS = multiprocessing.get_context("forkserver")
_running: list[tuple[str, ...]] = []  # what the process that forks has imported; Python has one at a time


def forked(preload: tuple[str, ...], target: Callable[..., object], *arguments: Any) -> Any:
    """A ``Process`` that runs ``target(*arguments)``, started, with the modules of ``preload``.

    A test process that had others preloaded before has no such process left that runs.
    """
    if _running != [preload]:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
        _FORKS.set_forkserver_preload(list(preload))
        _running[:] = [preload]
    process = _FORKS.Process(target=target, args=arguments)
    process.start()
    return process
