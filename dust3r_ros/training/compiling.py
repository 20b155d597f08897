"""Blocks of a network compiled by torch, where that works and takes no longer than it saves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from dust3r_ros.network.blocks import Attention, Mlp
from dust3r_ros.network.model import Dust3r

LIMIT = 60.0
"""Seconds that compiling may take."""


def try_compiled(model: Dust3r, step: Callable[[], Any], limit: float = LIMIT) -> str:
    """Compile ``model`` and make ``step()`` once; an empty string, or why ``model`` stays as it was.

    Only in the main thread can a step that takes longer than ``limit`` seconds be ended. What is drawn from torch's
    generators meanwhile is drawn again later.
    """
    with torch.random.fork_rng():
        try:
            _compile(model)
            with _limited(limit):
                step()
            return ""
        except _TimeIsUp:
            reason = f"it takes longer than {limit:g} s"
        except Exception as error:  # of the compiler, which may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    for module in model.modules():
        module._compiled_call_impl = None
    torch.compiler.reset()
    return reason


def _compile(model: Dust3r) -> None:
    """Encoder blocks as a whole; of decoder blocks the parts, since training looks at what cross-attention is given."""
    for block in model.enc_blocks:
        block.compile(dynamic=False)
    for decoder in (model.dec_blocks, model.dec_blocks2):
        for module in decoder.modules():
            if isinstance(module, (Attention, Mlp)):
                module.compile(dynamic=False)


class _TimeIsUp(BaseException):
    """Not an ``Exception``, which the compiler might take for its own."""


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
