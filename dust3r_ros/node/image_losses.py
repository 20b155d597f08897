"""Images that never came: counted from stamps; what a process asks of its middleware so that few are lost.

Measured at 640 x 480, 30 Hz, two cores: a reliable image of a publisher with default settings comes after 14 ms without
this, after 7 ms by shared memory, after 2 ms by sockets that hold it; a best-effort one in 19, 29 and 100 of 100 cases.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
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

    The period is the shortest of the steps around a gap, so it is found even where most images
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


# Settings of Fast DDS, the default middleware, for messages as large as images.
PROFILES = Path(__file__).with_name("fastdds.xml")
# The same, but images are received by sockets.
SOCKETS = Path(__file__).with_name("fastdds_sockets.xml")
# What Linux must let a socket hold for that: two images of 640 x 480, or one of 1280 x 720; it counts double.
_SOCKET_BYTES = 1 << 21
_LARGEST = Path("/proc/sys/net/core/rmem_max")
# By one of these a user has settings of their own, which are left alone.
_OF_USER = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")
# Parameters of mallopt (malloc.h of glibc) and the bytes they get; MMAP_THRESHOLD takes no more than 32 MiB.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT = {_MMAP_THRESHOLD: 1 << 25, _TRIM_THRESHOLD: 1 << 28, _TOP_PAD: 1 << 24}


def prepare() -> None:
    """Both; call it first in a process."""
    keep_memory()
    use_profiles()


def keep_memory() -> bool:
    """Have malloc keep the memory of images for the next ones; returns whether it can (glibc).

    By default it maps every block of that size anew, and the kernel clears it page by page at each image.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in _KEPT.items())


def use_profiles() -> bool:
    """Let Fast DDS read ``PROFILES`` or ``SOCKETS`` when ROS starts; returns whether it will.

    The user's own settings go first.
    """
    if any(name in os.environ for name in _OF_USER) or Path("DEFAULT_FASTRTPS_PROFILES.xml").exists():
        return False
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(SOCKETS if sockets_hold_images() else PROFILES)
    return True


def sockets_hold_images() -> bool:
    """Whether Linux lets a socket have room for whole images."""
    try:
        return int(_LARGEST.read_text()) >= _SOCKET_BYTES
    except (OSError, ValueError):  # not Linux
        return False
