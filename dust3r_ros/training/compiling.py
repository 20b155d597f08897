"""Blocks compiled by torch, where that saves time; and the number of steps of a timed run.

A plan is made after a few steps of a stage, when the caches are warm, and renewed as the stage proceeds. The state is
written at once with a new plan, so that a run that is killed and resumed follows the plan of its earlier steps.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from dust3r_ros.network.blocks import Attention, Mlp
from dust3r_ros.network.inference import uncompile
from dust3r_ros.network.model import Dust3r
from dust3r_ros.training.log import Progress
from dust3r_ros.training.recipe import Recipe

_WARM = 2  # first steps of a stage, which are slower than the others
_FIRST_LOOK = 8  # steps after which the first plan is made
_LOOKS = (0.3, 0.6, 0.8, 0.9)  # shares of a stage's plan after which it is renewed


@dataclass
class Pace:
    """The clock of a run. ``seconds``: its total budget, of which ``reserve`` is kept for the work after training."""

    seconds: float
    reserve: float = 0.0
    _spent: list[float] = field(default_factory=list)
    _stage: int = -1
    _looked: int = 0

    def over(self, elapsed: float) -> bool:
        """Whether training has to end now, after ``elapsed`` seconds of this and earlier sittings."""
        return elapsed >= self.seconds - self.reserve

    def update(self, progress: Progress, recipe: Recipe, elapsed: float, step_seconds: float) -> bool:
        """Record the time of a step and renew the plan of the stage in ``progress`` if it is due; returns whether it
        was.

        The time left is divided among this and the later stages by the recipe's shares.
        """
        stage = progress.stage
        if stage != self._stage:
            self._stage, self._spent, self._looked = stage, [], 0
        self._spent.append(step_seconds)
        looks = [_FIRST_LOOK] + [int(progress.plan[stage] * share) for share in _LOOKS]
        due = sum(progress.within >= look for look in looks)
        if due <= self._looked or len(self._spent) <= _WARM:
            return False
        self._looked = due
        recent = sorted(self._spent[_WARM:][-200:])
        usual = sum(recent) / len(recent)
        left = self.seconds - self.reserve - elapsed
        done = min(progress.within / progress.plan[stage], 0.95) if self._looked > 1 else 0.0
        here = recipe.shares[stage] * (1 - done)
        own = here / (here + sum(recipe.shares[stage + 1 :]))
        progress.plan[stage] = progress.within + max(round(own * left / max(usual, 1e-6)), 1)
        return True


LIMIT = 60.0
"""Seconds allowed for compiling."""


def try_compiled(model: Dust3r, step: Callable[[], Any], limit: float = LIMIT) -> str:
    """Compile ``model`` and make ``step()`` once; returns an empty string, or why ``model`` stays as it was.

    Only in the main thread can a step be ended after ``limit`` seconds. The state of torch's generators is restored.
    """
    with torch.random.fork_rng():
        try:
            _compile(model)
            with _limited(limit):
                step()
            return ""
        except _TimeIsUp:
            reason = f"it takes longer than {limit:g} s"
        except Exception as error:  # the compiler may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    uncompile(model)
    return reason


def _compile(model: Dust3r) -> None:
    """Encoder blocks as a whole, decoder blocks in parts, since training reads the inputs of cross-attention."""
    for block in model.enc_blocks:
        block.compile(dynamic=False)
    for decoder in (model.dec_blocks, model.dec_blocks2):
        for module in decoder.modules():
            if isinstance(module, (Attention, Mlp)):
                module.compile(dynamic=False)


class _TimeIsUp(BaseException):
    """Not an ``Exception``, which the compiler might catch."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TimeIsUp

    before: Any = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
