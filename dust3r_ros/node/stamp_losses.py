"""Images that a camera stamped and that never came, counted from the gaps between the stamps that did. No ROS."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

# A step is judged by this many steps before it and after it.
WINDOW = 20
# With fewer steps there is no saying what the period is.
_FEWEST = 5
# A camera that stamps nothing for so long (ns) pauses; at low rates, for so many periods.
PAUSE_NS = 1_000_000_000
_PAUSE_PERIODS = 5.0
# Steps of one period are this far around it at most.
_JITTER = 1.4


class StampLosses:
    """Counts losses of one camera; ``lost`` lags ``WINDOW`` images behind, so that what comes after a gap is known.

    The period is that of the steps around a gap, told by the shortest among them, so it is found even where most images
    are lost. A gap counts only where the camera had the same period before and after it: a camera that goes from 30 to
    15 Hz, or that pauses, loses nothing. A camera that leaves images out by itself looks the same as a transport that
    does. ``seen`` are the images that were judged.
    """

    def __init__(self) -> None:
        self.lost = self.seen = 0
        self.restart()

    def restart(self) -> None:
        """The next stamp follows none: the camera, or who listens to it, began anew. The count stays."""
        self._newest: int | None = None
        self._before: deque[int] = deque(maxlen=WINDOW)
        self._after: deque[int] = deque()

    def stamped(self, stamp_ns: int) -> None:
        """An image came."""
        newest, self._newest = self._newest, stamp_ns
        if newest is None or stamp_ns == newest:
            return
        if stamp_ns < newest:
            self.restart()
            self._newest = stamp_ns
            return
        self._after.append(stamp_ns - newest)
        if len(self._after) > WINDOW:
            self._judge(self._after.popleft())

    def _judge(self, step: int) -> None:
        self.seen += 1
        periods = [period(steps) for steps in (self._before, self._after) if len(steps) >= _FEWEST]
        self._before.append(step)
        if not periods or step > max(PAUSE_NS, _PAUSE_PERIODS * max(periods)):
            return
        self.lost += max(0, round(step / max(periods)) - 1)


def period(steps: Sequence[int] | deque[int]) -> float:
    """The period (ns) behind steps between stamps of which some are several periods long.

    The median of those near the second shortest: one freak does not tell it, nor do losses of most images.
    """
    ordered = sorted(steps)
    shortest = ordered[min(1, len(ordered) - 1)]
    return float(median(step for step in ordered if shortest / _JITTER <= step <= _JITTER * shortest))
