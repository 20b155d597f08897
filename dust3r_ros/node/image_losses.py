"""Counts lost images by their stamps, and sets up memory and middleware so that few are lost.

Measured at 640 x 480, 30 Hz, two cores, with a publisher with default settings: a reliable image arrives after 14 ms
without this, 7 ms by shared memory, 2 ms by sockets that hold it; of 100 best-effort images, 19, 29 and 100 arrive.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

# A step is judged by this many steps before and after it.
WINDOW = 20
# With fewer steps the period is unknown.
_FEWEST = 5
# A longer gap in stamps (ns; at low rates, in periods) is a pause, not a loss.
PAUSE_NS = 1_000_000_000
_PAUSE_PERIODS = 5.0
# A step of one period differs from it by at most this factor.
_JITTER = 1.4


class StampLosses:
    """Counts lost images of one camera; ``lost`` lags ``WINDOW`` images behind, as a gap is judged from both sides.

    The period is taken from the shortest steps around a gap, so it is found even if most images are lost. The longer of
    the periods before and after a gap counts: a camera that goes from 30 to 15 Hz, or pauses, loses nothing. Images
    skipped by the camera look the same as images lost in transport. ``seen`` counts the judged images.
    """

    def __init__(self) -> None:
        self.lost = self.seen = 0
        self.restart()

    def restart(self) -> None:
        """Ignore the gap before the next stamp: the camera or its subscription restarted. The count stays."""
        self._newest: int | None = None
        self._before: deque[int] = deque(maxlen=WINDOW)
        self._after: deque[int] = deque()

    def stamped(self, stamp_ns: int) -> None:
        """An image arrived."""
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
    """The period (ns) of a camera, from steps between stamps, some of which span several periods.

    It is the median of the steps near the second shortest: robust to one outlier and to losing most images.
    """
    ordered = sorted(steps)
    shortest = ordered[min(1, len(ordered) - 1)]
    return float(median(step for step in ordered if shortest / _JITTER <= step <= _JITTER * shortest))


# Settings of Fast DDS, the default middleware, for image-sized messages.
PROFILES = Path(__file__).with_name("fastdds.xml")
# The same, but images are received through sockets.
SOCKETS = Path(__file__).with_name("fastdds_sockets.xml")
# The socket buffer needed for that: two images of 640 x 480, or one of 1280 x 720; Linux counts double.
_SOCKET_BYTES = 1 << 21
_LARGEST = Path("/proc/sys/net/core/rmem_max")
# If the user has set one of these, their settings are left alone.
_OF_USER = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")
# Parameters of mallopt (glibc's malloc.h) and their values in bytes; MMAP_THRESHOLD is at most 32 MiB.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT = {_MMAP_THRESHOLD: 1 << 25, _TRIM_THRESHOLD: 1 << 28, _TOP_PAD: 1 << 24}


def prepare() -> None:
    """Set up memory and middleware; call this first in a process."""
    keep_memory()
    use_profiles()


def keep_memory() -> bool:
    """Have malloc reuse the memory of images; returns whether it can (glibc).

    By default it maps each block of that size anew, and the kernel clears it page by page for every image.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in _KEPT.items())


def release_memory() -> None:
    """Return what malloc keeps and nobody uses to the system, where it can (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def use_profiles() -> bool:
    """Have Fast DDS read ``PROFILES`` or ``SOCKETS`` when ROS starts; returns whether it will.

    The user's own settings take precedence.
    """
    if any(name in os.environ for name in _OF_USER) or Path("DEFAULT_FASTRTPS_PROFILES.xml").exists():
        return False
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(SOCKETS if sockets_hold_images() else PROFILES)
    return True


def sockets_hold_images() -> bool:
    """Whether Linux allows socket buffers that hold whole images."""
    try:
        return int(_LARGEST.read_text()) >= _SOCKET_BYTES
    except (OSError, ValueError):  # not Linux
        return False
