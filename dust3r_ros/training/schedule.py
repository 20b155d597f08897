"""Learning rate over a run: linear warm-up, then half a cosine (SGDR, Loshchilov & Hutter 2017)."""

from __future__ import annotations

import math


def rate(done: float, peak: float, warmup: float, final: float = 0.01) -> float:
    """Learning rate when the share ``done`` of a schedule, in (0, 1], is behind after this step.

    It grows over the first ``warmup`` (a share, too) to ``peak`` and falls to ``final * peak`` at the end. It
    depends on nothing else, so a run that is resumed gets the same rates.
    """
    if done < warmup:
        return peak * done / warmup
    falling = min((done - warmup) / max(1.0 - warmup, 1e-9), 1.0)
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * falling)) / 2)
