"""Setup of every helper process of training. No torch."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress

from dust3r_ros.scenes import raster

_PR_SET_PDEATHSIG = 1


def settle(parent: int | None) -> None:
    """One thread of OpenCV, since workers share the processors; end with the ``parent``, and leave Ctrl-C to it."""
    if raster.cv2 is not None:
        raster.cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError, AttributeError):  # Linux: a parent that is killed cannot end its children itself
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:  # the parent ended before the request
        os._exit(1)
